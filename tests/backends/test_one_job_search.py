"""A search in one job that is told to stop, and started again on another machine with what it kept:
as a spot instance that is taken back, and as `jobs resume` after a stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import preloaded
import pytest

from breedlab.backends.sagemaker.jobs.source import write_source
from breedlab.config import validate
from breedlab.config.compose import load
from breedlab.tuning.trial_log import read_trial

pytestmark = pytest.mark.slow


class Machine:
    """A machine of the job: a disk of its own, and the folder that SageMaker brings from S3.

    Args:
        job: The folder that all of the job's machines share.
        number: Of the machine.
        images: The channel.
    """

    def __init__(self, job: Path, number: int, images: Path) -> None:
        disk = job / f"machine-{number}"
        disk.mkdir()
        environment = os.environ | {
            "SM_HPS": "{}",
            "SM_MODEL_DIR": str(job / "model"),
            "SM_OUTPUT_DIR": str(job / "output"),
            "SM_CHANNELS": '["training"]',
            "SM_CHANNEL_TRAINING": str(images),
            "TRAINING_JOB_NAME": "one",
            "BREEDLAB_STAGE": "run",
            "TMPDIR": str(disk),
        }
        self.process = preloaded.FreshPopen(
            [sys.executable, str(job / "source" / "entry" / "train.py")],
            env=environment,
            cwd=disk,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []

    def read_until(self, is_wanted: Callable[[str], Any]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if is_wanted(line):
                return

    def begun(self) -> list[int]:
        """The trials that began here."""
        rows = [row for line in self.lines if (row := read_trial(line))]
        return [row.number for row in rows if row.state == "running"]


def trials(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in run.glob("trials/*/trial.json")]
    return sorted(found, key=itemgetter("number"))


def test_the_trials_that_were_done_are_done(
    cloud: Callable[..., list[str]], few: Path, tmp_path: Path
) -> None:
    words = ["tuner=random", "tuner.trials=4", "tuner.max_epochs=2", "trainer.max_epochs=1"]
    words += ["backend.trials=one_job", "backend.spot=true", "debugger=none", "cache.mode=off"]
    (tmp_path / "source").mkdir()
    (tmp_path / "model").mkdir()
    write_source(tmp_path / "source", validate(load(cloud(*words, "dry_run=true"))))

    first = Machine(tmp_path, 1, few)
    first.read_until(lambda line: (row := read_trial(line)) and row.number == 1)
    first.process.send_signal(signal.SIGTERM)
    first.read_until(lambda line: False)
    assert first.process.wait(120) == 0, "".join(first.lines)
    assert not (tmp_path / "output" / "failure").exists()
    kept = tmp_path / "checkpoints" / "one"
    before = [trial for trial in trials(kept) if trial["state"] == "complete"]
    assert before and not (kept / "model.tar.gz").exists()

    second = Machine(tmp_path, 2, few)
    second.read_until(lambda line: False)
    assert second.process.wait(120) == 0, "".join(second.lines)
    after = [trial for trial in trials(kept) if trial["state"] == "complete"]
    assert after[: len(before)] == before
    assert not {trial["number"] for trial in before} & set(second.begun())
    assert len(after) == 4
    assert (tmp_path / "model" / "model.safetensors").is_file()
    searched = json.loads((kept / "metrics.json").read_text())["search"]
    assert searched["trial"] in [trial["number"] for trial in after]
