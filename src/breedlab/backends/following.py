"""Follow a job elsewhere to its end, and show its run as a run here ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from breedlab.backends.base import Handle
from breedlab.console import note
from breedlab.errors import BackendError, Detached, JobFailed, LostAnswer
from breedlab.files import read_json_if_whole

POLL_SECONDS = 1.0
"""Between two looks at a job."""

_LAST_LINES = 10
"""How many lines of its log are shown of a job that failed."""


def without_traceback(lines: Iterable[str]) -> list[str]:
    """Return the last lines of a log; of a traceback only the error that it ends with."""
    kept: list[str] = []
    inside = False
    for line in lines:
        inside = line.startswith("Traceback ") or (inside and line.startswith(" "))
        if not inside and line.strip():
            kept.append(line)
    return kept[-_LAST_LINES:]


@contextmanager
def detachable(name: str, ways: str) -> Iterator[None]:
    """Let Ctrl-C, or a network that stays down, end only the following of a job.

    Args:
        name: The job's.
        ways: How to come back to it, and how to stop it.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise Detached(f"detached; {name} keeps running\n{ways}") from error
    except (JobFailed, Detached):
        raise
    except BackendError as error:
        raise error.reworded(f"{error}\n{ways}") from error


@contextmanager
def sending(handle: Handle) -> Iterator[None]:
    """Say of a job that may have been started how to come back to it."""
    ways = "\n".join(handle.next_steps())
    try:
        yield
    except KeyboardInterrupt as error:
        raise Detached(
            f"interrupted while sending {handle.name}; it may be running\n{ways}"
        ) from error
    except LostAnswer as error:
        raise error.reworded(f"{error}\n{ways}") from error


def follow(look: Callable[[], tuple[str, Sequence[str]]], ended: Collection[str]) -> None:
    """Print how a job stands, and its log as it grows, until the job has ended.

    Args:
        look: Returns how it stands, and all lines that it has printed so far.
        ended: What `look` returns of a job that has ended.
    """
    from breedlab.console import console

    shown, before = 0, ""
    while True:
        state, lines = look()
        if state != before and state not in ended:
            note(state)
        before = state
        # the last line may be half written
        whole = lines if state in ended else lines[:-1]
        for line in whole[shown:]:
            console.print(line, markup=False)
        shown = max(shown, len(whole))
        if state in ended:
            return
        time.sleep(POLL_SECONDS)


def finished(handle: Handle) -> Mapping[str, Any]:
    """Print the metrics of a complete run that is here now, and return what a grid's table shows.

    Raises:
        JobFailed: If it is not complete.
    """
    from breedlab.backends.local import LocalRun
    from breedlab.pipeline.run import TrainResult

    assert handle.run is not None
    metrics = read_json_if_whole(handle.run / "metrics.json")
    if metrics is None:
        raise JobFailed(f"{handle.name}: has ended, but wrote no metrics.json in {handle.run}")
    return LocalRun(handle.config(), TrainResult(handle.run, metrics)).results()
