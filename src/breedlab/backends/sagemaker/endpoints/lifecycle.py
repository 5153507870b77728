"""The state of endpoints in an account: AWS's description of one, waiting for it, its log, and its
deletion."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from breedlab.backends.sagemaker.sending import is_missing, patiently
from breedlab.backends.sagemaker.session import aws_errors, client
from breedlab.console import note
from breedlab.errors import BreedlabError

if TYPE_CHECKING:
    import boto3

POLL_S = 10.0
_LOOKS = 3
"""How often to look again at an endpoint that is not yet what was asked for, before that counts as
the outcome."""
MOVING = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
"""Statuses of an endpoint that AWS is still changing."""


def describe(sagemaker: Any, name: str) -> dict[str, Any] | None:
    """Return AWS's description of an endpoint, None if there is none of this name."""
    from botocore.exceptions import ClientError

    try:
        described: dict[str, Any] = patiently(
            lambda: sagemaker.describe_endpoint(EndpointName=name), missing=False
        )
        return described
    except ClientError as error:
        if is_missing(error):
            return None
        raise


def wait(
    sagemaker: Any,
    name: str,
    has_begun: Callable[[dict[str, Any] | None], bool] = lambda _described: True,
) -> dict[str, Any] | None:
    """Wait while AWS is changing an endpoint, showing its status; return what it then is, None if
    it is gone.

    Args:
        sagemaker: The client.
        name: The endpoint's.
        has_begun: Whether a description shows that AWS has begun what was asked for. AWS's own
            consistency takes seconds, so one that does not is given a few more looks before it is
            believed.
    """
    from breedlab.console import console

    started, last_status, looks = time.monotonic(), "", _LOOKS
    with console.status(f"endpoint {name}") as status:
        while True:
            described = describe(sagemaker, name)
            now = described["EndpointStatus"] if described else "gone"
            moving = now in MOVING
            if not moving and looks and not has_begun(described):
                looks -= 1
                time.sleep(POLL_S)
                continue
            spent = time.monotonic() - started
            if now != last_status:
                note(f"endpoint {name}: {now}" + (f" after {spent:.0f} s" if last_status else ""))
                last_status = now
            if not moving:
                return described
            status.update(f"endpoint {name}: {now} for {spent:.0f} s; Ctrl-C leaves it to AWS")
            time.sleep(POLL_S)


def remove_endpoint(sagemaker: Any, name: str) -> None:
    """Delete an endpoint and wait until it is gone."""
    patiently(lambda: sagemaker.delete_endpoint(EndpointName=name), missing=False)
    wait(sagemaker, name, lambda described: described is None)


def last_log_lines(account: boto3.Session, name: str, count: int = 15) -> list[str]:
    """Return the end of an endpoint's log, as far as the credentials may read it."""
    logs = client(account, "logs")
    group = f"/aws/sagemaker/Endpoints/{name}"
    try:
        with aws_errors():
            streams = logs.describe_log_streams(
                logGroupName=group, orderBy="LastEventTime", descending=True, limit=1
            )["logStreams"]
            events = logs.get_log_events(
                logGroupName=group, logStreamName=streams[0]["logStreamName"], limit=count
            )["events"]
    except (BreedlabError, LookupError):
        return []
    return [str(event["message"]).rstrip() for event in events]
