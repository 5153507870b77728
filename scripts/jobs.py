"""Jobs on SageMaker: python scripts/jobs.py list|show|stop|fetch NAME"""

from breedlab.cli import run

if __name__ == "__main__":
    run("jobs")
