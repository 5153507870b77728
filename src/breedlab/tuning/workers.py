"""Trials in processes beside the main one (`tuner.parallel`)."""

from __future__ import annotations

import gc
import signal
from multiprocessing.queues import SimpleQueue
from typing import Any

import optuna
from optuna.trial import Trial

from breedlab import cores
from breedlab.config.schema import Tuner
from breedlab.data.check import Report
from breedlab.tuning.trial import Outcome, run_trial

_worker: dict[str, Any] = {}


Progress = tuple[int, int, float]
"""A trial's number, how many epochs it has done, and its best objective so far."""


def begin(tree: dict[str, Any], report: Report, storage: str, study: str, told: SimpleQueue[Progress]) -> None:
    """Builds in this process what all its trials share."""
    import torch

    from breedlab.config import validate
    from breedlab.training.prepare import prepare

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to answer
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = validate(tree)
    torch.set_num_threads(max(1, cores.available() // config.tuner.parallel))
    _worker.update(
        prepared=prepare(config, report), storage=storage, study=study, pruner=pruner(config.tuner), told=told
    )
    gc.freeze()  # as in `quickly_collected`; this process does nothing but trials


def pruner(tuner: Tuner) -> optuna.pruners.BasePruner | None:
    """What decides between epochs which trials end early; None where nothing does."""
    if tuner.strategy == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=tuner.max_epochs)
    return optuna.pruners.MedianPruner() if tuner.early_stopping else None


def work(trial_id: int, number: int, values: dict[str, Any], prunes: bool) -> Outcome:
    """Runs one trial that the main process asked for, and tells it of each epoch."""
    trial = None
    if prunes:
        study = optuna.load_study(study_name=_worker["study"], storage=_worker["storage"], pruner=_worker["pruner"])
        trial = Trial(study, trial_id)

    def stop_early(epoch: int, value: float) -> bool:
        _worker["told"].put((number, epoch + 1, value))
        return trial is not None and report(trial, epoch, value)

    return run_trial(_worker["prepared"], values, stop_early)


def report(trial: Trial, epoch: int, value: float) -> bool:
    """Tells the pruner of an epoch; true means stop."""
    trial.report(value, epoch + 1)
    return trial.should_prune()
