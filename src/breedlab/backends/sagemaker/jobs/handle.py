"""A launched experiment as `breedlab jobs` asks for it: one job, or a tuning job and the final
training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from breedlab.backends.base import Handle
from breedlab.backends.sagemaker.jobs.follow import Log, ways_on
from breedlab.backends.sagemaker.jobs.record import Record
from breedlab.backends.sagemaker.jobs.status import (
    Status,
    first_status,
    list_trials,
    training_status,
    tuning_status,
    with_stopper,
)
from breedlab.commands import command
from breedlab.config import Config
from breedlab.errors import BackendError
from breedlab.tuning.trial_log import TrialLog, read_trial

if TYPE_CHECKING:
    import boto3


class SageMakerExperiment(Handle):
    """An experiment in the account, known by its record.

    Args:
        record: Its record.
        connect: Returns the session to ask AWS by; called when AWS is first asked.
    """

    def __init__(self, record: Record, connect: Callable[[], boto3.Session]) -> None:
        self.record, self._connect = record, connect
        self.name, self.experiment = record.name, str(record.config["name"])
        self.started, self.run, self.where = record.started, record.run, record.place.region

    @property
    def names(self) -> tuple[str, ...]:
        return (self.record.name, self.record.final_name)

    @cached_property
    def _account(self) -> boto3.Session:
        return self._connect()

    def config(self) -> Config:
        return self.record.experiment().config

    def status(self) -> str:
        first = first_status(self._account, self.record)
        state = describe(first) if first.state else self._missing()
        if self.record.searches:
            final = training_status(self._account, self.record.final_job)
            if final.state:
                return f"search {state}; training {describe(final)}"
        return state

    def details(self) -> list[tuple[str, str]]:
        record = self.record
        status = first_status(self._account, record)
        kind = "search" if record.searches else "training"
        state = self._state_and_ending(status) if status.state else self._missing()
        lines = [(kind, f"{record.name}: {state}")]
        if record.searches:
            final = training_status(self._account, record.final_name)
            final_state = (
                self._state_and_ending(final)
                if final.state
                else f"not started; `{command('jobs', 'resume')}` starts it when the search is over"
            )
            lines.append(("training", f"{record.final_name}: {final_state}"))
        experiment = record.experiment()
        lines.append(("files", experiment.uri() + "/"))
        lines.append(("curves", f"tensorboard --logdir {experiment.uri()}"))
        return lines

    def trials(self) -> Sequence[TrialLog] | None:
        record = self.record
        if not (record.searches or record.searches_inside):
            return None
        if first_status(self._account, record).state is None:
            return None
        if record.searches:
            return [trial.row for trial in list_trials(self._account, record.first_job)]
        return [
            row for line in Log(self._account, record.first_job).news() if (row := read_trial(line))
        ]

    def logs(self, trial: int | None = None) -> Iterator[tuple[str, Iterable[str]]]:
        record = self.record
        jobs = [record.final_job]
        if record.searches and (
            trial is not None or training_status(self._account, record.final_job).state is None
        ):
            trials = list_trials(self._account, record.first_job)
            jobs = [t.job for t in trials if trial is None or t.row.number == trial]
            if trial is not None and not jobs:
                raise BackendError(
                    f"--trial {trial}: the search has {len(trials)} trials so far, counted from 0"
                )
        for job in jobs:
            yield job, Log(self._account, job).news()

    def stop(self) -> list[str]:
        from breedlab.backends.sagemaker.jobs.account_jobs import stop_job

        record = self.record
        jobs = [(training_status(self._account, record.final_name), True)]
        if record.searches:
            jobs.append((tuning_status(self._account, record.name), False))
        running = [(status, training) for status, training in jobs if status.state == "InProgress"]
        lines = []
        for status, training in running:
            stop_job(self._account, status.name, status.arn, training=training)
            lines.append(
                f"{status.name}: stopping; what it has written stays in"
                f" {record.experiment().uri()}/"
            )
        if not running:
            states = [f"{status.name}: {describe(status)}" for status, _ in jobs if status.state]
            summary = "; ".join(states) or f"{record.name}: {self._missing()}"
            lines.append(f"nothing to stop: {summary}")
        return lines

    def results(self, *, now: bool = False) -> Mapping[str, Any]:
        from breedlab.backends.sagemaker.jobs.fetch import fetch, finish

        if now:
            return {"run": str(fetch(self._account, self.record, partly=True))}
        return finish(self._account, self.record, start=False)

    def follow(self) -> Mapping[str, Any]:
        from breedlab.backends.sagemaker.jobs.fetch import finish

        return finish(self._account, self.record, start=True)

    def resume(self) -> Mapping[str, Any]:
        """Start the first job, if that never reached AWS, or the training of the search's best.

        Raises:
            BackendError: If what is still to be paid for is above `backend.max_bill`.
        """
        from breedlab.backends.sagemaker.jobs.fetch import finish
        from breedlab.backends.sagemaker.jobs.launch import start_first
        from breedlab.backends.sagemaker.prices import bill_problems
        from breedlab.config import trial_count

        account, record = self._account, self.record
        config = self.config()
        is_unknown = first_status(account, record).state is None
        trials = trial_count(config) if is_unknown else 0
        for problem in bill_problems(config.backend, record.place.region, trials, record.searches):
            raise BackendError(f"{problem.path}: {problem.message}")
        if is_unknown:
            record = start_first(account, record)
        return finish(account, record, start=True, stopped_too=True)

    def next_steps(self) -> list[str]:
        return ways_on(self.record).splitlines()

    def _state_and_ending(self, status: Status) -> str:
        """Return a job's state and, if it ended without completing, how and what to do about it."""
        if not status.ended or status.state == "Completed":
            return describe(status)
        ending = with_stopper(self._account, status).ending(
            self.config().backend, self.record.place.region
        )
        return f"{describe(replace(status, reason=''))}: {ending}"

    def _missing(self) -> str:
        """Return the status of a record whose job AWS does not know."""
        where = f"{self.record.name} --region {self.record.place.region}"
        if self.record.state == "sending":
            return (
                "AWS does not know this job, so its launch was interrupted; start it with:"
                f" {command('jobs', 'resume', where)}"
            )
        return "no longer exists"


def describe(status: Status) -> str:
    """Return a status in a few words."""
    if status.state is None:
        return "not found"
    detail = status.detail if status.detail not in ("", status.state) else ""
    parts = [status.state, detail, status.reason]
    return ", ".join(part for part in parts if part)
