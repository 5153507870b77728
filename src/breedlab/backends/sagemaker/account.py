"""What an AWS account has to allow and contain for an experiment, for the `Backend` interface."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from breedlab.backends.operations import Account as AccountOperations
from breedlab.backends.operations import PolicyRequest
from breedlab.backends.sagemaker import bootstrap, policies
from breedlab.backends.sagemaker.permissions import recorded
from breedlab.backends.sagemaker.policies import Account
from breedlab.backends.sagemaker.session import (
    BUCKET,
    REGION,
    AwsTarget,
    partition_of,
    planned,
    require_extra,
    split_uri,
)
from breedlab.commands import command
from breedlab.config import Config
from breedlab.config.backend import S3_BUCKET, Backend
from breedlab.errors import BackendError, UsageError

_ROLE = re.compile(r"arn:(aws[\w-]*):iam::(\d{12}):role/.+")
_ADDRESS = rf"{S3_BUCKET}(/.*)?"


class SageMakerAccount(AccountOperations):
    """IAM policies, and a CloudFormation template of what they belong to."""

    def policies(self, request: PolicyRequest) -> dict[str, Any]:
        commands = _commands(request)
        account = _account(request)
        return {
            "user": policies.user(account, commands),
            "execution_role": policies.execution_role(account),
            "execution_role_trust": policies.trust("sagemaker"),
            "lambda": policies.lambda_function(account),
            "lambda_trust": policies.trust("lambda"),
        }

    def template(self, request: PolicyRequest) -> dict[str, Any]:
        commands = _commands(request)
        backend = request.config.backend
        role = backend.role and backend.role.rpartition("/")[2]
        return bootstrap.template(_account(request), commands, role, backend.bucket)

    def how_to_create(self) -> str:
        return (
            f"{command('account', 'bootstrap --dry-run')} > breedlab.json\n "
            " aws cloudformation deploy --stack-name breedlab --template-file breedlab.json"
            " --capabilities CAPABILITY_NAMED_IAM"
        )


def _commands(request: PolicyRequest) -> list[str]:
    """Return the commands to allow.

    Raises:
        ConfigError: If one of them does not call AWS.
    """
    require_extra()
    calling = list(recorded())
    if wrong := sorted(set(request.commands) - set(calling)):
        raise UsageError(
            f"--commands: got {', '.join(map(repr, wrong))}; expected some of {', '.join(calling)}"
        )
    return list(request.commands) or calling


def _account(request: PolicyRequest) -> Account:
    from breedlab.backends.sagemaker.endpoints.endpoint import default_name
    from breedlab.backends.sagemaker.jobs.job_logging import tracked

    if request.account and not re.fullmatch(r"\d{12}", request.account):
        raise UsageError(
            f"--account: got {request.account!r}; expected the 12 digits of an AWS account"
        )
    config = tracked(request.config)
    backend, target = config.backend, planned(config.backend)
    region = "*" if target.region == REGION else target.region
    partition, owner = _owner(target, region)
    number = request.account or owner or "*"
    name = (backend.role or "*").rpartition("/")[2]
    role = target.role if owner else f"arn:{partition}:iam::{number}:role/{name}"
    _note_unknown(target, number, region, name)
    return Account(
        partition=partition,
        region=region,
        number=number,
        role=role,
        bucket=target.bucket,
        prefix=target.prefix,
        endpoint=request.endpoint or default_name(config.name),
        backend=backend,
        reads=(*_images_of(config), *_split("--read", request.reads)),
        writes=tuple(_split("--write", request.writes)),
        images=tuple(_container_images(backend, target.region)),
    )


def _container_images(backend: Backend, region: str) -> Iterator[str]:
    from breedlab.backends.sagemaker.endpoints.inference_image import inference_image
    from breedlab.backends.sagemaker.images import training_image

    yield training_image(backend, region)
    try:
        yield inference_image("ml.m5.large", region)
    except BackendError:
        _note(f"AWS has no inference image in {region}, so the role may read none for endpoints")


def _owner(target: AwsTarget, region: str) -> tuple[str, str | None]:
    """Return AWS's partition, and the number of the account that the role is in, if it says so."""
    if match := _ROLE.fullmatch(target.role):
        return match[1], match[2]
    return partition_of(region), None


def _note_unknown(target: AwsTarget, number: str, region: str, role: str) -> None:
    if target.bucket == BUCKET:
        _note("backend.bucket is not set, so <bucket> stands in its place")
    for what, value in (
        ("the account (--account ID)", number),
        ("the region (backend.region)", region),
        ("the role", role),
    ):
        if value == "*":
            _note(f"{what} is not known, so * stands in its place")


def _images_of(config: Config) -> list[tuple[str, str]]:
    root = config.data.root
    return [split_uri(root)] if root.startswith("s3://") else []


def _split(flag: str, addresses: Iterable[str]) -> list[tuple[str, str]]:
    """Return the buckets and keys of addresses.

    Raises:
        ConfigError: If one is not in S3.
    """
    for address in addresses:
        if not re.fullmatch(_ADDRESS, address):
            raise UsageError(
                f"{flag}: got {address!r}; expected an address such as s3://my-bucket/images"
            )
    return [split_uri(address) for address in addresses]


def _note(text: str) -> None:
    print(f"account: {text}", file=sys.stderr)
