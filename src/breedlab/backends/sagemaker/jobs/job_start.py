"""Send the request that starts a paid job: once, even if the answer is lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from breedlab.backends.sagemaker.jobs.job_secrets import with_secrets
from breedlab.backends.sagemaker.jobs.status import described
from breedlab.backends.sagemaker.request import Request
from breedlab.backends.sagemaker.session import aws_errors, client
from breedlab.console import note
from breedlab.errors import BackendError, LostAnswer

if TYPE_CHECKING:
    import boto3

PAUSES = (2.0, 4.0, 8.0)
"""Seconds between attempts where AWS does not know yet what was created a moment ago."""

_NOT_YET = ("Could not assume role", "cannot be assumed")
"""What AWS says of a role or a policy that it has but has not heard of everywhere."""


def send(account: boto3.Session, request: Request) -> None:
    """Start a job.

    boto3 sends an interrupted request again, and AWS refuses the second because of the first; so a
    job of this name that reads our own source is the one that was asked for.

    Raises:
        LostAnswer: If it is not known whether the job was started.
        BackendError: If AWS refuses it; then there is no job.
    """
    request = with_secrets(request)
    sagemaker = client(account, "sagemaker")
    training = request.operation == "CreateTrainingJob"
    create = (
        sagemaker.create_training_job if training else sagemaker.create_hyper_parameter_tuning_job
    )
    for pause in (*PAUSES, None):
        try:
            with aws_errors(request.name):
                create(**request.parameters)
            return
        except BackendError as error:
            if pause is not None and is_not_yet(error.__cause__):
                time.sleep(pause)
                continue
            if not may_have_arrived(error.__cause__):
                raise
            if _was_started(account, request, error):
                note(f"{request.name}: started, although AWS's response was lost")
                return
            raise


def is_not_yet(cause: BaseException | None) -> bool:
    """Return whether AWS has not heard everywhere of what a request names."""
    from botocore.exceptions import ClientError

    if (
        not isinstance(cause, ClientError)
        or cause.response["Error"].get("Code") != "ValidationException"
    ):
        return False
    message = str(cause.response["Error"].get("Message", ""))
    return any(text in message for text in _NOT_YET)


def may_have_arrived(cause: BaseException | None) -> bool:
    """Return whether a request that failed may have been carried out."""
    from botocore import exceptions as aws

    if isinstance(cause, aws.ClientError):
        status = int(cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400))
        return bool(cause.response["Error"].get("Code") == "ResourceInUse" or status >= 500)
    return isinstance(cause, (aws.HTTPClientError, aws.ConnectionError))


def _was_started(account: boto3.Session, request: Request, error: BackendError) -> bool:
    """Return whether the job is there and reads our source.

    Raises:
        LostAnswer: If AWS cannot be asked.
        BackendError: If another job has the name.
    """
    training = request.operation == "CreateTrainingJob"
    try:
        job = described(account, request.name, training=training)
    except BackendError as second:
        raise LostAnswer(
            f"{request.name}: AWS's response was lost, so it may have started: {second}"
        ) from error
    if job is None:
        return False
    if _source(job) != _source(request.parameters):
        raise BackendError(
            f"{request.name}: the account already has a job of this name; choose another"
            " backend.job_name"
        ) from error
    return True


def _source(job: Any) -> str | None:
    """Return the address that a job takes its source from."""
    channels = job.get("TrainingJobDefinition", job).get("InputDataConfig", [])
    return next(
        (c["DataSource"]["S3DataSource"]["S3Uri"] for c in channels if c["ChannelName"] == "code"),
        None,
    )
