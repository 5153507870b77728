"""Bringing a finished experiment back: the same run directory as if it had run here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breedlab.backends.base import FILE
from breedlab.backends.following import detachable
from breedlab.backends.sagemaker.jobs.downloads import download
from breedlab.backends.sagemaker.jobs.follow import follow_training, follow_tuning, ways_on
from breedlab.backends.sagemaker.jobs.job_start import send
from breedlab.backends.sagemaker.jobs.record import Record, with_run
from breedlab.backends.sagemaker.jobs.requests import training_request
from breedlab.backends.sagemaker.jobs.status import (
    Status,
    list_trials,
    training_status,
    with_stopper,
)
from breedlab.backends.sagemaker.prices import largest_bill
from breedlab.commands import command
from breedlab.config.migrations import stamp
from breedlab.console import note, stage
from breedlab.errors import BackendError, JobFailed
from breedlab.files import atomic_write_json, read_json_if_whole

if TYPE_CHECKING:
    import boto3


def finish(
    account: boto3.Session, record: Record, *, start: bool, stopped_too: bool = False
) -> Mapping[str, Any]:
    """Follow an experiment to its end, fetch and show it.

    Args:
        account: The session.
        record: The experiment.
        start: Whether to start the final training, which is paid for, once the search is over.
        stopped_too: Whether to start it from the best trial of a search that was stopped.

    Returns:
        What the table of a grid shows of it.

    Raises:
        BackendError: If a job failed or was stopped, or the user stopped following it.
    """
    with detachable(record.name, ways_on(record)):
        if record.searches:
            stage(f"Search: {record.name}")
            search = follow_tuning(account, record)
            if training_status(account, record.final_name).state is None:
                if not (search.state == "Stopped" and stopped_too):
                    _succeeded(account, record, search)
                if not start:
                    raise NotStarted(_how_to_train(record))
                start_final(account, record)
        stage(training_title(record))
        _succeeded(account, record, follow_training(account, record))
        run = fetch(account, record)
    return shown(record, run)


def training_title(record: Record) -> str:
    """Return the title of the stage that follows the job that leaves the model."""
    what = "Training the best" if record.searches else "Training"
    return f"{what}: {record.final_job}"


def shown(record: Record, run: Path) -> Mapping[str, Any]:
    """Show the run directory that was fetched, and return what the table of a grid shows of it.

    Raises:
        BackendError: If there is no test in it.
    """
    from breedlab.reporting.summary import show

    metrics = read_json_if_whole(run / "metrics.json") or {}
    if "test" not in metrics:
        log = command("jobs", "show", record.name, "--log")
        raise BackendError(
            f"{record.final_name}: AWS reports it as completed, but there are no test metrics in"
            f" metrics.json; its other files are in {run}; see its log: {log}"
        )
    show(run, metrics)
    return {"run": str(run), **{f"test/{k}": v for k, v in metrics["test"]["metrics"].items()}}


def start_final(account: boto3.Session, record: Record) -> None:
    """Start training with the best values of the search, unless it was started before.

    Raises:
        BackendError: If no trial ended.
    """
    if training_status(account, record.final_name).state is not None:
        return
    from breedlab.backends.sagemaker.jobs.winner import find_winner

    best = find_winner(account, record)
    if best is None:
        reasons = sorted(
            {trial.row.reason for trial in list_trials(account, record.first_job)} - {""}
        )
        raise JobFailed(
            "\n".join(
                [
                    f"{record.name}: no trial of the search completed",
                    *(f"  {r}" for r in reasons),
                ]
            )
        )
    note("best: " + ", ".join(f"{name}={value}" for name, value in best.values.items()))
    if best.tied:
        others = ", ".join(map(str, best.tied))
        note(f"trial {best.number} ties with {others}; the lower validation loss decided")
    send(account, training_request(record.experiment(), best.values))


def fetch(account: boto3.Session, record: Record, partly: bool = False) -> Path:
    """Write the run directory of an experiment; files that are here unchanged are not fetched
    again.

    Args:
        account: The session.
        record: The experiment.
        partly: Whether to take what there is, of an experiment that has not ended.

    Raises:
        BackendError: If the final job left nothing.
    """
    from breedlab.pipeline import rundir
    from breedlab.pipeline.current_run import CurrentRun
    from breedlab.reporting.at_end import write_at_end

    config = record.experiment().config
    run = record.run or rundir.reserve(config, record.overrides)
    record = with_run(record, run)
    stage(f"Fetching into {run}")
    folder = "final" if record.searches else "checkpoints"
    count = download(account, record, folder, record.final_job, run, lambda name: name)
    if not count and not partly:
        raise BackendError(
            f"{record.final_job}: wrote no files under {record.experiment().uri(folder)}"
        )
    # The job wrote its own view of the config: where the images were there, and no search.
    rundir.write_yaml(run / "config.yaml", stamp(record.config))
    rundir.write_yaml(run / "overrides.yaml", record.overrides)
    atomic_write_json(run / FILE, record.plain(), indent=2)
    if record.searches:
        from breedlab.backends.sagemaker.jobs.trials import fetch_trials

        fetch_trials(account, record, run)
    if (run / "lineage.json").exists():
        _set_lineage(record, run)
    if metrics := read_json_if_whole(run / "metrics.json"):
        with CurrentRun() as current:
            current.enter(config, run, only_if_newest=True)
            if record.searches:
                # The job that wrote it knew of no search.
                write_at_end(run, metrics)
    return run


class NotStarted(JobFailed):
    """The search is over, and the training of its best waits for someone who wants to pay for
    it."""


def _how_to_train(record: Record) -> str:
    backend, region = record.experiment().config.backend, record.place.region
    resume = command("jobs", "resume", record.name, "--region", region)
    return (
        f"{record.name}: the search is over, but training with its best values has not started,"
        " and fetch does not start it\n"
        f"start it with: {resume}  (at most {largest_bill(backend, region, 0, False)})"
    )


def _succeeded(account: boto3.Session, record: Record, status: Status) -> None:
    if status.state == "Completed":
        return
    status = with_stopper(account, status)
    region = record.place.region
    reason = status.ending(record.experiment().config.backend, region)
    lines = [f"{status.name}: {str(status.state).lower()}: {reason}"]
    lines.append(f"its log: {command('jobs', 'show', record.name, '--region', region)} --log")
    if status.name == record.name and record.searches and status.state == "Stopped":
        lines.append(
            f"train its best trial: {command('jobs', 'resume', record.name, '--region', region)}"
        )
    elif status.state == "Stopped":
        lines.append(
            f"get its files: {command('jobs', 'fetch', record.name, '--region', region)} --now"
        )
    raise JobFailed("\n".join(lines))


def _set_lineage(record: Record, run: Path) -> None:
    """Add where the run ran, and the commit that it was launched from, which the job cannot
    know."""
    path = run / "lineage.json"
    lineage = json.loads(path.read_text("utf-8"))
    lineage["git"] = record.git
    lineage["sagemaker"] = {
        "region": record.place.region,
        "jobs": list(dict.fromkeys((record.first_job, record.final_job))),
        "image": record.image,
        "data": record.data,
        "files": record.experiment().uri(),
    }
    atomic_write_json(path, lineage, indent=2)
