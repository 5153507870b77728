"""The status of a pipeline's execution, and which jobs its steps became."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from breedlab.backends.sagemaker.jobs.pipeline import SEARCH, TRAIN
from breedlab.backends.sagemaker.jobs.record import Record
from breedlab.backends.sagemaker.jobs.status import Status
from breedlab.backends.sagemaker.sending import is_denied, is_missing
from breedlab.backends.sagemaker.session import aws_errors, client

if TYPE_CHECKING:
    import boto3

ENDED = ("Succeeded", "Failed", "Stopped", "CompletedWithFailures")


@dataclass(frozen=True)
class Step:
    """One step of an execution.

    Attributes:
        name: Its name in the definition.
        state: AWS's word, such as `Executing`.
        job: What it became: a job's name, or a version `GROUP/NUMBER`; empty before it has begun.
        reason: Why it failed, else empty.
    """

    name: str
    state: str
    job: str
    reason: str


def execution_of(account: boto3.Session, record: Record) -> str | None:
    """Return the ARN of an experiment's execution; None if its pipeline was never started.

    The record lacks it where the answer to the start was lost.
    """
    return record.execution or latest_execution(account, record.name)


def latest_execution(account: boto3.Session, pipeline: str) -> str | None:
    """Return the ARN of the newest execution of a pipeline; None if there is none."""
    from botocore.exceptions import ClientError

    with aws_errors(pipeline):
        try:
            execution = newest_execution(account, pipeline)
        except ClientError as error:
            if not is_missing(error):
                raise
            return None
    return str(execution["PipelineExecutionArn"]) if execution else None


def newest_execution(account: boto3.Session, pipeline: str) -> Mapping[str, Any] | None:
    """Return AWS's summary of the newest execution of a pipeline; None if there is none.

    Raises:
        ClientError: If AWS refuses; callers know what that means to them.
    """
    page = client(account, "sagemaker").list_pipeline_executions(
        PipelineName=pipeline, SortBy="CreationTime", SortOrder="Descending", MaxResults=1
    )
    return next(iter(page["PipelineExecutionSummaries"]), None)


def described_pipeline(account: boto3.Session, name: str) -> dict[str, Any] | None:
    """Return AWS's description of a pipeline; None if there is none of that name, or the caller may
    not look at pipelines."""
    from botocore.exceptions import ClientError

    with aws_errors(name):
        try:
            pipeline_tree: dict[str, Any] = client(account, "sagemaker").describe_pipeline(
                PipelineName=name
            )
        except ClientError as error:
            # What cannot be a pipeline's name is refused as such.
            invalid = error.response["Error"].get("Code") == "ValidationException"
            if not (is_missing(error) or is_denied(error) or invalid):
                raise
            return None
    return pipeline_tree


def execution_status(account: boto3.Session, record: Record) -> Status:
    """Return the status of an experiment's execution."""
    arn = execution_of(account, record)
    if arn is None:
        return Status(record.name, None)
    with aws_errors(record.name):
        execution = client(account, "sagemaker").describe_pipeline_execution(
            PipelineExecutionArn=arn
        )
    state = str(execution["PipelineExecutionStatus"])
    return Status(record.name, state, reason=str(execution.get("FailureReason", "")), arn=arn)


def steps_of(account: boto3.Session, execution: str) -> dict[str, Step]:
    """Return the steps of an execution that have begun, by name, in the order in which they did."""
    with aws_errors(execution):
        pages = client(account, "sagemaker").get_paginator("list_pipeline_execution_steps")
        steps = [
            each
            for page in pages.paginate(PipelineExecutionArn=execution, SortOrder="Ascending")
            for each in page["PipelineExecutionSteps"]
        ]
    return {each["StepName"]: _step(each) for each in steps}


def with_jobs(record: Record, steps: Mapping[str, Step]) -> Record:
    """Return a record with the names that AWS gave the jobs that have begun."""
    planned = {TRAIN: record.final_name}
    if record.searches:
        planned[SEARCH] = record.name
    jobs = {
        name: steps[step].job for step, name in planned.items() if step in steps and steps[step].job
    }
    return replace(record, jobs=jobs)


def _step(entry: Mapping[str, Any]) -> Step:
    metadata = entry.get("Metadata", {})
    arn = next(
        (
            str(metadata[kind]["Arn"])
            for kind in ("TuningJob", "TrainingJob", "RegisterModel")
            if metadata.get(kind, {}).get("Arn")
        ),
        "",
    )
    name = arn.rpartition(":")[2].partition("/")[2]
    reason = " ".join(str(entry.get("FailureReason", "")).split())
    return Step(str(entry["StepName"]), str(entry["StepStatus"]), name, reason)
