"""SageMaker's batch jobs, as `breedlab batch` starts and follows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from breedlab.backends.operations import BatchJobs, BatchRequest
from breedlab.backends.sagemaker import preflight, session
from breedlab.backends.sagemaker.endpoints import archive_check, transform
from breedlab.backends.sagemaker.endpoints.before_sending import (
    SET_BY,
    answer_here,
    arn_problems,
    print_request,
    refuse,
    request_problems,
)
from breedlab.backends.sagemaker.endpoints.deployment import (
    account_of,
    deciding_image,
    described,
    name_of,
    opened_model,
    vendored_for,
)
from breedlab.backends.sagemaker.endpoints.transform import Batch
from breedlab.backends.sagemaker.prices import Instance, price_per_hour, quoted
from breedlab.backends.sagemaker.request import Request
from breedlab.backends.sagemaker.session import AwsTarget
from breedlab.backends.sagemaker.upload import upload_archive
from breedlab.config.backend import S3_BUCKET
from breedlab.config.endpoint import Endpoint
from breedlab.config.problems import Problem
from breedlab.console import note, stage
from breedlab.errors import BackendError

if TYPE_CHECKING:
    import boto3

_ADDRESS = rf"{S3_BUCKET}/[^/].*"
_FLAGS = {
    "S3Uri": "IN",
    "S3OutputPath": "OUT",
    "InstanceCount": "--instances",
    "MaxConcurrentTransforms": "--at-once",
    "MaxPayloadInMB": "--max-image-mb",
    "TransformJobName": "--name",
    "ModelName": "--name",
}
"""Which word a field of a batch job's request comes from, besides those of an endpoint's."""


class TransformJobs(BatchJobs):
    """Jobs of SageMaker Batch Transform."""

    def problems(self, source: str, target: str) -> Iterator[str]:
        for name, address in (("IN", source), ("OUT", target)):
            if not re.fullmatch(_ADDRESS, address):
                yield f"{name}: got {address!r}; expected an address such as s3://my-bucket/images"

    def name_of(self, model: Path) -> str:
        return name_of(Endpoint(), model)

    def plan(self, request: BatchRequest) -> None:
        session.require_extra()
        endpoint = request.endpoint
        deciding_image(endpoint, request.model)
        target = session.planned(account_of(endpoint, request.model))
        with opened_model(request.model) as (folder, archive):
            archive_check.lint(folder, imports=False)
            batch = _batch(request, target, folder, archive)
        requests = transform.requests(batch)
        refuse([*arn_problems(batch.deployment), *_request_problems(requests)], "batch")
        price, source = price_per_hour(_machine(batch, request), target.region)
        print(f"batch job {batch.name} (dry run: nothing is sent)\n")
        print(f"costs    {_costs(request, price, source)}\n")
        for number, each in enumerate(requests, 1):
            print_request(number, each)

    def start(self, request: BatchRequest) -> str:
        session.require_extra()
        endpoint = request.endpoint
        image = deciding_image(endpoint, request.model)
        wheels = vendored_for(endpoint)
        with opened_model(request.model, wheels) as (folder, archive):
            archive_check.lint(folder, imports=False)
            settings = account_of(endpoint, request.model)
            account, target, problems = session.inspect(settings)
            batch = _batch(request, target or session.planned(settings), folder, archive)
            problems += arn_problems(batch.deployment)
            problems += _request_problems(transform.requests(batch))
            if account is None or target is None:
                refuse(problems, "batch")
                raise BackendError("batch: no AWS account to run in")
            price, source = quoted(account, _machine(batch, request), "Batch Transform")
            findings = _look(account, target, batch)
            refuse([*problems, *findings.problems], "batch")
            if price is None:
                raise BackendError(
                    f"endpoint.price_per_hour: has no value, and {source}; nothing was sent"
                )
            findings.tell_unchecked()
            answer_here(folder, image, endpoint.inference_env)
            stage("Batch job")
            note(f"{batch.name} costs {_costs(request, price, source)}")
            deployment = batch.deployment
            upload_archive(account, archive, deployment.model, deployment.kms_key)
            transform.start(account, batch)
        return session.region_flag(account.region_name)

    def follow(self, name: str, where: str | None) -> str:
        session.require_extra()
        result = transform.follow(session.connect(where, "--region"), name)
        return str(result["TransformOutput"]["S3OutputPath"]).rstrip("/")

    def stop(self, name: str, where: str | None) -> str:
        session.require_extra()
        account = session.connect(where, "--region")
        transform.stop(account, name)
        return session.region_flag(account.region_name)


def _batch(request: BatchRequest, target: AwsTarget, folder: Path, archive: Path) -> Batch:
    deployment = described(request.endpoint, request.model, target, folder, archive)
    own = tuple(tag for tag in deployment.own_tags if tag[0] != "breedlab:endpoint")
    return Batch(
        replace(deployment, own_tags=own),
        request.source,
        request.target,
        request.instances,
        request.at_once,
        request.max_image_mb,
    )


def _request_problems(requests: list[Request]) -> list[Problem]:
    return request_problems(requests, {**SET_BY, **_FLAGS})


def _look(account: boto3.Session, target: AwsTarget, batch: Batch) -> preflight.Findings:
    """Return what the account itself has against a job: quotas, its role, bucket, and images."""
    machine = batch.deployment.instance_type
    need = preflight.Need(
        f"{machine} for transform job usage",
        batch.instances,
        "--instance-type",
        f"{batch.instances} x {machine}",
    )
    findings = preflight.look(account, target.role, [need], "--role")
    source, _ = session.split_uri(batch.source)
    of_images = session.bucket_problems(account, "IN", source)
    findings.problems.extend(of_images or transform.input_problems(account, batch))
    return findings


def _machine(batch: Batch, request: BatchRequest) -> Instance:
    return Instance(batch.deployment.instance_type, request.endpoint.price_per_hour)


def _costs(request: BatchRequest, price: float | None, source: str) -> str:
    cost = "unknown" if price is None else f"${price * request.instances:,.3f}"
    return f"{cost} an hour until every image is answered ({request.as_flags(source)})"
