"""The trials of a tuning job, as a search on this machine leaves them: trials/, study.db,
TensorBoard, metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breedlab.backends.sagemaker.jobs.downloads import download, read_trial, unpack_output
from breedlab.backends.sagemaker.jobs.hyperparameters import decode
from breedlab.backends.sagemaker.jobs.job_files import trial_file
from breedlab.backends.sagemaker.jobs.record import Record
from breedlab.backends.sagemaker.jobs.status import Trial, list_trials
from breedlab.backends.sagemaker.jobs.winner import trained_values
from breedlab.config import Config
from breedlab.console import note
from breedlab.files import atomic_write_json, read_json_if_whole
from breedlab.training.objective import rank
from breedlab.tuning.store import loss_of
from breedlab.tuning.trial import Outcome
from breedlab.tuning.trial_log import TrialLog

if TYPE_CHECKING:
    import boto3


def fetch_trials(account: boto3.Session, record: Record, run: Path) -> None:
    """Add the files of a tuning job's trials to the experiment's run directory."""
    config = record.experiment().config
    trials = [
        trial for trial in list_trials(account, record.first_job) if trial.row.state != "running"
    ]
    outcomes: dict[int, Outcome] = {}
    for trial in trials:
        number = trial.row.number

        def place(name: str, number: int = number) -> str | None:
            return trial_file(name, number)

        if not download(account, record, "checkpoints", trial.job, run, place) and not _is_fetched(
            run, trial
        ):
            unpack_output(account, record, trial.job, run, place)
        row = trial.row
        epochs, span = read_trial(run / "tensorboard" / f"trial_{number:03}", config.monitor)
        outcome = outcomes[number] = Outcome(
            row.state, row.objective, epochs, row.seconds, row.reason, interval=span
        )
        folder = run / "trials" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        about = {"number": number, "values": dict(row.values), **asdict(outcome), "job": trial.job}
        atomic_write_json(folder / "trial.json", about, indent=2)
    write_study(config, run, trials)
    _set_metrics(config, run, trials, outcomes, decode(trained_values(account, record)))
    note(f"{len(trials)} trials")


def _is_fetched(run: Path, trial: Trial) -> bool:
    """Return whether what a trial left is here: it has ended, and leaves no more."""
    record = read_json_if_whole(run / "trials" / str(trial.row.number) / "trial.json")
    return record is not None and record.get("job") == trial.job


def write_study(config: Config, run: Path, trials: list[Trial]) -> None:
    """Write study.db as a local search would."""
    import optuna

    from breedlab.config import search_space
    from breedlab.tuning.proposals import distribution, encode
    from breedlab.tuning.storage import storage_url
    from breedlab.tuning.store import STATES, create_study

    (run / "study.db").unlink(missing_ok=True)
    study = create_study(config, storage_url(run))
    distributions = {
        path: distribution(dimension) for path, dimension in search_space(config).items()
    }
    for trial in trials:
        row = trial.row
        study.add_trial(
            optuna.trial.create_trial(
                state=STATES[row.state],
                params={path: encode(value) for path, value in row.values.items()},
                distributions={path: distributions[path] for path in row.values},
                value=row.objective if row.state == "complete" else None,
                user_attrs={"seconds": row.seconds, "reason": row.reason, "job": trial.job},
            )
        )


def _set_metrics(
    config: Config,
    run: Path,
    trials: list[Trial],
    outcomes: Mapping[int, Outcome],
    trained: Mapping[str, Any],
) -> None:
    """Tell metrics.json what the search found: the job that wrote it knew of no search.

    Args:
        config: The experiment's.
        run: The run directory.
        trials: Those that ended.
        outcomes: How, by number.
        trained: The values that the final training was started with, by config path. An older
            breedlab left the choice to SageMaker, which knows of no tie-break.
    """
    rows = [
        trial.row
        for trial in trials
        if trial.row.state == "complete" and trial.row.objective is not None
    ]
    path = run / "metrics.json"
    if not rows or not path.exists():
        return

    def order(row: TrialLog) -> tuple[bool, tuple[float, float], int]:
        assert row.objective is not None
        by_loss = rank(row.objective, loss_of(outcomes[row.number], config), config.monitor.mode)
        return dict(row.values) != dict(trained), by_loss, row.number

    best = min(rows, key=order)
    tied = [row.number for row in rows if row is not best and row.objective == best.objective]
    metrics = json.loads(path.read_text("utf-8"))
    search = {
        "trial": best.number,
        "values": dict(best.values),
        "objective": best.objective,
        "tied": tied,
    }
    if span := outcomes[best.number].interval:
        search["interval"] = [*span]
    atomic_write_json(path, {**metrics, "search": search}, indent=2)
    if tied:
        others = f"trial {tied[0]}" if len(tied) == 1 else f"trials {', '.join(map(str, tied))}"
        note(f"best: trial {best.number}; {others} reached the same {config.monitor.metric}")
