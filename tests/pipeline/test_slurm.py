"""A run in a Slurm job is a run like any other."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import lightning
import pytest
import torch

from breedlab.config import Config
from breedlab.errors import Terminated
from breedlab.pipeline.run import run

JOB = {
    "SLURM_NTASKS": "4",
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NAME": "train",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NNODES": "1",
    "SLURM_JOB_NODELIST": "n1",
}


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, here: Path) -> Path:
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    return here


def test_a_job_of_four_tasks_searches_and_trains(
    job: Path, configure: Callable[..., Config]
) -> None:
    # What Lightning leaves of another run, and restores the next one from.
    torch.save({"state_dict": {}, "of": "another run"}, job / "hpc_ckpt_1.ckpt")
    config = configure(
        "tuner=random", "tuner.trials=2", "tuner.max_epochs=1", "trainer.max_epochs=1"
    )
    result = run(config, [])
    assert result.metrics["training"]["epochs"] == 1
    assert result.metrics["test"]["metrics"]


def test_its_warning_saves_the_step_and_leaves_nothing_in_the_working_folder(
    job: Path, configure: Callable[..., Config]
) -> None:
    class Warned(lightning.Callback):
        def on_train_batch_start(self, trainer: lightning.Trainer, *_: object) -> None:
            if trainer.global_step == 3:
                os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(Terminated, match="resume="):
        run(configure("cache.mode=off"), [], callbacks=[Warned()])
    saved = torch.load(job / "runs/latest/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    assert not list(job.glob("**/hpc_ckpt*"))
    assert [path.name for path in job.iterdir()] == ["runs"]
