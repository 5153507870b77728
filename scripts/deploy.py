"""A model behind an endpoint on Amazon SageMaker: python scripts/deploy.py MODEL|RUN
[--dry-run]."""

from breedlab.cli import run

if __name__ == "__main__":
    run("deploy")
