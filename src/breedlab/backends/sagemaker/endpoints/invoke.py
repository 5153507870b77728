"""Invoke a SageMaker endpoint, and read the container's answers from AWS's errors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3

from breedlab.backends.base import VERBOSE, Send
from breedlab.backends.sagemaker.session import aws_errors, client, connect, split_uri
from breedlab.errors import BackendError, ServingError


@contextmanager
def sending(name: str, region: str | None) -> Iterator[Send]:
    """Give what sends images to an endpoint.

    Args:
        name: The endpoint's.
        region: Where it is; None for the AWS profile's.

    Raises:
        ServingError: If no region is set.
    """
    if (region or boto3.Session().region_name) is None:
        raise ServingError(
            f"--endpoint {name}: a SageMaker endpoint belongs to a region; use --region, set"
            " AWS_DEFAULT_REGION or run `aws configure` (the address of a server begins with"
            " http://)"
        )
    runtime = client(connect(region, "--region"), "sagemaker-runtime")
    yield lambda content: invoke(runtime, name, content, VERBOSE)


def invoke(runtime: Any, endpoint: str, body: bytes, accept: str) -> tuple[int, bytes]:
    """Invoke the endpoint and return the container's status and body.

    Args:
        runtime: A client of `sagemaker-runtime`.
        endpoint: Its name.
        body: An image.
        accept: As the contract has it.

    Raises:
        BackendError: If the request did not get as far as the container.
    """
    from botocore.exceptions import ClientError

    with aws_errors(f"endpoint {endpoint}"):
        try:
            answer = runtime.invoke_endpoint(
                EndpointName=endpoint,
                Body=body,
                ContentType="application/octet-stream",
                Accept=accept,
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ModelError":
                raise
            return container_answer(error.response)
        return 200, answer["Body"].read()


def invoke_async(
    runtime: Any,
    s3: Any,
    endpoint: str,
    image: str,
    accept: str,
    *,
    timeout: float = 600.0,
    waiting: Callable[[float], None] = lambda _seconds: None,
) -> tuple[int, bytes]:
    """Invoke an asynchronous endpoint: the image is in S3, and so is the answer once it appears.

    Args:
        runtime: A client of `sagemaker-runtime`.
        s3: A client of S3.
        endpoint: Its name.
        image: The image's address.
        accept: As the contract has it.
        timeout: Seconds.
        waiting: Called now and then with the seconds so far.

    Raises:
        BackendError: If no answer appears.
    """
    denied: Exception | None = None
    with aws_errors(f"endpoint {endpoint}"):
        response = runtime.invoke_endpoint_async(
            EndpointName=endpoint,
            InputLocation=image,
            ContentType="application/octet-stream",
            Accept=accept,
        )
        places = [(200, response["OutputLocation"]), (500, response.get("FailureLocation"))]
        started = time.monotonic()
        while (spent := time.monotonic() - started) < timeout:
            for status, uri in places:
                if not uri:
                    continue
                try:
                    if (body := _object(s3, uri)) is not None:
                        return status, body
                except PermissionError as error:
                    denied = error.__cause__ if isinstance(error.__cause__, Exception) else error
            waiting(spent)
            time.sleep(2)
    unread = ", or the credentials may not read it" if denied else ""
    where = response["OutputLocation"]
    raise BackendError(
        f"endpoint {endpoint}: no answer appeared at {where} in {timeout:.0f} s{unread}"
    ) from denied


def container_answer(response: Any) -> tuple[int, bytes]:
    """Return the container's message from the error that boto3 made of it."""
    return (
        int(response.get("OriginalStatusCode", 500)),
        str(response.get("OriginalMessage", "")).encode(),
    )


def _object(s3: Any, uri: str) -> bytes | None:
    from botocore.exceptions import ClientError

    bucket, key = split_uri(uri)
    try:
        content: bytes = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        return content
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
            return None
        if error.response["Error"]["Code"] == "AccessDenied":
            # Which is also the answer without ListBucket for a key that is not there yet.
            raise PermissionError(uri) from error
        raise
