"""`breedlab jobs`: the jobs that were launched on SageMaker."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from breedlab.commands import command
from breedlab.errors import BackendError

if TYPE_CHECKING:
    import boto3

    from breedlab.backends.sagemaker.jobs.record import Record
    from breedlab.backends.sagemaker.jobs.status import Status


def main(argv: list[str]) -> int:
    """Lists, shows, stops or fetches.

    Raises:
        BreedlabError: If there is no such job, or AWS refuses.
    """
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=command("jobs"),
        description=f"Jobs that `{command('launch', 'backend=sagemaker')}` started.",
        epilog=f"example: {command('jobs', 'fetch', 'resnet34-hpo-261125-101750-e9')}",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|show|stop|fetch|resume")
    runs = argparse.ArgumentParser(add_help=False)
    runs.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="where the runs are (runs)"
    )
    one = argparse.ArgumentParser(add_help=False)
    one.add_argument(
        "name", metavar="NAME", help="a job's name, or the run directory of its launch"
    )
    one.add_argument(
        "--region", help="of a job that another machine launched; the AWS profile's by default"
    )

    def verb(name: str, about: str, more: str = "", of_one: bool = True) -> argparse.ArgumentParser:
        told = f"{about[0].upper()}{about[1:]}.{more}"
        parents = [one, runs] if of_one else [runs]
        return verbs.add_parser(
            name, allow_abbrev=False, parents=parents, help=about, description=told
        )

    listing = verb(
        "list",
        "the jobs that were launched from here, the newest first, and how they stand",
        of_one=False,
    )
    listing.add_argument(
        "--all",
        action="store_true",
        help="breedlab's jobs of the account in one region, whoever launched them",
    )
    listing.add_argument("--region", help="with --all: which; the AWS profile's by default")
    showing = verb("show", "how a job stands, and the table of its trials")
    showing.add_argument(
        "--log", action="store_true", help="what the job printed, in place of that"
    )
    showing.add_argument(
        "--trial", type=int, metavar="N", help="with --log: of this trial of a search"
    )
    verb("stop", "stop a job; what it has done stays in the bucket")
    fetching = verb(
        "fetch",
        "follow it to its end, then write its run directory",
        " It starts nothing that is paid for. Ctrl-C leaves off and stops nothing.",
    )
    verb(
        "resume",
        "start what is still to come, and fetch it",
        " That is the training of the best, once a search by a tuning job is over or was stopped;"
        " or the first job, if the launch broke off before AWS had it.",
    )
    fetching.add_argument(
        "--now", action="store_true", help="what there is at this moment; nothing is started"
    )
    given = parser.parse_args(argv)
    if given.verb == "list" and given.all:
        _list_all(given.region)
        return 0
    if given.verb == "list":
        _list(given.runs)
        return 0
    if given.verb == "stop" and (alone := _without_record(given.name, given.runs, given.region)):
        from breedlab.backends.sagemaker.jobs.account_jobs import stop

        stop(alone, given.name)
        return 0
    account, record = _found(given.name, given.runs, given.region, given.verb)
    if given.verb == "show" and given.log:
        _log(account, record, given.trial)
    elif given.verb == "show":
        _show(account, record)
    elif given.verb == "stop":
        _stop(account, record)
    elif given.verb == "fetch" and given.now:
        from breedlab.backends.sagemaker.jobs.fetch import fetch

        print(fetch(account, record, partly=True))
    else:
        from breedlab.backends.sagemaker.jobs.fetch import finish

        if given.verb == "resume":
            record = _resumed(account, record)
        finish(account, record, start=given.verb == "resume", stopped_too=given.verb == "resume")
    return 0


def _without_record(name: str, runs: Path, region: str | None) -> boto3.Session | None:
    """Return a session to stop a job in that was not launched from here; None if it was, or it is
    no job's name."""
    from breedlab.backends.sagemaker.jobs.record import find
    from breedlab.backends.sagemaker.session import connect

    if "/" in name or Path(name, "config.yaml").is_file() or find(name, runs) is not None:
        return None
    return connect(region, "--region")


def _resumed(account: boto3.Session, record: Record) -> Record:
    """Return the record with its first job started, if that had never come to AWS.

    Raises:
        BackendError: If what is still to be paid for is above `backend.max_bill`.
    """
    from breedlab.backends.sagemaker.jobs.launch import start_first
    from breedlab.backends.sagemaker.jobs.status import first_status
    from breedlab.backends.sagemaker.prices import bill_problems
    from breedlab.config import trial_count

    config = record.experiment().config
    lost = first_status(account, record).state is None
    trials = trial_count(config) if lost else 0
    for problem in bill_problems(config.backend, record.place.region, trials, record.searches):
        raise BackendError(f"{problem.path}: {problem.message}")
    return start_first(account, record) if lost else record


def _found(name: str, runs: Path, region: str | None, verb: str) -> tuple[boto3.Session, Record]:
    from breedlab.backends.sagemaker.jobs.record import find, find_in_bucket
    from breedlab.backends.sagemaker.session import connect

    record = find(name, runs)
    # a job's name has no slash
    if record is None and ("/" in name or Path(name, "config.yaml").is_file()):
        raise BackendError(f"{name}: {_without_job(Path(name), verb)}")
    account = connect(record.place.region if record else region, "--region")
    return account, record or find_in_bucket(account, name)


def _without_job(place: Path, verb: str) -> str:
    """Why a folder stands for no job."""
    if (place / "config.yaml").is_file():
        return f"this run trained here, not on SageMaker; there is no job to {verb}"
    state = "is no run directory" if place.is_dir() else "is not there"
    return (
        f"{state}; expected a job's name or the run directory of its launch:"
        f" {command('jobs', 'list')}"
    )


def _list(runs: Path) -> None:
    from breedlab.backends.sagemaker.jobs.record import local_records
    from breedlab.backends.sagemaker.jobs.status import first_status, training_status
    from breedlab.backends.sagemaker.session import connect
    from breedlab.console import console, table, warn

    records = local_records(runs)
    if not records:
        print(
            f"no job was launched from here ({runs}); launch one:"
            f" {command('launch', 'backend=sagemaker ...')}"
        )
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
            first = first_status(account, record)
            state = _words(first) if first.state else _never(record)
            if record.searches and (final := training_status(account, record.final_name)).state:
                state = f"search {state}; training {_words(final)}"
        fetched = "yes" if record.run and (record.run / "metrics.json").exists() else ""
        rows.append(
            [
                record.name,
                record.config["name"],
                record.started[:16].replace("T", " "),
                state,
                fetched,
            ]
        )
    console.print(table("Jobs", ["job", "experiment", "started", "state", "fetched"], rows))


def _show(account: boto3.Session, record: Record) -> None:
    from breedlab.backends.sagemaker.jobs.follow import Log, trial_board
    from breedlab.backends.sagemaker.jobs.status import first_status, list_trials, training_status
    from breedlab.console import console
    from breedlab.tuning.trial_log import read_trial

    experiment = record.experiment()
    status = first_status(account, record)
    final = training_status(account, record.final_name) if record.searches else None
    lines = [
        ("experiment", f"{experiment.config.name}, launched {record.started}"),
        (
            "search" if record.searches else "training",
            f"{record.name}: {_words(status) if status.state else _never(record)}",
        ),
    ]
    if final is not None:
        not_started = (
            f"not started; `{command('jobs', 'resume')}` starts it when the search is over"
        )
        begun = _words(final) if final.state else not_started
        lines.append(("training", f"{record.final_name}: {begun}"))
    lines += [
        ("files", experiment.uri() + "/"),
        ("curves", f"tensorboard --logdir {experiment.uri()}"),
        ("run", str(record.run) if record.run else "not fetched to this machine"),
    ]
    for title, text in lines:
        console.print(f"{title:12}{text}", markup=False)
    if status.state is None:
        return
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
    from breedlab.backends.sagemaker.jobs.follow import Log
    from breedlab.backends.sagemaker.jobs.status import list_trials, training_status
    from breedlab.console import console

    jobs = [record.final_name]
    if record.searches and (
        trial is not None or training_status(account, record.final_name).state is None
    ):
        trials = list_trials(account, record.name)
        jobs = [t.job for t in trials if trial is None or t.row.number == trial]
        if trial is not None and not jobs:
            raise BackendError(
                f"--trial {trial}: the search has {len(trials)} trials so far, counted from 0"
            )
    for job in jobs:
        lines = list(Log(account, job).news())
        if len(jobs) > 1:
            console.print(f"› {job}", markup=False)
        for line in lines or ["(nothing was printed yet)"]:
            console.print(line, markup=False)


def _stop(account: boto3.Session, record: Record) -> None:
    from breedlab.backends.sagemaker.jobs.account_jobs import stop_job
    from breedlab.backends.sagemaker.jobs.status import training_status, tuning_status

    jobs = [(training_status(account, record.final_name), True)]
    if record.searches:
        jobs.append((tuning_status(account, record.name), False))
    running = [(status, training) for status, training in jobs if status.state == "InProgress"]
    for status, training in running:
        stop_job(account, status.name, status.arn, training=training)
        print(
            f"{status.name}: told to stop; what it has done so far stays in"
            f" {record.experiment().uri()}/"
        )
    if not running:
        known = "; ".join(f"{status.name}: {_words(status)}" for status, _ in jobs if status.state)
        print(f"nothing to stop: {known or f'{record.name}: {_never(record)}'}")


def _list_all(region: str | None) -> None:
    from datetime import datetime

    from breedlab.backends.sagemaker.jobs.account_jobs import find_ours
    from breedlab.backends.sagemaker.session import connect
    from breedlab.console import console, table

    account = connect(region, "--region")
    rows = []
    for job in find_ours(account):
        hours = (datetime.now(job.created.tzinfo) - job.created).total_seconds() / 3600
        age = f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.1f} h"
        price = "?" if job.price is None else f"${job.price:.2f}" if job.price else ""
        rows.append([job.name, job.kind, job.experiment, job.user, age, job.state, price])
    if not rows:
        print(f"no job in {account.region_name} has breedlab's tag")
        return
    columns = ["job", "kind", "experiment", "user", "age", "state", "an hour"]
    console.print(table(f"Jobs in {account.region_name}", columns, rows))


def _never(record: Record) -> str:
    """What is said of a record whose job AWS does not have."""
    where = f"{record.name} --region {record.place.region}"
    if record.state == "sending":
        return (
            "AWS has no such job: its launch broke off; start it:"
            f" {command('jobs', 'resume', where)}"
        )
    return "no longer there"


def _words(status: Status) -> str:
    if status.state is None:
        return "not there"
    detail = status.detail if status.detail not in ("", status.state) else ""
    parts = [status.state, detail, status.reason]
    return ", ".join(part for part in parts if part)
