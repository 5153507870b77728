"""What a model sees in photos: python scripts/predict.py MODEL|RUN PHOTO..."""

from breedlab.cli import run

run("predict")
