"""The account: which region, which role, which bucket, and the clients to talk to it.

boto3 alone. The SDK's `Session` asks STS and makes a bucket of its own as soon as it is built,
takes seconds to import, and knows nothing that boto3 does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from breedlab.config.problems import Problem
from breedlab.errors import BackendError, MissingExtra
from breedlab.version import __version__

if TYPE_CHECKING:
    import boto3

ROLE, BUCKET, REGION = "<role>", "<bucket>", "<region>"
"""What a dry run prints where a launch needs a value."""

USER_AGENT = f"breedlab/{__version__}"
"""What CloudTrail shows of who made a call."""

NEEDS = {
    REGION: "a region: backend.region=eu-central-1, or that of your AWS profile (`aws configure`)",
    ROLE: (
        "an execution role: backend.role=ARN, which may read and write the bucket and has"
        " AmazonSageMakerFullAccess"
    ),
    BUCKET: "a bucket in the region: backend.bucket=NAME",
}


class AwsSettings(Protocol):
    """What a user said of the place: a config's `backend`, or a command's flags."""

    @property
    def region(self) -> str | None: ...
    @property
    def role(self) -> str | None: ...
    @property
    def bucket(self) -> str | None: ...
    @property
    def prefix(self) -> str: ...


@dataclass(frozen=True)
class AwsTarget:
    """Where in AWS jobs run and keep their files."""

    region: str
    role: str
    bucket: str
    prefix: str

    def uri(self, *parts: str) -> str:
        """Return an address under the prefix."""
        return "/".join([f"s3://{self.bucket}", self.prefix, *parts])


def require_extra() -> None:
    """Raise an error if the packages of the `sagemaker` extra are missing.

    Raises:
        MissingExtra: If they are missing.
    """
    missing = [name for name in ("boto3", "sagemaker") if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"SageMaker, a dry run of it too, needs {' and '.join(missing)}; install the extra: pip"
            " install 'breedlab[sagemaker]' (in a checkout make .venv/dev installs all extras,"
            " pinned)"
        )


def planned(backend: AwsSettings) -> AwsTarget:
    """Return the target as far as the config determines it, without calling AWS; unknown parts are
    in angle brackets."""
    return AwsTarget(
        region=backend.region or _profile_region() or REGION,
        role=backend.role or ROLE,
        bucket=backend.bucket or BUCKET,
        prefix=backend.prefix,
    )


def needed(place: AwsTarget) -> list[str]:
    """Return the descriptions of what a launch still needs."""
    settings = (place.region, place.role, place.bucket)
    return [text for mark, text in NEEDS.items() if mark in settings]


def connect(region: str | None, flag: str = "") -> boto3.Session:
    """Return a session with credentials that work.

    Args:
        region: None for that of the AWS profile.
        flag: What a user sets the region by, if not by the config.

    Raises:
        BackendError: If there is no region, or there are no credentials that work.
    """
    require_extra()
    with aws_errors():
        session = _session(region)
        if session.region_name is None and flag:
            needed = f"{flag} eu-central-1, or that of your AWS profile (`aws configure`)"
            raise BackendError(f"{flag}: has no value; give it one, such as {needed}")
        if session.region_name is None:
            raise BackendError(f"backend.region: has no value; a launch needs {NEEDS[REGION]}")
        if session.get_credentials() is None:
            raise BackendError(_NO_CREDENTIALS)
        client(session, "sts").get_caller_identity()
    return session


@cache
def client(session: boto3.Session, service: str, region: str | None = None) -> Any:
    """Return a client that retries when the network or AWS fails; in the session's region unless
    another is named."""
    from botocore.config import Config as Settings

    retries: Any = {"mode": "standard", "max_attempts": 5}
    settings = Settings(
        retries=retries,
        connect_timeout=10,
        max_pool_connections=32,  # one for each of the threads that carry images
        user_agent_extra=USER_AGENT,
    )
    return session.client(service, region, config=settings)


def resolve(backend: AwsSettings) -> tuple[boto3.Session, AwsTarget]:
    """Return a launch's session and target, fully checked.

    Raises:
        BackendError: Naming everything that is missing or does not fit.
    """
    session, place, problems = inspect(backend)
    if problems or session is None or place is None:
        raise BackendError("\n".join(f"{p.path}: {p.message}" for p in problems))
    return session, place


def inspect(backend: AwsSettings) -> tuple[boto3.Session | None, AwsTarget | None, list[Problem]]:
    """Return the result of `resolve`, with its problems as a list instead of an error, to report
    them with others."""
    missing = [
        Problem(f"backend.{name}", f"has no value; a launch needs {NEEDS[mark]}")
        for name, mark in _unset(backend)
    ]
    try:
        session = connect(backend.region)
    except MissingExtra:
        raise
    except BackendError as error:
        path, _, message = str(error).partition(": ")
        return None, None, [*missing, Problem(path, message)]
    region = str(session.region_name)
    role, problems = backend.role or ROLE, list[Problem]()
    with aws_errors():
        if backend.role:
            role, problems = _role(session, backend.role)
        if backend.bucket:
            problems += _bucket_problems(session, "backend.bucket", backend.bucket, region)
    return (
        session,
        AwsTarget(region, role, backend.bucket or BUCKET, backend.prefix),
        [*missing, *problems],
    )


def bucket_problems(session: boto3.Session, path: str, bucket: str) -> list[Problem]:
    """Return why a bucket cannot be used from the session's region, if it cannot."""
    with aws_errors():
        return _bucket_problems(session, path, bucket, str(session.region_name))


@contextmanager
def aws_errors(doing: str = "") -> Iterator[None]:
    """Turn errors of AWS and the network into one message for the user."""
    from boto3.exceptions import S3UploadFailedError
    from botocore import exceptions as aws
    from s3transfer.exceptions import RetriesExceededError

    about = f" ({doing})" if doing else ""
    try:
        yield
    except (
        aws.NoCredentialsError,
        aws.PartialCredentialsError,
        aws.CredentialRetrievalError,
    ) as error:
        raise BackendError(_NO_CREDENTIALS) from error
    except (aws.TokenRetrievalError, aws.SSOTokenLoadError, aws.UnauthorizedSSOTokenError) as error:
        raise BackendError(
            "AWS: the single sign-on session has expired; sign in again with `aws sso login`"
        ) from error
    except aws.ProfileNotFound as error:
        raise BackendError(
            f"AWS: {error}; `aws configure list-profiles` lists the profiles"
        ) from error
    except aws.NoRegionError as error:
        raise BackendError(
            f"backend.region: has no value; a launch needs {NEEDS[REGION]}"
        ) from error
    except aws.ClientError as error:
        raise BackendError(_refusal(error) + about) from error
    except S3UploadFailedError as error:
        raise BackendError(f"AWS: {error}{about}") from error
    except (aws.HTTPClientError, aws.ConnectionError, RetriesExceededError) as error:
        raise BackendError(f"AWS: {error}; check the network and try again{about}") from error


_PARTITIONS = {
    "cn-": "aws-cn",
    "us-gov-": "aws-us-gov",
    "us-iso-": "aws-iso",
    "us-isob-": "aws-iso-b",
    "eu-isoe-": "aws-iso-e",
    "us-isof-": "aws-iso-f",
    "eusc-": "aws-eusc",
}
"""Partitions by the prefix of their regions' names; other regions are in `aws`."""


def partition_of(region: str) -> str:
    """Return the part of AWS that a region belongs to, as ARNs name it."""
    return next((name for start, name in _PARTITIONS.items() if region.startswith(start)), "aws")


def region_flag(region: str | None) -> str:
    """Return ` --region REGION` for a command that is printed, nothing where the profile's region
    is that one."""
    return "" if region is None or region == _profile_region() else f" --region {region}"


def _unset(backend: AwsSettings) -> list[tuple[str, str]]:
    return [
        (name, mark)
        for name, mark in (("role", ROLE), ("bucket", BUCKET))
        if getattr(backend, name) is None
    ]


_NO_CREDENTIALS = (
    "AWS: no credentials found; set them with `aws configure` or `aws sso login`, or set"
    " AWS_PROFILE"
)

_CREDENTIAL_CODES = (
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
)


def _refusal(error: Any) -> str:
    code, message = (
        error.response["Error"].get("Code", ""),
        error.response["Error"].get("Message", ""),
    )
    operation = error.operation_name
    if code in _CREDENTIAL_CODES or code == "SignatureDoesNotMatch":
        return (
            f"AWS: the credentials were refused ({code}); renew them with `aws configure` or `aws"
            " sso login`"
        )
    if code == "ResourceLimitExceeded":
        return (
            f"AWS: {message} Request an increase under Service Quotas, or use another"
            " backend.instance_type."
        )
    if code in ("AccessDenied", "AccessDeniedException", "403"):
        return f"AWS: {operation} is not allowed: {message}"
    return f"AWS: {operation}: {message or code}"


def _session(region: str | None) -> boto3.Session:
    require_extra()
    import boto3

    return boto3.Session(region_name=region)


def _profile_region() -> str | None:
    """Return the profile's region, reading only files and the environment."""
    from botocore.exceptions import ProfileNotFound

    try:
        region: str | None = _session(None).region_name
    except ProfileNotFound:
        return None
    return region


def _role(session: boto3.Session, role: str) -> tuple[str, list[Problem]]:
    """Return a role's ARN, looked up by name if the credentials allow it."""
    from botocore.exceptions import ClientError

    name = role.rpartition("/")[2]
    try:
        arn: str = client(session, "iam").get_role(RoleName=name)["Role"]["Arn"]
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ("NoSuchEntity", "404"):
            return role, [Problem("backend.role", f"the account has no role {name!r}")]
        if code not in ("AccessDenied", "AccessDeniedException"):
            raise
        if role.startswith("arn:"):
            return role, []  # it may be right; these credentials may not look
        identity = client(session, "sts").get_caller_identity()
        partition = str(identity["Arn"]).split(":")[1]
        return f"arn:{partition}:iam::{identity['Account']}:role/{role}", []
    if role.startswith("arn:") and role != arn:
        return role, [
            Problem("backend.role", f"is {role}, but the account's role of that name is {arn}")
        ]
    return arn, []


def _bucket_problems(session: boto3.Session, path: str, bucket: str, region: str) -> list[Problem]:
    from botocore.exceptions import ClientError

    s3 = client(session, "s3")
    try:
        answer = s3.head_bucket(Bucket=bucket)
        where = answer.get("BucketRegion") or _location(s3, bucket)
    except ClientError as error:
        headers = error.response["ResponseMetadata"].get("HTTPHeaders", {})
        code, where = error.response["Error"]["Code"], headers.get("x-amz-bucket-region", region)
        if code in ("404", "NoSuchBucket"):
            return [
                Problem(
                    path,
                    f"no bucket {bucket!r}; create it: aws s3 mb s3://{bucket} --region {region}",
                )
            ]
        if where == region:
            return [Problem(path, f"the credentials may not use the bucket {bucket!r} ({code})")]
    if where != region:
        return [
            Problem(
                path,
                f"{bucket!r} is in {where}; expected a bucket in {region}, where the jobs run"
                " (backend.region)",
            )
        ]
    return []


def _location(s3: Any, bucket: str) -> str:
    """Return the region of a bucket's location constraint: none is us-east-1, EU is eu-west-1."""
    where = s3.get_bucket_location(Bucket=bucket).get("LocationConstraint") or "us-east-1"
    return "eu-west-1" if where == "EU" else str(where)


def split_uri(uri: str) -> tuple[str, str]:
    """Return bucket and key of `s3://bucket/key`; the key has no slash at its ends."""
    match = re.fullmatch(r"s3://([^/]+)/?(.*?)/*", uri)
    assert match, f"{uri} is not an s3:// address; user input is checked where it is read"
    return match[1], match[2]
