"""Searches, trains, tests and exports: python scripts/launch.py experiment=NAME [PATH=VALUE ...]"""

from breedlab.cli import run

run("launch")
