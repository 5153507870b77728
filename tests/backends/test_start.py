"""What a training job's container starts with, run as its first process by a real shell."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import preloaded
import psutil
import pytest

from breedlab.backends.sagemaker.jobs.requests import Experiment, requests
from breedlab.backends.sagemaker.limits import violations
from breedlab.backends.sagemaker.session import AwsTarget
from breedlab.config import validate
from breedlab.config.compose import load

# $0 holds the script; /opt is the container's own for as long as it runs.
_CONTAINER = """
set -e
script=$(cat "$0")
mount -t tmpfs tmpfs /opt
mkdir -p /opt/ml/input/data/sm_drivers
printf '%s' "$script" > /opt/ml/input/data/sm_drivers/sm_train.sh
exec "$@"
"""


def can_run() -> bool:
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        return False
    apart = ["unshare", "-m", "--pid", "--fork", "--mount-proc", "true"]
    return subprocess.run(apart, capture_output=True).returncode == 0


needs_root = pytest.mark.skipif(not can_run(), reason="needs Linux and root: a process of number 1")


def command() -> list[str]:
    """What the request of a training job starts."""
    config = validate(load(["experiment=resnet34", "backend=sagemaker", "dry_run=true"]))
    place = AwsTarget("us-east-1", "arn:aws:iam::123456789012:role/Role", "bucket", "breedlab")
    experiment = Experiment(
        config, place, "dogs", "123456789012.dkr.ecr.us-east-1.amazonaws.com/a:1", "s3://b/dogs"
    )
    (request,) = requests(experiment)
    assert violations("sagemaker", "CreateTrainingJob", request.parameters) == []
    algorithm = request.parameters["AlgorithmSpecification"]
    return [*algorithm["ContainerEntrypoint"], *algorithm["ContainerArguments"]]


def start(script: str, folder: Path) -> subprocess.Popen[str]:
    file = folder / "sm_train.sh"
    file.write_text(f"#!/bin/bash\n{script}")
    apart = [
        "unshare",
        "-m",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "bash",
        "-c",
        _CONTAINER,
        str(file),
    ]
    return preloaded.FreshPopen(
        [*apart, *command()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_it_is_one_line_that_the_api_takes() -> None:
    assert all(len(part) <= 256 and len(part.splitlines()) == 1 for part in command())


def printed(out: str) -> list[str]:
    """What the scripts print, without what shells say of their jobs."""
    return [line for line in out.splitlines() if line.startswith(">")]


@needs_root
@pytest.mark.parametrize("code", [0, 1, 42, 130])
def test_the_exit_code_is_kept(code: int, tmp_path: Path) -> None:
    process = start(f'echo "> $(( $$ > 1 ))"; exit {code}', tmp_path)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, printed(out)) == (code, ["> 1"])


@needs_root
@pytest.mark.parametrize("code", [0, 7])
def test_sigterm_reaches_every_process_and_all_of_them_are_waited_for(
    code: int, tmp_path: Path
) -> None:
    """As AWS stops a job: the first process alone gets the signal, and the container ends with
    it."""
    script = f"""
    (trap 'sleep 1; echo "> the child saved"; exit' TERM; while :; do sleep .05; done) &
    trap 'echo "> told"; exit {code}' TERM
    echo ready
    while :; do sleep .05; done
    """
    process = start(script, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)  # for the child to have set its trap
    (first,) = psutil.Process(process.pid).children()  # of unshare
    first.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert printed(out) == ["> told", "> the child saved"]
    assert process.returncode == code
