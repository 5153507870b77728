"""The trials on disk: `trials/<number>/trial.json` says how each ended, `study.db` what was
proposed to and reported by each.

`trial.json` is written first, and atomically. After a kill before that, the trial runs again under
its own number; after a kill later, the next start reports it to Optuna. Either way no trial counts
twice and none is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from breedlab.config import Config
from breedlab.files import DamagedFile, atomic_write_json, read_json
from breedlab.training.objective import best_loss
from breedlab.tuning.proposals import direction, pruner
from breedlab.tuning.storage import Connection
from breedlab.tuning.trial import Outcome

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
PROPOSAL = "proposal"
"""The attribute of a trial that holds all of its values, whatever Optuna had stored when it was
interrupted."""


def ask(
    study: optuna.Study, params: Mapping[str, Any] | None, distributions: Mapping[str, Any]
) -> Trial:
    """Return the next trial to run: one with these values, or the first in the queue where there
    are none."""
    if params is not None:
        # Through the queue, which keeps all of the values if a kill comes before Optuna has stored
        # each.
        study.enqueue_trial(dict(params), user_attrs={PROPOSAL: dict(params)})
    return study.ask(dict(distributions))


def record(run: Path, number: int, values: Mapping[str, Any], outcome: Outcome) -> None:
    """Write how a trial ended. From then on it counts."""
    folder = run / "trials" / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_json(
        folder / "trial.json",
        {"number": number, "values": dict(values), **asdict(outcome)},
        indent=2,
    )


def tell(study: optuna.Study, trial: Trial, outcome: Outcome, loss: float | None = None) -> None:
    """Tell Optuna how a trial ended."""
    trial.set_user_attr("loss", loss)
    trial.set_user_attr("seconds", outcome.seconds)
    trial.set_user_attr("reason", outcome.reason)
    objective = outcome.objective if outcome.state == "complete" else None
    study.tell(trial, objective, state=STATES[outcome.state])


def recorded(run: Path, number: int) -> tuple[dict[str, Any], Outcome] | None:
    """Return a trial's values and how it ended; None if its file is not there, or is damaged."""
    try:
        tree = read_json(run / "trials" / str(number) / "trial.json")
        objective, reason = tree.get("objective"), tree.get("reason", "")
        outcome = Outcome(
            tree["state"],
            objective,
            tree.get("epochs", []),
            tree.get("seconds", 0.0),
            reason,
            tree.get("folds", []),
            _ends(tree.get("interval")),
            tree.get("images", 0),
        )
        return dict(tree["values"]), outcome
    except (OSError, DamagedFile, KeyError, TypeError, ValueError):
        return None


def _ends(recorded: Sequence[float] | None) -> tuple[float, float] | None:
    return None if recorded is None else (float(recorded[0]), float(recorded[1]))


def interval(run: Path, number: int) -> tuple[float, float] | None:
    """Return the 95% interval of a trial's objective; None with `tuner.folds`, and where none was
    recorded."""
    record = recorded(run, number)
    return None if record is None else record[1].interval


def objective_interval(run: Path, number: int, metric: str) -> tuple[float, float] | None:
    """Return what `Outcome.span` does of a recorded trial."""
    record = recorded(run, number)
    return None if record is None else record[1].span(metric)


def valid_loss(config: Config, run: Path, number: int) -> float | None:
    """Return the validation loss in a trial's best epoch; None if it is not known."""
    record = recorded(run, number)
    return None if record is None else loss_of(record[1], config)


def folds(run: Path, number: int) -> tuple[float, ...]:
    """Return what a trial has on each fold; empty without `tuner.folds`."""
    record = recorded(run, number)
    return () if record is None else tuple(record[1].folds)


def loss_of(outcome: Outcome, config: Config) -> float | None:
    """Return the validation loss in the epoch that gave a trial its objective; None if it is not
    known."""
    return best_loss(outcome.epochs, config.monitor.metric, config.monitor.mode)


def was_cut_off(trial: FrozenTrial) -> bool:
    """Return whether an older version gave up an interrupted trial and ran it again under another
    number."""
    return bool(trial.user_attrs.get("cut_off"))


def create_study(config: Config, storage: str) -> optuna.Study:
    """Return the study at an address of Optuna's, which is made if there is none."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        storage=RDBStorage(storage, engine_kwargs={"connect_args": {"factory": Connection}}),
        study_name=config.name,
        direction=direction(config),
        load_if_exists=True,
        pruner=pruner(config.tuner),
    )
