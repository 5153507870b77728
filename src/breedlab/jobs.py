"""`breedlab jobs`: the jobs that were launched on SageMaker."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from breedlab.errors import BackendError

if TYPE_CHECKING:
    import boto3

    from breedlab.backends.sagemaker.record import Record
    from breedlab.backends.sagemaker.status import Status


def main(argv: list[str]) -> int:
    """Lists, shows, stops or fetches.

    Raises:
        BreedlabError: If there is no such job, or AWS refuses.
    """
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="jobs.py",
        description="Jobs that `launch.py backend=sagemaker` started.",
        epilog="example: python scripts/jobs.py fetch resnet34-hpo-261125-101750-e9",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|show|stop|fetch")
    runs = argparse.ArgumentParser(add_help=False)
    runs.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where the runs are (runs)")
    one = argparse.ArgumentParser(add_help=False)
    one.add_argument("name", metavar="NAME", help="a job's name, or the run directory of its launch")
    one.add_argument("--region", help="of a job that another machine launched; the AWS profile's by default")

    def verb(name: str, about: str, more: str = "", of_one: bool = True) -> argparse.ArgumentParser:
        told = f"{about[0].upper()}{about[1:]}.{more}"
        parents = [one, runs] if of_one else [runs]
        return verbs.add_parser(name, allow_abbrev=False, parents=parents, help=about, description=told)

    verb("list", "the jobs that were launched from here, the newest first, and how they stand", of_one=False)
    showing = verb("show", "how a job stands, and the table of its trials")
    showing.add_argument("--log", action="store_true", help="what the job printed, in place of that")
    showing.add_argument("--trial", type=int, metavar="N", help="with --log: of this trial of a search")
    verb("stop", "stop a job; what it has done stays in the bucket")
    fetching = verb(
        "fetch",
        "follow it to its end, then write its run directory",
        " After a search by a tuning job it starts the training of the best. Ctrl-C leaves off and stops nothing.",
    )
    fetching.add_argument("--now", action="store_true", help="what there is at this moment; nothing is started")
    given = parser.parse_args(argv)
    if given.verb == "list":
        _list(given.runs)
        return 0
    account, record = _found(given.name, given.runs, given.region, given.verb)
    if given.verb == "show" and given.log:
        _log(account, record, given.trial)
    elif given.verb == "show":
        _show(account, record)
    elif given.verb == "stop":
        _stop(account, record)
    elif given.now:
        from breedlab.backends.sagemaker.fetch import fetch

        print(fetch(account, record, partly=True))
    else:
        from breedlab.backends.sagemaker.fetch import finish

        finish(account, record)
    return 0


def _found(name: str, runs: Path, region: str | None, verb: str) -> tuple[boto3.Session, Record]:
    from breedlab.backends.sagemaker.record import find, find_in_bucket
    from breedlab.backends.sagemaker.session import connect

    record = find(name, runs)
    if record is None and ("/" in name or Path(name, "config.yaml").is_file()):  # a job's name has no slash
        raise BackendError(f"{name}: {_without_job(Path(name), verb)}")
    account = connect(record.place.region if record else region, "--region")
    return account, record or find_in_bucket(account, name)


def _without_job(place: Path, verb: str) -> str:
    """Why a folder stands for no job."""
    if (place / "config.yaml").is_file():
        return f"this run trained here, not on SageMaker; there is no job to {verb}"
    state = "is no run directory" if place.is_dir() else "is not there"
    return f"{state}; expected a job's name or the run directory of its launch: python scripts/jobs.py list"


def _list(runs: Path) -> None:
    from breedlab.backends.sagemaker.record import local_records
    from breedlab.backends.sagemaker.session import connect
    from breedlab.backends.sagemaker.status import first_status, training_status
    from breedlab.reporting.console import console, table, warn

    records = local_records(runs)
    if not records:
        print(f"no job was launched from here ({runs}); launch one: python scripts/launch.py backend=sagemaker ...")
        return
    accounts: dict[str, boto3.Session | None] = {}
    rows = []
    for record in records:
        region = record.place.region
        if region not in accounts:
            try:
                accounts[region] = connect(region)
            except BackendError as error:
                accounts[region] = None
                warn(f"how the jobs in {region} stand is not known: {error}")
        account = accounts[region]
        state = "?"
        if account is not None:
            state = _words(first_status(account, record))
            if record.searches and (final := training_status(account, record.final_name)).state:
                state = f"search {state}; training {_words(final)}"
        fetched = "yes" if record.run and (record.run / "metrics.json").exists() else ""
        rows.append([record.name, record.config["name"], record.started[:16].replace("T", " "), state, fetched])
    console.print(table("Jobs", ["job", "experiment", "started", "state", "fetched"], rows))


def _show(account: boto3.Session, record: Record) -> None:
    from breedlab.backends.sagemaker.follow import Log, trial_board
    from breedlab.backends.sagemaker.status import first_status, list_trials, training_status
    from breedlab.reporting.console import console
    from breedlab.tuning.row import read_trial

    experiment = record.experiment()
    status = first_status(account, record)
    final = training_status(account, record.final_name) if record.searches else None
    lines = [
        ("experiment", f"{experiment.config.name}, launched {record.started}"),
        ("search" if record.searches else "training", f"{record.name}: {_words(status)}"),
    ]
    if final is not None:
        begun = _words(final) if final.state else "not started; `jobs.py fetch` starts it when the search is over"
        lines.append(("training", f"{record.final_name}: {begun}"))
    lines += [
        ("files", experiment.uri() + "/"),
        ("curves", f"tensorboard --logdir {experiment.uri()}"),
        ("run", str(record.run) if record.run else "not fetched to this machine"),
    ]
    for title, text in lines:
        console.print(f"{title:12}{text}", markup=False)
    if record.searches:
        rows = [trial.row for trial in list_trials(account, record.name)]
    elif record.searches_inside:
        rows = [row for line in Log(account, record.name).news() if (row := read_trial(line))]
    else:
        return
    board = trial_board(record)
    for row in rows:
        board.rows[row.number] = row
    console.print()
    console.print(board.table())


def _log(account: boto3.Session, record: Record, trial: int | None) -> None:
    from breedlab.backends.sagemaker.follow import Log
    from breedlab.backends.sagemaker.status import list_trials, training_status
    from breedlab.reporting.console import console

    jobs = [record.final_name]
    if record.searches and (trial is not None or training_status(account, record.final_name).state is None):
        trials = list_trials(account, record.name)
        jobs = [t.job for t in trials if trial is None or t.row.number == trial]
        if trial is not None and not jobs:
            raise BackendError(f"--trial {trial}: the search has {len(trials)} trials so far, counted from 0")
    for job in jobs:
        lines = list(Log(account, job).news())
        if len(jobs) > 1:
            console.print(f"› {job}", markup=False)
        for line in lines or ["(nothing was printed yet)"]:
            console.print(line, markup=False)


def _stop(account: boto3.Session, record: Record) -> None:
    from breedlab.backends.sagemaker.session import aws_errors, client
    from breedlab.backends.sagemaker.status import training_status, tuning_status

    sagemaker = client(account, "sagemaker")
    stops: list[tuple[Status, Callable[[], object]]] = [
        (
            training_status(account, record.final_name),
            lambda: sagemaker.stop_training_job(TrainingJobName=record.final_name),
        )
    ]
    if record.searches:
        stops.append(
            (
                tuning_status(account, record.name),
                lambda: sagemaker.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=record.name),
            )
        )
    running = [(status, stop) for status, stop in stops if status.state == "InProgress"]
    for status, stop in running:
        with aws_errors(status.name):
            stop()
        print(f"{status.name}: told to stop; what it has done so far stays in {record.experiment().uri()}/")
    if not running:
        known = "; ".join(f"{status.name}: {_words(status)}" for status, _ in stops if status.state)
        print(f"nothing to stop: {known}")


def _words(status: Status) -> str:
    if status.state is None:
        return "not there (any more)"
    detail = status.detail if status.detail not in ("", status.state) else ""
    parts = [status.state, detail, status.reason]
    return ", ".join(part for part in parts if part)
