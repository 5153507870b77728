"""Which endpoints of an account are ours and which others made, and what is deleted with one: only
what is ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from breedlab.backends.sagemaker.endpoints.autoscaling import remove_alarm
from breedlab.backends.sagemaker.endpoints.endpoint import is_version
from breedlab.backends.sagemaker.endpoints.lifecycle import describe, remove_endpoint
from breedlab.backends.sagemaker.sending import is_missing, patiently
from breedlab.backends.sagemaker.session import aws_errors, client
from breedlab.backends.sagemaker.tags import ENDPOINT, USER, read_tags, whose
from breedlab.backends.submission import user_name
from breedlab.errors import NotFound, NotOurs

if TYPE_CHECKING:
    import boto3

KINDS = {
    "endpoint_config": ("EndpointConfigName", "EndpointConfigs"),
    "model": ("ModelName", "Models"),
}
"""What an endpoint consists of, with the fields of its name and of a list of them; each before what
it uses."""


@dataclass
class Deletion:
    """What a deletion did, as text."""

    removals: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)


def refuse_foreign(sagemaker: Any, described: dict[str, Any], allowed: str | None) -> None:
    """Raise if an endpoint that is to be updated was made by someone else, or not by breedlab.

    Args:
        sagemaker: The client.
        described: What AWS says of it.
        allowed: The endpoint that the user lets be replaced, no matter who made it.

    Raises:
        BackendError: Saying whose it is.
    """
    name = described["EndpointName"]
    if name == allowed:
        return
    tags = read_tags(sagemaker, described["EndpointArn"])
    if tags.get(ENDPOINT) == name and tags.get(USER, user_name()) == user_name():
        return
    raise NotOurs(
        f"endpoint {name}: already exists and is {whose(tags)}, so it is left alone;"
        f" use another endpoint.name, or replace its model with endpoint.replace={name}"
    )


def delete(account: boto3.Session, name: str) -> Deletion:
    """Delete an endpoint with everything that `breedlab deploy` created for it; the files in S3
    stay.

    Raises:
        BackendError: If there is nothing of this name that is ours, or AWS refuses.
    """
    sagemaker = client(account, "sagemaker")
    deletion = Deletion()
    with aws_errors(name):
        if (described := describe(sagemaker, name)) is not None:
            _refuse_untagged(sagemaker, described)
            _stop_scaling(account, described)
            remove_endpoint(sagemaker, name)
            deletion.removals.append(f"endpoint {name}")
        used = None
        for kind, (key, entries) in KINDS.items():
            for each, arn in _versions(sagemaker, name, kind, key, entries):
                what = f"{kind.replace('_', ' ')} {each}"
                tags = patiently(partial(read_tags, sagemaker, arn), missing=False)
                if tags.get(ENDPOINT) != name:
                    deletion.leftovers.append(
                        f"{what}: has no tag {ENDPOINT}={name}, so breedlab did not create it for"
                        " this endpoint"
                    )
                    continue
                used = _in_use(sagemaker) if used is None else used
                if (user := used.get((kind, each))) is not None:
                    deletion.leftovers.append(f"{what}: endpoint {user} uses it")
                    continue
                remove(sagemaker, kind, {key: each})
                deletion.removals.append(what)
        if deletion.removals and remove_alarm(account, name):
            deletion.removals.append("the alarm that woke it")
    if not deletion.removals and not deletion.leftovers:
        raise NotFound(
            f"--delete: no endpoint {name!r} in {account.region_name}, and nothing left of one"
        )
    return deletion


def remove(sagemaker: Any, kind: str, parameters: dict[str, str]) -> None:
    """Delete a model or an endpoint config; one that no longer exists is not an error."""
    from botocore.exceptions import ClientError

    try:
        patiently(lambda: getattr(sagemaker, f"delete_{kind}")(**parameters), missing=False)
    except ClientError as error:
        if not is_missing(error):
            raise


def _refuse_untagged(sagemaker: Any, described: dict[str, Any]) -> None:
    name, arn = described["EndpointName"], described["EndpointArn"]
    if read_tags(sagemaker, arn).get(ENDPOINT) != name:
        raise NotOurs(
            f"--delete {name}: the endpoint has no tag {ENDPOINT}={name}, so breedlab did not"
            " create it and leaves it alone. If it is yours anyway (earlier versions of breedlab"
            f" set no tags), tag it first: aws sagemaker add-tags --region {arn.split(':')[3]}"
            f" --resource-arn {arn} --tags Key={ENDPOINT},Value={name}"
        )


def _stop_scaling(account: boto3.Session, described: dict[str, Any]) -> None:
    from botocore.exceptions import ClientError

    scaling = client(account, "application-autoscaling")
    for variant in described.get("ProductionVariants", []):
        with suppress(ClientError):
            scaling.deregister_scalable_target(
                ServiceNamespace="sagemaker",
                ResourceId=f"endpoint/{described['EndpointName']}/variant/{variant['VariantName']}",
                ScalableDimension="sagemaker:variant:DesiredInstanceCount",
            )


def _versions(
    sagemaker: Any, endpoint: str, kind: str, key: str, entries: str
) -> list[tuple[str, str]]:
    """Return name and ARN of everything that is named like an endpoint's models or configs."""
    pages = sagemaker.get_paginator(f"list_{kind}s").paginate(NameContains=endpoint)
    arn = key.removesuffix("Name") + "Arn"
    versions = [(entry[key], entry[arn]) for page in pages for entry in page[entries]]
    return [(name, arn) for name, arn in versions if is_version(name, endpoint)]


def _in_use(sagemaker: Any) -> dict[tuple[str, str], str]:
    """Return which endpoint uses a config or a model, by kind and name."""
    used: dict[tuple[str, str], str] = {}
    for page in sagemaker.get_paginator("list_endpoints").paginate():
        for entry in page["Endpoints"]:
            for config in _configs_of(sagemaker, entry["EndpointName"]):
                used["endpoint_config", config] = entry["EndpointName"]
                for model in _models_of(sagemaker, config):
                    used["model", model] = entry["EndpointName"]
    return used


def _configs_of(sagemaker: Any, endpoint: str) -> Iterator[str]:
    """Yield the config that an endpoint has, and the one that it is being updated to."""
    described = describe(sagemaker, endpoint)
    if described is None:  # deleted since it was listed
        return
    yield described["EndpointConfigName"]
    if pending := described.get("PendingDeploymentSummary", {}).get("EndpointConfigName"):
        yield pending


def _models_of(sagemaker: Any, config: str) -> Iterator[str]:
    from botocore.exceptions import ClientError

    try:
        described = patiently(
            lambda: sagemaker.describe_endpoint_config(EndpointConfigName=config), missing=False
        )
    except ClientError as error:
        if is_missing(error):  # an endpoint may outlive its config
            return
        raise
    for variant in (
        *described["ProductionVariants"],
        *described.get("ShadowProductionVariants", []),
    ):
        if "ModelName" in variant:
            yield variant["ModelName"]
