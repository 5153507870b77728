"""The first answer of an endpoint: it is waited for, since what is in service may not be ready for
some minutes."""

from __future__ import annotations

import time
from collections.abc import Callable

from breedlab.backends.sagemaker.sending import is_throttled
from breedlab.console import note
from breedlab.errors import BackendError

PATIENCE_S = 180.0
"""A TorchServe that has just started answers 503, or lets the first requests time out, while /ping
is healthy."""
_PAUSE_S = 5.0


def first_answer(ask: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes]:
    """Return status and body of an answer that is not the server's failure, else the last one after
    three minutes.

    Args:
        ask: Sends one request.

    Raises:
        BackendError: At once if AWS refuses the request; after three minutes if there was no answer
            by then.
    """
    deadline = time.monotonic() + PATIENCE_S
    waiting = False
    while True:
        over = time.monotonic() >= deadline
        try:
            status, body = ask()
            if status < 500 or over:
                return status, body
            why = f"status {status}"
        except BackendError as error:
            if over or not _passes(error.__cause__):
                raise
            why = str(error)
        if not waiting:
            note(
                f"no answer yet ({why.splitlines()[0][:100]}); asking again for up to"
                f" {PATIENCE_S:.0f} s"
            )
            waiting = True
        time.sleep(_PAUSE_S)


def _passes(error: BaseException | None) -> bool:
    """Return whether an error may be over in a minute: the server's own, too many calls, or no
    answer in time."""
    from botocore import exceptions as aws

    if isinstance(error, aws.ClientError):
        status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
        return (
            status >= 500
            or is_throttled(error)
            or error.response["Error"].get("Code") == "ModelNotReadyException"
        )
    return isinstance(error, (aws.HTTPClientError, aws.ConnectionError))
