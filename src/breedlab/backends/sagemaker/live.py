"""Endpoints as they stand in an account: what AWS says of one, waiting for it, its log, and its end."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from breedlab.backends.sagemaker.endpoint import is_version
from breedlab.backends.sagemaker.request import Request
from breedlab.backends.sagemaker.scaling import alarm_name
from breedlab.backends.sagemaker.session import aws_errors, client
from breedlab.errors import BackendError, BreedlabError
from breedlab.reporting.console import note

if TYPE_CHECKING:
    import boto3

POLL_S = 10.0
MOVING = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
"""Statuses of an endpoint that AWS is at work on."""


def describe(sagemaker: Any, name: str) -> dict[str, Any] | None:
    """What AWS says of an endpoint, None if there is none of this name."""
    from botocore.exceptions import ClientError

    try:
        described: dict[str, Any] = sagemaker.describe_endpoint(EndpointName=name)
        return described
    except ClientError as error:
        if "could not find" in str(error).lower() or error.response["Error"]["Code"] == "ResourceNotFound":
            return None
        raise


def send(account: boto3.Session, request: Request) -> dict[str, Any]:
    """Sends one request as it stands."""
    from botocore import xform_name

    answer: dict[str, Any] = getattr(client(account, request.service), xform_name(request.operation))(
        **request.parameters
    )
    return answer


def wait(sagemaker: Any, name: str) -> dict[str, Any] | None:
    """Waits while AWS is at work on an endpoint, showing its status; what it then is, None if it is gone."""
    from breedlab.reporting.console import console

    started, shown = time.monotonic(), ""
    with console.status(f"endpoint {name}") as status:
        while True:
            described = describe(sagemaker, name)
            now = described["EndpointStatus"] if described else "gone"
            spent = time.monotonic() - started
            if now != shown:
                note(f"endpoint {name}: {now}" + (f" after {spent:.0f} s" if shown else ""))
                shown = now
            if described is None or now not in MOVING:
                return described
            status.update(f"endpoint {name}: {now} for {spent:.0f} s; Ctrl-C leaves it to AWS")
            time.sleep(POLL_S)


def remove_endpoint(sagemaker: Any, name: str) -> None:
    """Deletes an endpoint and waits until it is gone."""
    sagemaker.delete_endpoint(EndpointName=name)
    wait(sagemaker, name)


def delete(account: boto3.Session, name: str) -> list[str]:
    """Deletes an endpoint with all that deploy.py made for it; the files in S3 stay.

    Returns:
        What was deleted, in words.

    Raises:
        BackendError: If there is nothing of this name, or AWS refuses.
    """
    from botocore.exceptions import ClientError

    sagemaker, scaling = client(account, "sagemaker"), client(account, "application-autoscaling")
    gone: list[str] = []
    with aws_errors(name):
        if (described := describe(sagemaker, name)) is not None:
            for variant in described.get("ProductionVariants", []):
                with suppress(ClientError):
                    scaling.deregister_scalable_target(
                        ServiceNamespace="sagemaker",
                        ResourceId=f"endpoint/{name}/variant/{variant['VariantName']}",
                        ScalableDimension="sagemaker:variant:DesiredInstanceCount",
                    )
            remove_endpoint(sagemaker, name)
            gone.append(f"endpoint {name}")
        for kind, key, entries in (
            ("endpoint_config", "EndpointConfigName", "EndpointConfigs"),
            ("model", "ModelName", "Models"),
        ):
            pages = sagemaker.get_paginator(f"list_{kind}s").paginate(NameContains=name)
            found = [entry[key] for page in pages for entry in page[entries]]
            for each in (each for each in found if is_version(each, name)):
                getattr(sagemaker, f"delete_{kind}")(**{key: each})
                gone.append(f"{kind.replace('_', ' ')} {each}")
        with suppress(ClientError):
            client(account, "cloudwatch").delete_alarms(AlarmNames=[alarm_name(name)])
    if not gone:
        raise BackendError(f"--delete: there is no endpoint {name!r} in {account.region_name}, and nothing left of one")
    return gone


def last_log_lines(account: boto3.Session, name: str, count: int = 15) -> list[str]:
    """The end of an endpoint's log, as far as the credentials may read it."""
    logs = client(account, "logs")
    group = f"/aws/sagemaker/Endpoints/{name}"
    try:
        with aws_errors():
            streams = logs.describe_log_streams(logGroupName=group, orderBy="LastEventTime", descending=True, limit=1)[
                "logStreams"
            ]
            events = logs.get_log_events(logGroupName=group, logStreamName=streams[0]["logStreamName"], limit=count)[
                "events"
            ]
    except (BreedlabError, LookupError):
        return []
    return [str(event["message"]).rstrip() for event in events]
