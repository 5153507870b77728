"""Calls that create or change something: throttled, too early, or with a lost answer, they are made
again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from breedlab.backends.sagemaker.request import Request
from breedlab.backends.sagemaker.session import client

if TYPE_CHECKING:
    import boto3

PAUSE_S = 2.0
ATTEMPTS = 30
"""One minute: AWS calls its own consistency a matter of seconds."""

_THROTTLED = (
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "ConcurrentUpdateException",
)

Result = TypeVar("Result")


def send(account: boto3.Session, request: Request) -> dict[str, Any]:
    """Send one request as it is; again where AWS is busy, or does not find yet what the request
    before it made."""
    from botocore import xform_name

    call = getattr(client(account, request.service), xform_name(request.operation))
    answer: dict[str, Any] = patiently(lambda: call(**request.parameters))
    return answer


def patiently(call: Callable[[], Result], missing: bool = True) -> Result:
    """Return what a call answers; it is made again while AWS throttles.

    Args:
        call: What is called.
        missing: Whether it is also made again where AWS does not find what it names, which was just
            made.
    """
    from botocore.exceptions import ClientError

    for _ in range(ATTEMPTS - 1):
        try:
            return call()
        except ClientError as error:
            if not (is_throttled(error) or (missing and is_missing(error))):
                raise
        time.sleep(PAUSE_S)
    return call()


def is_throttled(error: Any) -> bool:
    """Return whether AWS only asks for fewer calls."""
    return error.response["Error"].get("Code") in _THROTTLED


def is_missing(error: Any) -> bool:
    """Return whether AWS does not find what a call names."""
    code, text = error.response["Error"].get("Code"), str(error).lower()
    return code in ("ResourceNotFound", "ResourceNotFoundException") or "could not find" in text


def is_there_already(error: Any) -> bool:
    """Return whether AWS refuses to create something because there is one of that name."""
    code, text = error.response["Error"].get("Code"), str(error).lower()
    return code == "ResourceInUse" or "already exist" in text


def is_denied(error: BaseException | None) -> bool:
    """Return whether an error comes from a permission that the caller lacks."""
    from botocore.exceptions import ClientError

    while error is not None:
        if isinstance(error, ClientError) and error.response["Error"].get("Code") in _DENIED:
            return True
        error = error.__cause__
    return False


_DENIED = ("AccessDenied", "AccessDeniedException", "NotAuthorized", "UnauthorizedOperation", "403")
