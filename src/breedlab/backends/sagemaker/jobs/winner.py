"""Which trial of a tuning job is trained to the end: AWS takes any of those that tie, breedlab the
lowest loss."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from breedlab.backends.sagemaker.jobs.downloads import download, read_trial, unpack_output
from breedlab.backends.sagemaker.jobs.hyperparameters import encode, sagemaker_name
from breedlab.backends.sagemaker.jobs.job_files import trial_file
from breedlab.backends.sagemaker.jobs.record import Record
from breedlab.backends.sagemaker.jobs.status import Trial, described, list_trials
from breedlab.config import search_space
from breedlab.training.objective import better, rank
from breedlab.tuning.store import loss_of
from breedlab.tuning.trial import Outcome

if TYPE_CHECKING:
    import boto3


@dataclass(frozen=True)
class Winner:
    """The best trial.

    Attributes:
        values: By SageMaker's name, as they travel.
        number: Counted from 0; None where AWS names a trial that it does not list as complete.
        tied: The numbers of the other trials that reached the same objective.
    """

    values: dict[str, str]
    number: int | None = None
    tied: tuple[int, ...] = ()


def find_winner(account: boto3.Session, record: Record) -> Winner | None:
    """Return the best trial of a search by the rule of one on this machine; None if no trial came
    to an end."""
    config = record.experiment().config
    mode = config.monitor.mode
    complete = [
        trial for trial in list_trials(account, record.first_job) if trial.row.state == "complete"
    ]
    objectives = {
        trial.row.number: trial.row.objective
        for trial in complete
        if trial.row.objective is not None
    }
    best_job = (described(account, record.first_job, training=False) or {}).get("BestTrainingJob")
    best: float | None = None
    if best_job:
        numbers = {trial.job: trial.row.number for trial in complete}
        best = objectives.get(numbers.get(best_job["TrainingJobName"], -1))
        if best is None:
            return Winner(dict(best_job["TunedHyperParameters"]))
    else:  # a search that was stopped may name none
        for objective in objectives.values():
            best = objective if better(objective, best, mode) else best
    tied = [
        trial for trial in complete if objectives.get(trial.row.number) == best and best is not None
    ]
    if not tied:
        return None
    losses = {
        trial.row.number: _loss(account, record, trial) if len(tied) > 1 else None for trial in tied
    }
    first = min(
        tied,
        key=lambda trial: (rank(best or 0.0, losses[trial.row.number], mode), trial.row.number),
    )
    values = {sagemaker_name(path): encode(value) for path, value in first.row.values.items()}
    others = tuple(trial.row.number for trial in tied if trial is not first)
    return Winner(values, first.row.number, others)


def trained_values(account: boto3.Session, record: Record) -> dict[str, str]:
    """Return the searched values that the final training was started with, by SageMaker's name;
    empty if it was not."""
    job = described(account, record.final_job, training=True) or {}
    searched = {sagemaker_name(path) for path in search_space(record.experiment().config)}
    return {
        name: str(value)
        for name, value in job.get("HyperParameters", {}).items()
        if name in searched
    }


def _loss(account: boto3.Session, record: Record, trial: Trial) -> float | None:
    """Return the validation loss in the best epoch of a trial, read from what it left; None where
    it left nothing."""

    number, config = trial.row.number, record.experiment().config

    def place(name: str) -> str | None:
        return trial_file(name, number) if name.startswith("tensorboard/") else None

    with tempfile.TemporaryDirectory(prefix="breedlab-trial-") as folder:
        scratch = Path(folder)
        if not download(account, record, "checkpoints", trial.job, scratch, place):
            unpack_output(account, record, trial.job, scratch, place)
        epochs, _ = read_trial(scratch / "tensorboard" / f"trial_{number:03}", config.monitor)
    return loss_of(Outcome("complete", trial.row.objective, epochs), config)
