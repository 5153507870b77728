"""Batch transform on SageMaker: python scripts/batch.py MODEL|RUN s3://BUCKET/IN s3://BUCKET/OUT"""

from breedlab.cli import run

if __name__ == "__main__":
    run("batch")
