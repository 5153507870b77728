"""The trials on the disk: `trials/<number>/trial.json` says how each ended, `study.db` what was proposed and told.

`trial.json` comes first, and whole. A kill before it has the trial run again under its own number; a kill after it has
the trial told to Optuna at the next start. Either way no trial counts twice and none is lost.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from breedlab.config import Config
from breedlab.config.migrations import KEY, SCHEMA_VERSION, refuse_newer
from breedlab.files import DamagedFile, atomic_write_json, read_json
from breedlab.training.objective import best_epoch
from breedlab.tuning.events import write_events
from breedlab.tuning.proposals import direction, pruner
from breedlab.tuning.storage import file_url, storage_url
from breedlab.tuning.trial import Outcome

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
_PROPOSAL = "proposal"


def open_study(config: Config, run: Path) -> optuna.Study:
    """Return the run's study, with what a kill cut off in the queue again."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = _study(config, storage_url(run))
    refuse_newer(study.user_attrs.get(KEY, 1), f"{run / 'study.db'}")
    if KEY not in study.user_attrs and not study.trials:
        study.set_user_attr(KEY, SCHEMA_VERSION)
    return _restored(config, run, study)


def ask(study: optuna.Study, params: Mapping[str, Any] | None, distributions: Mapping[str, Any]) -> Trial:
    """Return the next trial to run: one with these values, or the first in the queue where there are none."""
    if params is not None:
        # Through the queue, which keeps all of the values if a kill comes before Optuna has stored each.
        study.enqueue_trial(dict(params), user_attrs={_PROPOSAL: dict(params)})
    return study.ask(dict(distributions))


def record(run: Path, number: int, values: Mapping[str, Any], outcome: Outcome) -> None:
    """Write how a trial ended. From then on it counts."""
    folder = run / "trials" / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_json(folder / "trial.json", {"number": number, "values": dict(values), **asdict(outcome)}, indent=2)


def tell(study: optuna.Study, trial: Trial, outcome: Outcome) -> None:
    """Tell Optuna how a trial ended."""
    trial.set_user_attr("seconds", outcome.seconds)
    trial.set_user_attr("reason", outcome.reason)
    objective = outcome.objective if outcome.state == "complete" else None
    study.tell(trial, objective, state=STATES[outcome.state])


def recorded(run: Path, number: int) -> tuple[dict[str, Any], Outcome] | None:
    """Return a trial's values and how it ended; None if its file is not there, or is damaged."""
    try:
        tree = read_json(run / "trials" / str(number) / "trial.json")
        objective, reason = tree.get("objective"), tree.get("reason", "")
        outcome = Outcome(tree["state"], objective, tree.get("epochs", []), tree.get("seconds", 0.0), reason)
        return dict(tree["values"]), outcome
    except (OSError, DamagedFile, KeyError):
        return None


def valid_loss(config: Config, run: Path, number: int) -> float | None:
    """Return the validation loss in a trial's best epoch; None if it is not known."""
    ended = recorded(run, number)
    return None if ended is None else loss_of(ended[1], config)


def loss_of(outcome: Outcome, config: Config) -> float | None:
    """Return the validation loss in the epoch that gave a trial its objective; None if it is not known."""
    epochs = [epoch for epoch in outcome.epochs if config.monitor.metric in epoch]
    if not epochs:
        return None
    return epochs[best_epoch(epochs, config.monitor.metric, config.monitor.mode)].get("valid/loss")


def was_cut_off(trial: FrozenTrial) -> bool:
    """Whether an older version gave a trial up that a kill had cut off, and ran it again under another number."""
    return bool(trial.user_attrs.get("cut_off"))


def _study(config: Config, storage: str) -> optuna.Study:
    return optuna.create_study(
        storage=storage,
        study_name=config.name,
        direction=direction(config),
        load_if_exists=True,
        pruner=pruner(config.tuner),
    )


def _restored(config: Config, run: Path, study: optuna.Study) -> optuna.Study:
    """Return the study without trials that look as if they were running: nobody runs them any more."""
    rerun = {trial.user_attrs.get("rerun_of") for trial in study.trials}
    lost = [t for t in study.trials if was_cut_off(t) and t.number not in rerun]
    if not lost and all(trial.state != TrialState.RUNNING for trial in study.trials):
        return study
    # Optuna takes no trial back. So its file is written anew, each trial under its number, and put in the old one's
    # place as a whole.
    scratch = run / f".study.{os.getpid()}.tmp"
    scratch.unlink(missing_ok=True)
    anew = _study(config, file_url(scratch))
    for name, value in study.user_attrs.items():
        anew.set_user_attr(name, value)
    for trial in study.trials:
        if trial.state != TrialState.RUNNING and trial not in lost:
            anew.add_trial(trial)
        elif (ended := recorded(run, trial.number)) is None:
            params = trial.user_attrs.get(_PROPOSAL, trial.params)
            anew.enqueue_trial(params, user_attrs={_PROPOSAL: params})
        else:
            values, outcome = ended
            write_events(run / "tensorboard" / f"trial_{trial.number:03}", values, outcome)
            anew.add_trial(_ended(trial, outcome))
    (run / "study.db-journal").unlink(missing_ok=True)  # the old file's, played back when it was read
    scratch.replace(run / "study.db")
    return _study(config, storage_url(run))


def _ended(trial: FrozenTrial, outcome: Outcome) -> FrozenTrial:
    trial.state = STATES[outcome.state]
    if outcome.state == "complete":
        trial.value = outcome.objective
    trial.datetime_complete = datetime.now()
    trial.user_attrs = {**trial.user_attrs, "seconds": outcome.seconds, "reason": outcome.reason}
    return trial
