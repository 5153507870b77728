"""Make and start an experiment's pipeline: once, even if an answer is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from breedlab.backends.sagemaker.endpoints.registry import ensure_group
from breedlab.backends.sagemaker.jobs import job_start
from breedlab.backends.sagemaker.jobs.job_secrets import with_secrets
from breedlab.backends.sagemaker.jobs.pipeline import requests
from breedlab.backends.sagemaker.jobs.pipeline_status import described_pipeline
from breedlab.backends.sagemaker.jobs.record import Record
from breedlab.backends.sagemaker.jobs.recorded_start import start_on_record
from breedlab.backends.sagemaker.request import Request
from breedlab.backends.sagemaker.sending import is_denied, is_missing, is_there_already
from breedlab.backends.sagemaker.session import aws_errors, client
from breedlab.console import note, stage
from breedlab.errors import BackendError, LostAnswer

if TYPE_CHECKING:
    import boto3


def start_pipeline(account: boto3.Session, record: Record) -> Record:
    """Make an experiment's pipeline and start it; its record is written before.

    Raises:
        Detached: After Ctrl-C; it may have been started.
        BackendError: If AWS refuses; then nothing is left of it. Or if no answer came; then its
            record is.
    """
    experiment = record.experiment()
    definition_requests = requests(experiment, record.git, with_secrets, record.started)
    stage(f"Starting the pipeline {record.name}")
    return start_on_record(
        account,
        record,
        experiment.config.backend.kms.output,
        record.name,
        lambda: _send(account, definition_requests),
    )


def _send(account: boto3.Session, requests: list[Request]) -> str:
    """Create a pipeline, start it, and return the ARN of its execution; one that is refused its
    start is deleted again."""
    for group in (each for each in requests if each.operation == "CreateModelPackageGroup"):
        ensure_group(account, group)
    pipeline = next(each for each in requests if each.operation == "CreatePipeline")
    created = _create(account, pipeline)
    try:
        return _start(account, requests[-1])
    except LostAnswer:
        raise
    except (BackendError, OSError):
        if created:
            with suppress(BackendError), aws_errors(pipeline.name):
                client(account, "sagemaker").delete_pipeline(PipelineName=pipeline.name)
        raise


def _create(account: boto3.Session, request: Request) -> bool:
    """Create a pipeline; return whether it was not there before."""
    create = client(account, "sagemaker").create_pipeline
    try:
        _patiently(request.name, lambda: create(**request.parameters))
    except BackendError as error:
        if not _is_there(error.__cause__):
            raise
        existing = described_pipeline(account, request.name) or {}
        definition = json.loads(request.parameters["PipelineDefinition"])
        if json.loads(existing.get("PipelineDefinition", "null")) != definition:
            raise BackendError(
                f"{request.name}: the account already has a pipeline of this name; choose another"
                " backend.job_name"
            ) from error
        note(f"{request.name}: the pipeline already exists")
        return False
    return True


def _start(account: boto3.Session, request: Request) -> str:
    start = client(account, "sagemaker").start_pipeline_execution
    answer = _patiently(request.name, lambda: start(**request.parameters), new=True)
    return str(answer["PipelineExecutionArn"])


def _patiently(name: str, call: Callable[[], Any], new: bool = False) -> Any:
    """Return what a call answers; it is made again where AWS does not know yet what was made just
    before.

    Args:
        name: The pipeline's.
        call: Its token makes a second one do nothing new.
        new: Whether the pipeline was just made: its tags, by which the caller may be allowed to
            start it, arrive after it (the SDK retries AccessDeniedException for the same reason).

    Raises:
        LostAnswer: If it is not known whether the call arrived.
        BackendError: If AWS refuses.
    """
    for pause in (*job_start.PAUSES, None):
        try:
            with aws_errors(name):
                return call()
        except BackendError as error:
            cause = error.__cause__
            early = job_start.is_not_yet(cause) or (new and _is_early(cause))
            if pause is not None and early:
                time.sleep(pause)
                continue
            if job_start.may_have_arrived(cause) and not _is_there(cause):
                raise LostAnswer(
                    f"{name}: AWS's response was lost, so it may have started: {error}"
                ) from error
            raise
    raise AssertionError("the last attempt returns or raises")


def _is_there(cause: BaseException | None) -> bool:
    from botocore.exceptions import ClientError

    return isinstance(cause, ClientError) and is_there_already(cause)


def _is_early(cause: BaseException | None) -> bool:
    from botocore.exceptions import ClientError

    return isinstance(cause, ClientError) and (is_missing(cause) or is_denied(cause))
