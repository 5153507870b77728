"""Classify images: python scripts/predict.py MODEL|RUN IMAGE..."""

from breedlab.cli import run

if __name__ == "__main__":  # trials in processes of their own import this file again
    run("predict")
