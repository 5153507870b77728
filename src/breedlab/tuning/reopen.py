"""Open a run's study after whatever ended it: a kill, a full disk, a power cut, a copy that was
taken midway."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from breedlab.config import Config, search_space
from breedlab.config.migrations import KEY, SCHEMA_VERSION, refuse_newer
from breedlab.console import warn
from breedlab.files import DamagedFile, damaged
from breedlab.training.objective import better
from breedlab.tuning.events import write_events
from breedlab.tuning.proposals import distributions, encode, propose, pruner, visible
from breedlab.tuning.storage import Connection, file_url, storage_url
from breedlab.tuning.store import PROPOSAL, STATES, ask, create_study, recorded, tell, was_cut_off
from breedlab.tuning.trial import Outcome

ASIDE = "study.db.damaged"

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
"""What SQLite answers if a file's content is wrong (`SQLITE_ERROR`: no such table), not for a lock
or a full disk."""


def open_study(config: Config, run: Path) -> optuna.Study:
    """Return a run's study, with what a kill cut off in the queue again.

    A `study.db` that is damaged or empty, or lacks trials whose files are there, is rebuilt from
    `trials/*/trial.json`.

    Args:
        config: With a search space.
        run: The run directory.

    Raises:
        DamagedFile: If it cannot be rebuilt, because a trial's file does not fit the search space.
    """
    study = _readable(config, run)
    refuse_newer(study.user_attrs.get(KEY, 1), f"{run / 'study.db'}")
    if KEY not in study.user_attrs and not study.trials:
        study.set_user_attr(KEY, SCHEMA_VERSION)
    return _restored(config, run, study)


def _readable(config: Config, run: Path) -> optuna.Study:
    """Return the study in a run's file, or a rebuilt one where that is damaged."""
    records = _records(run)
    reason = ""
    try:
        with closing(sqlite3.connect(run / "study.db", factory=Connection)) as database:
            database.check()
        study = create_study(config, storage_url(run))
        if records.keys() <= {trial.number for trial in study.trials}:
            return study
    except Exception as error:  # SQLAlchemy's and Optuna's, around SQLite's
        reason = _damage(error)
        if not reason:
            raise
    scratch = run / f".study.{os.getpid()}.tmp"
    _rebuild(config, run, records, scratch)
    backup = ""
    if reason:
        (run / "study.db").replace(run / ASIDE)
        backup = f"; the old file is kept as {ASIDE}"
    _put_in_place(scratch, run)
    result = (
        f"rebuilt from the {len(records)} trials that had ended"
        if records
        else "no trial had ended, so it is new"
    )
    warn(f"{run / 'study.db'}: {reason or 'is missing trials that had ended'}; {result}{backup}")
    return create_study(config, storage_url(run))


def _damage(error: BaseException | None) -> str:
    """Return what is wrong with a study's file; empty if the error has another cause, such as a
    full disk."""
    while error is not None:
        if (
            isinstance(error, sqlite3.Error)
            and getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE
        ):
            return str(error)
        error = error.__cause__ or error.__context__
    return ""


def _records(run: Path) -> dict[int, tuple[dict[str, Any], Outcome]]:
    """Return the trials that have a whole `trials/<number>/trial.json`, by number."""
    numbers = sorted(
        int(path.parent.name)
        for path in run.glob("trials/*/trial.json")
        if path.parent.name.isdecimal()
    )
    return {number: record for number in numbers if (record := recorded(run, number)) is not None}


def _rebuild(
    config: Config, run: Path, records: Mapping[int, tuple[dict[str, Any], Outcome]], scratch: Path
) -> None:
    """Replay a search into a new file.

    Each trial gets its own number and its own epochs, so that what is proposed and pruned from here
    on is what the uninterrupted search would have proposed and pruned. A trial without a file,
    which a kill interrupted, is left running, for `_restored` to put in the queue.
    """
    space = search_space(config)
    scratch.unlink(missing_ok=True)
    study = create_study(config, file_url(scratch))
    study.set_user_attr(KEY, SCHEMA_VERSION)
    for number in range(max(records, default=-1) + 1):
        before = study.trials
        known_distributions = distributions(space, before)
        if number not in records:
            ask(
                study,
                propose(config, space, before, visible(config, len(before))),
                known_distributions,
            )
            continue
        values, outcome = records[number]
        params = {path: encode(value) for path, value in values.items()}
        try:
            # which checks them
            create_trial(state=TrialState.RUNNING, params=params, distributions=known_distributions)
            trial = ask(study, params, known_distributions)
            _report_epochs(trial, outcome, config)
            tell(study, trial, outcome)
        except (ValueError, KeyError, TypeError) as error:
            raise _misfit(run, number, error) from error


def _misfit(run: Path, number: int, error: Exception) -> DamagedFile:
    folder = run / "trials" / str(number)
    hint = (
        f"{run / 'study.db'} is damaged, too, and cannot be rebuilt; remove {folder} to run that"
        " trial again"
    )
    return damaged(folder / "trial.json", f"does not fit the search space: {error}", hint)


def _report_epochs(trial: optuna.Trial, outcome: Outcome, config: Config) -> None:
    """Report a trial's epochs again: pruners keep what they compare later trials with where they
    are asked."""
    if pruner(config.tuner) is None:
        return
    best: float | None = None
    for epoch, metrics in enumerate(outcome.epochs, 1):
        value = metrics[config.monitor.metric]
        best = value if better(value, best, config.monitor.mode) else best
        assert best is not None
        trial.report(best, epoch)
        trial.should_prune()


def _restored(config: Config, run: Path, study: optuna.Study) -> optuna.Study:
    """Return the study without trials that look as if they were running, since no process runs them
    any more: those with a recorded outcome have ended, the others run again."""
    rerun = {trial.user_attrs.get("rerun_of") for trial in study.trials}
    cut_off = [t for t in study.trials if was_cut_off(t) and t.number not in rerun]
    if not cut_off and all(trial.state != TrialState.RUNNING for trial in study.trials):
        return study
    # Optuna cannot remove a trial. So a new file is written, each trial under its number, and
    # replaces the old one as a whole.
    scratch = run / f".study.{os.getpid()}.tmp"
    scratch.unlink(missing_ok=True)
    anew = create_study(config, file_url(scratch))
    for name, value in study.user_attrs.items():
        anew.set_user_attr(name, value)
    for trial in study.trials:
        if trial.state != TrialState.RUNNING and trial not in cut_off:
            anew.add_trial(trial)
        elif (record := recorded(run, trial.number)) is None:
            params = trial.user_attrs.get(PROPOSAL, trial.params)
            anew.enqueue_trial(params, user_attrs={PROPOSAL: params})
        else:
            values, outcome = record
            events = run / "tensorboard" / f"trial_{trial.number:03}"
            write_events(events, values, outcome, config.monitor.metric)
            anew.add_trial(_ended(trial, outcome))
    _put_in_place(scratch, run)
    return create_study(config, storage_url(run))


def _put_in_place(scratch: Path, run: Path) -> None:
    """Have a new file take the place of a run's `study.db`."""
    # of the old file, which SQLite would apply to the new one
    (run / "study.db-journal").unlink(missing_ok=True)
    scratch.replace(run / "study.db")


def _ended(trial: FrozenTrial, outcome: Outcome) -> FrozenTrial:
    trial.state = STATES[outcome.state]
    if outcome.state == "complete":
        trial.value = outcome.objective
    trial.datetime_complete = datetime.now()
    trial.user_attrs = {**trial.user_attrs, "seconds": outcome.seconds, "reason": outcome.reason}
    return trial
