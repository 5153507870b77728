"""Following a job: its status, its log, the table of its trials. Leaving off never stops it.

The trials of a tuning job are jobs, which AWS lists. Those of a search inside a job are read from
its log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from breedlab.backends.sagemaker.jobs.record import Record
from breedlab.backends.sagemaker.jobs.status import (
    Status,
    list_trials,
    training_status,
    tuning_status,
    with_interval,
)
from breedlab.backends.sagemaker.session import aws_errors, client
from breedlab.commands import command
from breedlab.config import search_space, trial_count
from breedlab.console import console, note
from breedlab.tuning.trial_log import read_trial
from breedlab.tuning.trial_table import TrialTable

if TYPE_CHECKING:
    import boto3

POLL_SECONDS = 10.0
"""Between two questions to AWS, which limits how often it answers."""

LOG_GROUP = "/aws/sagemaker/TrainingJobs"


def ways_on(record: Record) -> str:
    """Return how to follow a job again, and how to stop it."""
    where = f"{record.name} --region {record.place.region}"
    fetch, stop = command("jobs", "fetch", where), command("jobs", "stop", where)
    return f"follow it with: {fetch}\nstop it with:   {stop}"


def follow_tuning(account: boto3.Session, record: Record) -> Status:
    """Show a tuning job until it ends."""
    board = trial_board(record)
    metric = record.experiment().config.monitor.metric
    shown: set[int] = set()
    last_status = ""
    with board.live():
        while True:
            status = tuning_status(account, record.first_job)
            for trial in list_trials(account, record.first_job):
                row = trial.row
                if row.state == "running":
                    board.show(row)
                elif row.number not in shown:
                    shown.add(row.number)
                    board.finished(with_interval(account, trial, metric))
            title = f"{record.first_job}: {status.state}, {status.detail}"
            board.head(title)
            if title != last_status and not console.is_terminal:
                note(title)
            last_status = title
            if status.ended:
                return status
            time.sleep(POLL_SECONDS)


def follow_training(account: boto3.Session, record: Record) -> Status:
    """Show a training job's status and log until it ends; during a search inside it, also the table
    of its trials."""
    name = record.final_job
    log = Log(account, name)
    board = trial_board(record) if record.searches_inside else None
    total = trial_count(record.experiment().config)
    last_status = ""
    with _screen(board, name) as head:
        while True:
            status = training_status(account, name)
            if status.detail != last_status:
                last_status = status.detail
                note(f"{name}: {last_status}")
            for line in log.news():
                row = read_trial(line) if board and board.is_live else None
                if board and row:
                    board.show(row)
                else:
                    console.print(line, markup=False)
            progress = f", {board.ended()} of {total} trials ended" if board else ""
            head(f"{name}: {status.detail}, {status.seconds / 60:.0f} min{progress}")
            if status.ended:
                return status
            time.sleep(POLL_SECONDS)


def trial_board(record: Record) -> TrialTable:
    """Return an empty table for an experiment's trials."""
    config = record.experiment().config
    return TrialTable(config, list(search_space(config)))


@contextmanager
def _screen(board: TrialTable | None, name: str) -> Iterator[Callable[[str], None]]:
    """Show a status line at the bottom of the screen, and give a way to update it."""
    if board is None:
        with console.status(f"{name}: starting") as spinner:
            yield spinner.update
        return
    board.head(f"{name}: starting")
    with board.live():
        yield board.head


class Log:
    """What a training job prints, from all its instances.

    The SDK's own reader keeps one client for the whole process, of the profile's region instead of
    the job's.
    """

    def __init__(self, account: boto3.Session, name: str) -> None:
        self._logs = client(account, "logs")
        self._name = name
        self._tokens: dict[str, str] = {}

    def news(self) -> Iterator[str]:
        """Yield the lines since the last call; nothing before the log exists."""
        from botocore.exceptions import ClientError

        with aws_errors(f"{LOG_GROUP} {self._name}"):
            try:
                pages = self._logs.get_paginator("describe_log_streams").paginate(
                    logGroupName=LOG_GROUP, logStreamNamePrefix=f"{self._name}/"
                )
                streams = sorted(
                    stream["logStreamName"] for page in pages for stream in page["logStreams"]
                )
            except ClientError as error:
                if error.response["Error"]["Code"] != "ResourceNotFoundException":
                    raise
                return
            for stream in streams:
                host = stream.removeprefix(f"{self._name}/").split("/")[0].rsplit("-", 1)[0]
                mark = f"[{host}] " if len(streams) > 1 else ""
                yield from (mark + line for line in self._lines(stream))

    def _lines(self, stream: str) -> Iterator[str]:
        while True:
            last = self._tokens.get(stream)
            token = {"nextToken": last} if last else {}
            answer = self._logs.get_log_events(
                logGroupName=LOG_GROUP, logStreamName=stream, startFromHead=True, **token
            )
            self._tokens[stream] = answer["nextForwardToken"]
            for event in answer["events"]:
                yield from str(event["message"]).splitlines()
            if not answer["events"] or answer["nextForwardToken"] == last:
                return
