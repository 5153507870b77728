"""What a setting of the config is, may be and does: python scripts/help.py [PATH]."""

from breedlab.cli import run

if __name__ == "__main__":
    run("help")
