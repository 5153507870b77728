"""How good a model is on labelled photos: python scripts/evaluate.py MODEL|RUN FOLDER"""

from breedlab.cli import run

run("evaluate")
