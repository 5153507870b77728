"""A model for other programs: python scripts/export.py MODEL|RUN --onnx FILE"""

from breedlab.cli import run

if __name__ == "__main__":
    run("export")
