"""An experiment that a pipeline in the account carries out, as `breedlab jobs` asks for it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from breedlab.backends.following import detachable
from breedlab.backends.sagemaker.jobs import follow
from breedlab.backends.sagemaker.jobs.fetch import fetch, shown, training_title
from breedlab.backends.sagemaker.jobs.handle import SageMakerExperiment, describe
from breedlab.backends.sagemaker.jobs.pipeline import SEARCH, TRAIN, token
from breedlab.backends.sagemaker.jobs.pipeline_status import (
    ENDED,
    Step,
    execution_status,
    steps_of,
    with_jobs,
)
from breedlab.backends.sagemaker.jobs.record import Record
from breedlab.backends.sagemaker.jobs.status import Status, with_stopper
from breedlab.backends.sagemaker.prices import bill_problems
from breedlab.backends.sagemaker.session import aws_errors, client
from breedlab.commands import command
from breedlab.config import trial_count
from breedlab.console import note, stage
from breedlab.errors import BackendError, JobFailed
from breedlab.tuning.trial_log import TrialLog

if TYPE_CHECKING:
    import boto3


class PipelineExperiment(SageMakerExperiment):
    """An experiment in the account whose jobs a pipeline starts."""

    def status(self) -> str:
        status = execution_status(self._account, self.record)
        if status.state is None:
            return self._missing()
        running = [step for step in self._look(status).values() if step.state in _AT_WORK]
        at = f", {running[-1].name}: {running[-1].state.lower()}" if running else ""
        return f"pipeline {describe(status)}{at}"

    def details(self) -> list[tuple[str, str]]:
        status = execution_status(self._account, self.record)
        state = describe(status) if status.state else self._missing()
        lines = [("pipeline", f"{self.name}: {state}")]
        for step in self._look(status).values():
            parts = [step.job, step.state + (f", {step.reason}" if step.reason else "")]
            lines.append((step.name, ": ".join(part for part in parts if part)))
        experiment = self.record.experiment()
        lines.append(("files", experiment.uri() + "/"))
        lines.append(("curves", f"tensorboard --logdir {experiment.uri()}"))
        return lines

    def trials(self) -> Sequence[TrialLog] | None:
        step = SEARCH if self.record.searches else TRAIN
        return super().trials() if step in self._look() else None

    def logs(self, trial: int | None = None) -> Iterator[tuple[str, Iterable[str]]]:
        if not self._look():
            return
        yield from super().logs(trial)

    def stop(self) -> list[str]:
        from breedlab.backends.sagemaker.jobs.account_jobs import stop_pipeline

        status = execution_status(self._account, self.record)
        if status.state != "Executing":
            state = describe(status) if status.state else self._missing()
            return [f"nothing to stop: {self.name}: {state}"]
        stop_pipeline(self._account, self.name, status.arn)
        return [
            f"{self.name}: stopping, along with its current job; what that job has written"
            f" stays in {self.record.experiment().uri()}/"
        ]

    def results(self, *, now: bool = False) -> Mapping[str, Any]:
        if now:
            self._look()
            return {"run": str(fetch(self._account, self.record, partly=True))}
        with detachable(self.record.name, follow.ways_on(self.record)):
            if self.record.searches:
                self._wait_for(SEARCH)
                stage(f"Search: {self.record.first_job}")
                follow.follow_tuning(self._account, self.record)
            self._wait_for(TRAIN)
            stage(training_title(self.record))
            follow.follow_training(self._account, self.record)
            self._wait_for(None)
            run = fetch(self._account, self.record)
        return shown(self.record, run)

    def follow(self) -> Mapping[str, Any]:
        return self.results()

    def resume(self) -> Mapping[str, Any]:
        """Start the pipeline, if its launch was interrupted, or the steps that failed or were
        stopped.

        Raises:
            BackendError: If what is still to be paid for is above `backend.max_bill`.
        """
        from breedlab.backends.sagemaker.jobs.launch import start

        status = execution_status(self._account, self.record)
        if status.state in ("Succeeded", "Executing", "Stopping"):
            return self.results()
        steps = self._look(status)
        searched = SEARCH in steps and steps[SEARCH].state == "Succeeded"
        config, region = self.config(), self.record.place.region
        trials = 0 if searched else trial_count(config)
        for problem in bill_problems(config.backend, region, trials, self.record.searches):
            raise BackendError(f"{problem.path}: {problem.message}")
        if status.state is None:
            self.record = start(self._account, self.record)
        else:
            _retry(self._account, self.record, status)
            note(f"{self.name}: resumed; steps that succeeded are kept")
        return self.results()

    def _look(self, status: Status | None = None) -> dict[str, Step]:
        """Return the steps that have begun, and take over the names of their jobs.

        Args:
            status: The execution's, where it was just asked for.
        """
        status = status or execution_status(self._account, self.record)
        if status.state is None:
            return {}
        steps = steps_of(self._account, status.arn)
        self.record = with_jobs(self.record, steps)
        return steps

    def _wait_for(self, step: str | None) -> None:
        """Wait until a step has its job, or all have ended.

        Raises:
            JobFailed: If the execution ended otherwise.
        """
        last_line = ""
        while True:
            status = execution_status(self._account, self.record)
            steps = self._look(status)
            if step in steps and steps[step].job:
                return
            if status.state == "Succeeded" and step is None:
                for each in steps.values():
                    if each.name not in (SEARCH, TRAIN):
                        note(f"{each.name}: {each.job}")
                return
            if status.state is None or status.state in ENDED:
                raise JobFailed(_ending(self._account, self.record, status, steps))
            title = f"{self.name}: {status.state}"
            if title != last_line:
                note(title)
            last_line = title
            time.sleep(follow.POLL_SECONDS)


_AT_WORK = ("Starting", "Executing", "Stopping", "Failed")


def _retry(account: boto3.Session, record: Record, status: Status) -> None:
    """Continue an execution that failed or was stopped.

    AWS's guide has two words for it, and its API this one call: "To resume the execution from where
    it was stopped, choose Resume"; of one that failed, "choose Retry to resume running the pipeline
    from that step" (dg/run-pipeline.html).
    """
    attempt = token("retry", status.arn, str(time.time()))
    with aws_errors(record.name):
        client(account, "sagemaker").retry_pipeline_execution(
            PipelineExecutionArn=status.arn, ClientRequestToken=attempt
        )


def _ending(
    account: boto3.Session, record: Record, status: Status, steps: Mapping[str, Step]
) -> str:
    """Return how an execution ended that left no model, and what to do about it."""
    where = ("--region", record.place.region)
    if status.state is None:
        return f"{record.name}: no pipeline of this name in {record.place.region}"
    reason = f": {status.reason}" if status.reason else ""
    lines = [f"{record.name}: {status.state.lower()}{reason}"]
    lines += [
        f"  {step.name}: {step.job or 'not started'}: {step.reason or step.state.lower()}"
        for step in steps.values()
        if step.state in ("Failed", "Stopped")
    ]
    if status.state == "Stopped":
        pipeline = status.arn.partition("/execution/")[0]
        stopped = with_stopper(account, Status(record.name, "Stopped", arn=pipeline))
        by = stopped.stopped_by
        lines[0] += f" by {by}" if by else ""
    lines.append(f"its log: {command('jobs', 'show', record.name, *where)} --log")
    lines.append(f"resume it: {command('jobs', 'resume', record.name, *where)}")
    return "\n".join(lines)
