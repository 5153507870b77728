"""`breedlab jobs`: what was launched to run elsewhere than in this process."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from breedlab.cli.parser import Parser
from breedlab.commands import command
from breedlab.errors import BackendError

if TYPE_CHECKING:
    from breedlab.backends.base import Handle


def main(argv: list[str]) -> int:
    """List, show, stop, or fetch jobs.

    Raises:
        BreedlabError: If there is no such job, or AWS refuses.
    """
    args = command_parser().parse_args(argv)
    if args.verb == "list" and args.all:
        _list_all(args.region)
    elif args.verb == "list":
        _list(args.runs)
    else:
        _one(args)
    return 0


def command_parser() -> Parser:
    """Return what reads the command's args."""
    parser = Parser(
        "jobs",
        "list|show|stop|fetch|resume [NAME] [flags]",
        description=f"Jobs that `{command('launch', 'backend=...')}` started elsewhere.",
        examples=("list", "fetch resnet34-hpo-261125-101750-e9"),
        notes=f"{command('jobs', 'fetch')} --help explains one of them, and so on.",
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
        "--region",
        "--where",
        help="where a job launched from another machine runs: a region, or a cluster's address"
        " (default: the AWS profile's region, RAY_ADDRESS)",
    )

    def verb(name: str, about: str, more: str = "", of_one: bool = True) -> argparse.ArgumentParser:
        description = f"{about[0].upper()}{about[1:]}.{more}"
        parents = [one, runs] if of_one else [runs]
        verb_parser: argparse.ArgumentParser = verbs.add_parser(
            name, parents=parents, help=about, description=description
        )
        return verb_parser

    listing = verb(
        "list",
        "list the jobs launched from here with their status, newest first",
        of_one=False,
    )
    listing.add_argument(
        "--all",
        action="store_true",
        help="all of breedlab's jobs in one region of the account, and on a cluster",
    )
    listing.add_argument(
        "--region",
        "--where",
        help="with --all: the region, or the cluster's address (default: the AWS profile's region,"
        " RAY_ADDRESS)",
    )
    showing = verb("show", "show a job's status and the table of its trials")
    showing.add_argument("--log", action="store_true", help="show the job's log instead")
    showing.add_argument(
        "--trial", type=int, metavar="N", help="with --log: the log of this trial of a search"
    )
    verb("stop", "stop a job; its results so far are kept")
    fetching = verb(
        "fetch",
        "follow a job to its end, then write its run directory",
        " It starts nothing that costs money. Ctrl-C stops following, not the job.",
    )
    verb(
        "resume",
        "start the remaining jobs, and fetch the result",
        " That is training with the best values, once a tuning job is finished or was stopped;"
        " or the first job, if the launch was interrupted before AWS had it.",
    )
    fetching.add_argument(
        "--now", action="store_true", help="fetch only what exists now; start nothing"
    )
    return parser


def _one(args: argparse.Namespace) -> None:
    """Show, stop, fetch, or resume one job."""
    from breedlab.backends.base import link_latest
    from breedlab.backends.launched import Launched, elsewhere, stop_elsewhere

    handle = Launched(args.runs).find(args.name)
    # A job's name has no slash.
    if handle is None and ("/" in args.name or Path(args.name, "config.yaml").is_file()):
        raise BackendError(f"{args.name}: {_without_job(Path(args.name), args.verb)}")
    if handle is None and args.verb == "stop":
        print("\n".join(stop_elsewhere(args.name, args.region)))
        return
    handle = handle or elsewhere(args.name, args.region)
    if args.verb == "show" and args.log:
        _log(handle, args.trial)
    elif args.verb == "show":
        _show(handle)
    elif args.verb == "stop":
        print("\n".join(handle.stop()))
    elif args.verb == "resume":
        handle.resume()
    elif args.now:
        print(handle.results(now=True)["run"])
    else:
        handle.results()
    if args.verb in ("resume", "fetch"):
        link_latest(handle)


def _without_job(place: Path, verb: str) -> str:
    """Return the reason why a folder is not a job's."""
    if (place / "config.yaml").is_file():
        return f"this run trained in the process that launched it, so there is no job to {verb}"
    state = "is not a run directory" if place.is_dir() else "does not exist"
    return (
        f"{state}; expected a job's name or the run directory of its launch:"
        f" {command('jobs', 'list')}"
    )


def _list(runs: Path) -> None:
    from breedlab.backends.launched import Launched
    from breedlab.console import console, table, warn

    handles = Launched(runs).all()
    if not handles:
        print(
            f"no job was launched from here ({runs}); launch one:"
            f" {command('launch', 'backend=... ...')}"
        )
        return
    warnings: set[tuple[str, str]] = set()
    rows = []
    for handle in handles:
        try:
            state = handle.status()
        except BackendError as error:
            state = "?"
            if (handle.where, str(error)) not in warnings:
                warnings.add((handle.where, str(error)))
                warn(f"the status of jobs in {handle.where or 'this machine'} is unknown: {error}")
        fetched = "yes" if handle.run and (handle.run / "metrics.json").exists() else ""
        started = handle.started[:16].replace("T", " ")
        rows.append([handle.name, handle.experiment, started, state, fetched])
    console.print(table("Jobs", ["job", "experiment", "started", "state", "fetched"], rows))


def _show(handle: Handle) -> None:
    from breedlab.config import search_space
    from breedlab.console import console
    from breedlab.tuning.trial_table import TrialTable

    run = str(handle.run) if handle.run else "not fetched to this machine"
    lines = [
        ("experiment", f"{handle.experiment}, launched {handle.started}"),
        *handle.details(),
        ("run", run),
    ]
    for title, text in lines:
        console.print(f"{title:12}{text}", markup=False)
    trials = handle.trials()
    if trials is None:
        return
    config = handle.config()
    board = TrialTable(config, list(search_space(config)))
    for trial in trials:
        board.rows[trial.number] = trial
    console.print()
    console.print(board.table())


def _log(handle: Handle, trial: int | None) -> None:
    from breedlab.console import console

    logs = [(name, list(lines)) for name, lines in handle.logs(trial)]
    for name, lines in logs:
        if len(logs) > 1:
            console.print(f"› {name}", markup=False)
        for line in lines or ["(the log is empty so far)"]:
            console.print(line, markup=False)


def _list_all(where: str | None) -> None:
    from datetime import datetime

    from breedlab.backends.launched import all_of, ready
    from breedlab.console import console, table, warn

    listings, refusals = [], []
    for backend in ready():
        try:
            listings.append(backend.everyones(where))
        except BackendError as error:
            refusals.append(error)
    found = [listing for listing in listings if listing is not None]
    if refusals and not found:
        raise all_of(refusals, "no backend could be asked for its jobs")
    if where is None:  # a place that was named is one backend's
        for refusal in refusals:
            warn(str(refusal))
    for place, jobs in found:
        rows = []
        for job in jobs:
            hours = (datetime.now(job.created.tzinfo) - job.created).total_seconds() / 3600
            age = f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.1f} h"
            price = f"${job.price:.2f}" if job.price else ""
            if job.price is None:
                price = "?"
            rows.append([job.name, job.kind, job.experiment, job.user, age, job.state, price])
        if not rows:
            print(f"no job in {place} has breedlab's tag")
            continue
        columns = ["job", "kind", "experiment", "user", "age", "state", "an hour"]
        console.print(table(f"Jobs in {place}", columns, rows))
