"""Searches, trains, tests and exports: python scripts/launch.py experiment=NAME [PATH=VALUE ...]"""

from breedlab.cli import run

if __name__ == "__main__":  # trials in processes of their own import this file again
    run("launch")
