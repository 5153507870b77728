"""What a run's training did, by the debugger's rules: python scripts/debug.py RUN"""

from breedlab.cli import run

if __name__ == "__main__":  # trials in processes of their own import this file again
    run("debug")
