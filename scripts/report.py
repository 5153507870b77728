"""A run as one page, or several compared: python scripts/report.py RUN... [--out FILE]."""

from breedlab.cli import run

if __name__ == "__main__":
    run("report")
