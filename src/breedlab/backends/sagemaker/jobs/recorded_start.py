"""Start what an experiment needs in the account, with its record written before and after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from breedlab.backends.sagemaker.jobs.follow import ways_on
from breedlab.backends.sagemaker.jobs.record import Record, forget, save
from breedlab.console import warn
from breedlab.errors import BackendError, Detached, LostAnswer

if TYPE_CHECKING:
    import boto3


def start_on_record(
    account: boto3.Session,
    record: Record,
    kms_key: str | None,
    name: str,
    send: Callable[[], str],
) -> Record:
    """Send what starts an experiment, its record written before, so that an interruption loses no
    job; return the record as it is then.

    Args:
        account: The session.
        record: The experiment's.
        kms_key: What the record is encrypted with.
        name: Of what is started.
        send: Sends it, and returns the ARN of a pipeline's execution, or nothing.

    Raises:
        Detached: After Ctrl-C; it may have been started.
        BackendError: If AWS refuses; then nothing is left of it. Or if no answer came; then its
            record is.
    """
    record = replace(record, state="sending")
    try:
        save(record, account, kms_key)
        execution = send()
    except KeyboardInterrupt as error:
        raise Detached(
            f"interrupted while starting {name}; it may be running\n{ways_on(record)}"
        ) from error
    except LostAnswer as error:
        raise error.reworded(f"{error}\n{ways_on(record)}") from error
    except (BackendError, OSError):
        forget(record, account)
        raise
    record = replace(record, state="started", execution=execution)
    try:
        save(record, account, kms_key)
    except (BackendError, OSError) as error:
        warn(f"{name}: started, but its record could not be updated: {error}")
    return record
