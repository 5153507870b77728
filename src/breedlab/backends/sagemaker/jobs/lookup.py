"""Find a job that another machine launched, by its name in the account."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from breedlab.backends.base import FILE
from breedlab.backends.sagemaker.jobs.pipeline_status import described_pipeline
from breedlab.backends.sagemaker.jobs.record import Record, from_tree
from breedlab.backends.sagemaker.session import aws_errors, client, split_uri
from breedlab.commands import command
from breedlab.config.migrations import KEY, upgrade
from breedlab.errors import NotFound, NotOurs
from breedlab.files import damaged

if TYPE_CHECKING:
    import boto3


def find_in_bucket(session: boto3.Session, name: str) -> Record:
    """Return the record of a job launched from another machine, read from where AWS says the job
    writes.

    Raises:
        BackendError: If there is no such job, or it is not breedlab's.
    """
    output = _output_of(session, name)
    bucket, key = split_uri(output)
    folder = key.rpartition("/output")[0]
    s3 = client(session, "s3")
    with aws_errors(name):
        try:
            text = s3.get_object(Bucket=bucket, Key=f"{folder}/{FILE}")["Body"].read().decode()
        except s3.exceptions.NoSuchKey as error:
            raise NotOurs(f"{name}: breedlab did not launch this job of the account") from error
    return _read(text)


def _output_of(session: boto3.Session, name: str) -> str:
    """Return the output address of a job of either kind."""
    from botocore.exceptions import ClientError

    sagemaker = client(session, "sagemaker")
    for operation, key in (
        ("describe_hyper_parameter_tuning_job", "HyperParameterTuningJobName"),
        ("describe_training_job", "TrainingJobName"),
    ):
        with aws_errors(name):
            try:
                response = getattr(sagemaker, operation)(**{key: name})
            except ClientError as error:
                if error.response["Error"]["Code"] not in (
                    "ResourceNotFound",
                    "ValidationException",
                ):
                    raise
            else:
                return str(
                    response.get("TrainingJobDefinition", response)["OutputDataConfig"][
                        "S3OutputPath"
                    ]
                )
    if pipeline := described_pipeline(session, name):
        if output := _output_of_steps(json.loads(pipeline["PipelineDefinition"])):
            return output
        raise NotOurs(f"{name}: breedlab did not launch this pipeline of the account")
    where = session.region_name
    raise NotFound(
        f"{name}: no job of this name in {where}; list yours with `{command('jobs', 'list')}`"
    )


def _output_of_steps(definition: Mapping[str, Any]) -> str | None:
    """Return where the first step of a pipeline writes its output; None if nothing says."""
    for step in definition.get("Steps", []):
        arguments = step.get("Arguments", {})
        job = arguments.get("TrainingJobDefinition", arguments)
        output = job.get("OutputDataConfig", {}).get("S3OutputPath")
        return output if isinstance(output, str) else None
    return None


def _read(text: str) -> Record:
    place = f"the record ({FILE}) in the bucket"
    try:
        recorded = json.loads(text)
    except ValueError as error:
        raise damaged(place, "it is empty" if not text.strip() else str(error)) from error
    source = f"{recorded.get('name', '')}: {FILE}"
    tree = upgrade(recorded, "job", source)
    tree["config"] = upgrade({KEY: recorded.get(KEY, 1), **tree["config"]}, "run", source)
    return from_tree(tree, None)
