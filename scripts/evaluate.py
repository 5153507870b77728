"""Evaluate a model on labeled images: python scripts/evaluate.py MODEL|RUN FOLDER"""

from breedlab.cli import run

if __name__ == "__main__":  # trials in processes of their own import this file again
    run("evaluate")
