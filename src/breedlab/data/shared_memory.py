"""How many loading processes the shared memory holds: in Docker it is 64 MB unless someone says
otherwise."""

from __future__ import annotations

import os
from dataclasses import dataclass

FOLDER = "/dev/shm"

_HELD = 2
"""Batches that were handed over and are still in use: the one of the step, and the one before
it."""

_SHARE = 0.8
"""Of what is free; the rest is for others on this machine."""

_PREFETCH = 2
"""Batches that each process loads ahead, as PyTorch has it."""


@dataclass(frozen=True)
class Loading:
    """How batches are loaded.

    Attributes:
        workers: Processes; 0 loads in this one, which needs no shared memory.
        prefetch: Batches that each of them loads ahead.
    """

    workers: int
    prefetch: int = _PREFETCH


def free_bytes() -> int | None:
    """Return how much is free in the shared memory, None where there is no such folder."""
    try:
        space = os.statvfs(FOLDER)
    except (OSError, AttributeError):  # not on macOS, nor on Windows
        return None
    return space.f_bavail * space.f_frsize


def fitting(workers: int, batch_bytes: int, free: int | None) -> Loading:
    """Return the loading that is closest to the requested one and whose batches fit into the shared
    memory.

    A batch that does not fit ends the process that writes it with a bus error.

    Args:
        workers: How many processes are wanted.
        batch_bytes: The size of a batch.
        free: What is free, None where that is unknown.
    """
    if workers == 0 or free is None:
        return Loading(workers)
    room = int(_SHARE * free // max(1, batch_bytes)) - _HELD
    if room >= workers * _PREFETCH:
        return Loading(workers)
    return Loading(min(workers, room), 1) if room > 0 else Loading(0)


def note(needed: int, batch_bytes: int) -> str:
    """Return what a user should know of a shared memory that is too small for the requested
    loading; nothing if it is not."""
    free = free_bytes()
    workers = fitting(needed, batch_bytes, free)
    if workers == Loading(needed) or free is None:
        return ""
    instead = f"{workers.workers} of {needed} processes load images, a batch ahead each"
    if workers.workers == 0:
        instead = "images are loaded in this process, which is slower"
    return (
        f"{FOLDER} has {free / 1e6:,.0f} MB free: {instead}; give a container more with docker run"
        " --shm-size=2g"
    )
