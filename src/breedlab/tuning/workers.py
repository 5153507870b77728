"""Trials in processes beside the main one (`tuner.parallel`)."""

from __future__ import annotations

import os
import signal
from typing import Any

import optuna
from optuna.trial import Trial

from breedlab.config.schema import Tuner
from breedlab.data.check import Report
from breedlab.tuning.trial import Outcome, run_trial

_worker: dict[str, Any] = {}


def begin(tree: dict[str, Any], report: Report, storage: str, study: str) -> None:
    """Builds in this process what all its trials share."""
    import torch

    from breedlab.config import validate
    from breedlab.training.prepare import prepare

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to answer
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = validate(tree)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.tuner.parallel))
    _worker.update(prepared=prepare(config, report), storage=storage, study=study, pruner=pruner(config.tuner))


def pruner(tuner: Tuner) -> optuna.pruners.BasePruner | None:
    """What decides between epochs which trials end early; None where nothing does."""
    if tuner.strategy == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=tuner.max_epochs)
    return optuna.pruners.MedianPruner() if tuner.early_stopping else None


def work(trial_id: int, values: dict[str, Any], prunes: bool) -> Outcome:
    """Runs one trial that the main process asked for."""
    if not prunes:
        return run_trial(_worker["prepared"], values, lambda _epoch, _value: False)
    study = optuna.load_study(study_name=_worker["study"], storage=_worker["storage"], pruner=_worker["pruner"])
    trial = Trial(study, trial_id)
    return run_trial(_worker["prepared"], values, lambda epoch, value: report(trial, epoch, value))


def report(trial: Trial, epoch: int, value: float) -> bool:
    """Tells the pruner of an epoch; true means stop."""
    trial.report(value, epoch + 1)
    return trial.should_prune()
