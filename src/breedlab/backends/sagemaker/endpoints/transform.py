"""Batch transform: a model answers every image under an address in S3, on machines that are gone
afterwards.

An image is a request: `IN/a/b.jpg` is answered in `OUT/a/b.jpg.out`, verbose JSON as an endpoint
gives it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from breedlab.backends.base import VERBOSE
from breedlab.backends.sagemaker.endpoints.endpoint import Deployment, container
from breedlab.backends.sagemaker.request import Request
from breedlab.backends.sagemaker.sending import is_missing, is_there_already, patiently, send
from breedlab.backends.sagemaker.session import aws_errors, client, split_uri
from breedlab.backends.sagemaker.tags import PREFIX, as_request, read_tags
from breedlab.config.problems import Problem
from breedlab.console import console, note, warn
from breedlab.errors import BackendError, BreedlabError, NotFound

if TYPE_CHECKING:
    import boto3

BATCH = f"{PREFIX}batch"
"""The tag of a transform job and its model; its value is the job's name."""

POLL_S = 15.0
ENDED = ("Completed", "Failed", "Stopped")
_LARGEST_MB = 100
"""What AWS sends to a container at most; what it sends unasked is 6 MB."""


@dataclass(frozen=True)
class Batch:
    """One job.

    Attributes:
        deployment: Of the model: image, archive, machine, tags; its name is the job's.
        source: Where the images are.
        target: Where the answers go.
        instances: How many machines.
        at_once: Requests at a time to a machine.
        largest_mb: The largest image, in megabytes.
    """

    deployment: Deployment
    source: str
    target: str
    instances: int = 1
    at_once: int = 1
    largest_mb: int = 6

    @property
    def name(self) -> str:
        return self.deployment.name


def requests(batch: Batch) -> list[Request]:
    """Return the requests in the order in which they are sent."""
    deployment = batch.deployment
    tags = {"Tags": as_request((*deployment.tags, *deployment.own_tags, (BATCH, batch.name)))}
    model: dict[str, Any] = {
        "ModelName": batch.name,
        "PrimaryContainer": container(deployment),
        "ExecutionRoleArn": deployment.place.role,
    }
    if deployment.network_isolation:
        model["EnableNetworkIsolation"] = True
    if deployment.subnets:
        groups = list(deployment.security_groups)
        model["VpcConfig"] = {"Subnets": list(deployment.subnets), "SecurityGroupIds": groups}
    output = {"S3OutputPath": batch.target, "Accept": VERBOSE, "AssembleWith": "None"}
    resources: dict[str, Any] = {
        "InstanceType": deployment.instance_type,
        "InstanceCount": batch.instances,
    }
    job = {
        "TransformJobName": batch.name,
        "ModelName": batch.name,
        "MaxConcurrentTransforms": batch.at_once,
        "MaxPayloadInMB": batch.largest_mb,
        "BatchStrategy": "SingleRecord",
        "TransformInput": {
            "DataSource": {
                "S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"{batch.source.rstrip('/')}/"}
            },
            # whichever format: the handler looks at the bytes
            "ContentType": "application/x-image",
            "SplitType": "None",
        },
        "TransformOutput": {
            **output,
            **({"KmsKeyId": deployment.kms_key} if deployment.kms_key else {}),
        },
        "TransformResources": resources,
    }
    return [
        Request("CreateModel", {**model, **tags}),
        Request("CreateTransformJob", {**job, **tags}),
    ]


def input_problems(account: boto3.Session, batch: Batch) -> list[Problem]:
    """Return what is wrong with the images: none there, or larger than what is sent."""
    count = 0
    for key, size in _objects(account, batch.source):
        count += 1
        if size > batch.largest_mb * 1_000_000:
            return [
                Problem(
                    "--max-image-mb",
                    f"{key} has {size / 1e6:,.1f} MB, above {batch.largest_mb}; set a higher limit,"
                    f" at most {_LARGEST_MB}",
                )
            ]
    if not count:
        return [Problem("IN", f"nothing found under {batch.source.rstrip('/')}/; expected images")]
    note(f"{batch.source}: {count:,} files")
    return []


def start(account: boto3.Session, batch: Batch) -> None:
    """Create the model and the job; if the job is refused, the model goes again.

    Raises:
        BackendError: If AWS refuses.
    """
    from botocore import exceptions as aws

    model, job = requests(batch)
    with aws_errors(batch.name):
        _send_once(account, model, "model")
        try:
            _send_once(account, job, "transform_job")
        except (aws.ClientError, BackendError):
            clean_up(account, batch.name)
            raise


def follow(account: boto3.Session, name: str) -> dict[str, Any]:
    """Wait for a job's end, remove its model, and return what AWS says of it.

    Raises:
        BackendError: If there is no such job of ours, or it failed.
    """
    last_status = ""
    with console.status(name) as status:
        while (described := _described(account, name))["TransformJobStatus"] not in ENDED:
            if described["TransformJobStatus"] != last_status:
                last_status = described["TransformJobStatus"]
                note(f"{name}: {last_status}")
            status.update(f"{name}: {last_status}; Ctrl-C leaves it to AWS")
            time.sleep(POLL_S)
    clean_up(account, name)
    source = described["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"]
    missing = unanswered(account, source, described["TransformOutput"]["S3OutputPath"])
    if (state := described["TransformJobStatus"]) != "Completed":
        reason = described.get(
            "FailureReason", "someone stopped it" if state == "Stopped" else "no reason given"
        )
        lines = [f"{name}: {state}: {reason}"]
        if missing:
            lines.append(_unanswered_text(missing))
        lines.append(f"its log is in CloudWatch: /aws/sagemaker/TransformJobs, {name}/")
        raise BackendError("\n".join(lines))
    if missing:
        warn(_unanswered_text(missing))
    return described


def stop(account: boto3.Session, name: str) -> None:
    """Stop a job of ours.

    Raises:
        BackendError: If none is running.
    """
    described = _described(account, name)
    if described["TransformJobStatus"] in ENDED:
        raise BackendError(f"{name}: is already {described['TransformJobStatus']}")
    with aws_errors(name):
        client(account, "sagemaker").stop_transform_job(TransformJobName=name)


def clean_up(account: boto3.Session, name: str) -> None:
    """Remove a job's model, which costs nothing but stays otherwise."""
    from breedlab.backends.sagemaker.endpoints.ownership import remove

    sagemaker = client(account, "sagemaker")
    try:
        with aws_errors(f"model {name}"):
            if _tag(account, "model", name) == name:
                remove(sagemaker, "model", {"ModelName": name})
    except BreedlabError as error:
        warn(f"model {name} was not deleted: {error}")


def unanswered(account: boto3.Session, source: str, target: str) -> list[str]:
    """Return the images that have no answer, by their names under the source."""
    prefix = split_uri(source)[1]
    names = [key.removeprefix(prefix).lstrip("/") for key, _ in _objects(account, source)]
    out = split_uri(target)[1]
    answers = {key.removeprefix(out).lstrip("/") for key, _ in _objects(account, target)}
    return [name for name in names if f"{name}.out" not in answers]


def _objects(account: boto3.Session, uri: str) -> Iterator[tuple[str, int]]:
    bucket, prefix = split_uri(uri)
    with aws_errors(uri):
        pages = (
            client(account, "s3")
            .get_paginator("list_objects_v2")
            .paginate(Bucket=bucket, Prefix=f"{prefix}/")
        )
        for page in pages:
            yield from (
                (e["Key"], e["Size"])
                for e in page.get("Contents", [])
                if not e["Key"].endswith("/")
            )


def _send_once(account: boto3.Session, request: Request, kind: str) -> None:
    """Send a request; what already exists under its name and with its tag is from a request whose
    answer was lost."""
    from botocore import exceptions as aws

    name = request.parameters["ModelName"]
    try:
        send(account, request)
    except aws.ClientError as error:
        if not is_there_already(error) or _tag(account, kind, name) != name:
            raise
    except (aws.HTTPClientError, aws.ConnectionError):
        if _tag(account, kind, name) != name:
            raise


def _tag(account: boto3.Session, kind: str, name: str) -> str | None:
    """Return whose a model or a job is by our tag; None if there is none of the name."""
    from botocore.exceptions import ClientError

    sagemaker = client(account, "sagemaker")
    key, arn = {
        "model": ("ModelName", "ModelArn"),
        "transform_job": ("TransformJobName", "TransformJobArn"),
    }[kind]
    look = getattr(sagemaker, f"describe_{kind}")
    try:
        described = patiently(lambda: look(**{key: name}), missing=False)
    except ClientError as error:
        if is_missing(error):
            return None
        raise
    return read_tags(sagemaker, described[arn]).get(BATCH)


def _described(account: boto3.Session, name: str) -> dict[str, Any]:
    with aws_errors(name):
        if _tag(account, "transform_job", name) != name:
            raise NotFound(
                f"{name}: no batch job of this name in {account.region_name} was started by"
                " breedlab"
            )
        sagemaker = client(account, "sagemaker")
        described: dict[str, Any] = patiently(
            lambda: sagemaker.describe_transform_job(TransformJobName=name)
        )
    return described


def _unanswered_text(missing: list[str]) -> str:
    subject = "1 image has" if len(missing) == 1 else f"{len(missing):,} images have"
    return f"{subject} no answer, such as {', '.join(missing[:3])}"
