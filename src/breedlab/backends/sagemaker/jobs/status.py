"""The status of jobs, asked of AWS and translated to the terms of the rest of the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from breedlab.backends.sagemaker.jobs.hyperparameters import decode
from breedlab.backends.sagemaker.jobs.record import Record
from breedlab.backends.sagemaker.session import aws_errors, client
from breedlab.backends.sagemaker.tags import STOPPED_BY, read_tags
from breedlab.commands import command
from breedlab.config.backend import Backend
from breedlab.errors import BackendError
from breedlab.training.objective import interval_names
from breedlab.tuning.trial_log import TrialLog

if TYPE_CHECKING:
    import boto3

ENDED = ("Completed", "Failed", "Stopped")

_STATES = {
    "Completed": "complete",
    "Failed": "failed",
    "Stopped": "pruned",
    "InProgress": "running",
}


@dataclass(frozen=True)
class Status:
    """The status of one job.

    Attributes:
        name: Of the job.
        state: AWS's word, such as `InProgress`, `Completed`, `Failed`, `Stopped`; None if there is
            no such job.
        detail: What it is doing just now, such as `Downloading`.
        reason: Why it failed, else empty.
        seconds: How long it has run.
        arn: Its address in the account.
        stopped_by: Who had `breedlab jobs stop` stop it, else empty.
    """

    name: str
    state: str | None
    detail: str = ""
    reason: str = ""
    seconds: float = 0.0
    arn: str = ""
    stopped_by: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def ending(self, backend: Backend, region: str) -> str:
        """Return how a job ended that did not complete, and what to do about it."""
        if self.detail == "MaxRuntimeExceeded":
            return (
                f"it reached the {backend.max_run_hours:g} hours of backend.max_run_hours and was"
                " stopped; raise that, or train for fewer epochs"
            )
        if self.detail == "MaxWaitTimeExceeded":
            return (
                "it waited and ran longer than backend.max_wait_hours allows; raise that, or set"
                " backend.spot=false"
            )
        kind = backend.instance_type
        if self.reason.startswith("CapacityError") or "InsufficientInstanceCapacity" in self.reason:
            return (
                f"AWS had no capacity for {kind} in {region}: {self.reason}; try again later, or"
                " use another backend.instance_type or backend.region"
            )
        if self.reason.startswith("InternalServerError"):
            return (
                f"an internal AWS error: {self.reason}; launch again, or let backend.retries do"
                " that"
            )
        if self.reason:
            return self.reason
        if self.state == "Stopped":
            stop = command("jobs", "stop")
            if self.stopped_by:
                return f"{self.stopped_by} stopped it with {stop}"
            return f"someone stopped it in the AWS console or through the API, not with {stop}"
        return "no reason given"


def training_status(account: boto3.Session, name: str) -> Status:
    """Return the status of a training job."""
    job = _described(account, "describe_training_job", TrainingJobName=name)
    if job is None:
        return Status(name, None)
    return Status(
        name,
        job["TrainingJobStatus"],
        job.get("SecondaryStatus", ""),
        job.get("FailureReason", ""),
        _seconds(job, "TrainingStartTime", "TrainingEndTime"),
        job["TrainingJobArn"],
    )


def tuning_status(account: boto3.Session, name: str) -> Status:
    """Return the status of a tuning job."""
    job = _described(
        account, "describe_hyper_parameter_tuning_job", HyperParameterTuningJobName=name
    )
    if job is None:
        return Status(name, None)
    counts = job.get("TrainingJobStatusCounters", {})
    failed = counts.get("NonRetryableError", 0) + counts.get("RetryableError", 0)
    words = [
        f"{counts.get('Completed', 0)} trials complete",
        f"{counts.get('InProgress', 0)} running",
    ]
    words += [f"{counts['Stopped']} stopped early"] if counts.get("Stopped") else []
    words += [f"{failed} failed"] if failed else []
    return Status(
        name,
        job["HyperParameterTuningJobStatus"],
        ", ".join(words),
        job.get("FailureReason", ""),
        _seconds(job, "CreationTime", "HyperParameterTuningEndTime"),
        job["HyperParameterTuningJobArn"],
    )


def described(account: boto3.Session, name: str, *, training: bool) -> dict[str, Any] | None:
    """Return AWS's description of a job; None if there is none of that name."""
    if training:
        return _described(account, "describe_training_job", TrainingJobName=name)
    return _described(
        account, "describe_hyper_parameter_tuning_job", HyperParameterTuningJobName=name
    )


def with_stopper(account: boto3.Session, status: Status) -> Status:
    """Return a status with who stopped the job, as far as its tags say; see `breedlab jobs
    stop`."""
    if status.state != "Stopped" or not status.arn:
        return status
    try:
        tags = tags_of(account, status.arn)
    except BackendError:  # it is only an explanation
        return status
    return replace(status, stopped_by=tags.get(STOPPED_BY, ""))


def tags_of(account: boto3.Session, arn: str) -> dict[str, str]:
    """Return the tags of something in the account."""
    with aws_errors(arn):
        return read_tags(client(account, "sagemaker"), arn)


def first_status(account: boto3.Session, record: Record) -> Status:
    """Return the status of an experiment's first job."""
    return (
        tuning_status(account, record.first_job)
        if record.searches
        else training_status(account, record.first_job)
    )


@dataclass(frozen=True)
class Trial:
    """One training job of a tuning job: its name, and its row in the table of trials."""

    job: str
    row: TrialLog


def list_trials(account: boto3.Session, tuning: str) -> list[Trial]:
    """Return the trials of a tuning job, in the order in which they started, counted from 0."""
    sagemaker = client(account, "sagemaker")
    with aws_errors(tuning):
        pages = sagemaker.get_paginator(
            "list_training_jobs_for_hyper_parameter_tuning_job"
        ).paginate(HyperParameterTuningJobName=tuning, SortBy="CreationTime", SortOrder="Ascending")
        summaries = [summary for page in pages for summary in page["TrainingJobSummaries"]]
    return [
        Trial(summary["TrainingJobName"], _row(number, summary))
        for number, summary in enumerate(summaries)
    ]


def with_interval(account: boto3.Session, trial: Trial, metric: str) -> TrialLog:
    """Return the row of a trial that has ended, with the 95% interval of its objective where its
    log had one."""
    try:
        job = described(account, trial.job, training=True) or {}
    except BackendError:  # the objective is known without it
        return trial.row
    found = {each["MetricName"]: each["Value"] for each in job.get("FinalMetricDataList", [])}
    low, high = interval_names(metric)
    if not {low, high} <= found.keys():
        return trial.row
    return replace(trial.row, span=(float(found[low]), float(found[high])))


def _row(number: int, summary: Mapping[str, Any]) -> TrialLog:
    metric = summary.get("FinalHyperParameterTuningJobObjectiveMetric")
    return TrialLog(
        number,
        decode(summary.get("TunedHyperParameters", {})),
        _STATES.get(summary["TrainingJobStatus"], summary["TrainingJobStatus"].lower()),
        metric and float(metric["Value"]),
        _seconds(summary, "TrainingStartTime", "TrainingEndTime"),
        " ".join(summary.get("FailureReason", "").split()),
    )


def _described(account: boto3.Session, operation: str, **names: str) -> dict[str, Any] | None:
    from botocore.exceptions import ClientError

    with aws_errors(next(iter(names.values()))):
        try:
            response: dict[str, Any] = getattr(client(account, "sagemaker"), operation)(**names)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("ResourceNotFound", "ValidationException"):
                return None
            raise
    return response


def _seconds(job: Mapping[str, Any], start: str, end: str) -> float:
    if start not in job:
        return 0.0
    began: datetime = job[start]
    end_time: datetime = job.get(end, datetime.now(began.tzinfo))
    return max(0.0, (end_time - began).total_seconds())
