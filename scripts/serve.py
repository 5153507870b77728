"""A model behind HTTP on this machine: python scripts/serve.py MODEL|RUN [--host --port]."""

from breedlab.cli import run

if __name__ == "__main__":
    run("serve")
