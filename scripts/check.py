"""All that is wrong with a folder of images: python scripts/check.py DIR [PATH=VALUE ...]."""

from breedlab.cli import run

if __name__ == "__main__":
    run("check")
