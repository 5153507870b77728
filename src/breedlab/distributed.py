"""The processes of one run, started by torchrun or anything that sets its variables. Elsewhere a
run is one process.

Rank 0 speaks, searches, tests, exports and writes; all ranks train, each on its part of every
batch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from breedlab.errors import BreedlabError, DataError, TrainingError

T = TypeVar("T")

_PATIENCE = timedelta(days=30)
"""A search on rank 0 may take long; a process that is lost is noticed by its connection, not by
waiting."""


@dataclass(frozen=True)
class Shard:
    """Which part of every batch and split a process takes: items `rank`, `rank + world`, and so
    on."""

    rank: int = 0
    world: int = 1


WHOLE = Shard()
"""All of it, for what one process does alone."""


class Lost(BreedlabError):
    """Another process has ended the run, and has said why."""

    code = "BL303"

    exit_code = 1
    reported = True


def world() -> int:
    """Return how many processes the run has."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE"} <= os.environ.keys() else 1


def rank() -> int:
    return int(os.environ["RANK"]) if world() > 1 else 0


def local_rank() -> int:
    """Return this process's rank on its host."""
    return int(os.environ.get("LOCAL_RANK", rank())) if world() > 1 else 0


def local_world() -> int:
    """Return how many of the processes are on this host."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world())) if world() > 1 else 1


def is_main() -> bool:
    """Return whether this process prints and writes for all."""
    return rank() == 0


def shard() -> Shard:
    return Shard(rank(), world())


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes of one run. The first that fails says why, and the others end with it.

    Raises:
        Lost: In a process that the failure of another has ended.
        TrainingError: If a process was lost that said nothing.
    """
    if world() == 1:
        yield
        return
    from breedlab.console import console

    console.quiet = not is_main()
    _join()
    try:
        yield
    except BreedlabError as error:
        error.reported = not _first_to_fail()
        raise
    except Exception as error:
        if not _first_to_fail():
            raise Lost("another process of this run has failed") from None
        if isinstance(error, RuntimeError) and _is_of_connection(error):
            raise TrainingError("a process of this run was lost; the run can be resumed") from error
        raise
    except KeyboardInterrupt:
        if not _first_to_fail():
            raise Lost("interrupted") from None
        raise
    finally:
        _leave()


def _join() -> None:
    import torch
    import torch.distributed as dist

    gpu = torch.cuda.is_available() and torch.cuda.device_count() >= local_world()
    if gpu:
        torch.cuda.set_device(local_rank())
    # What is in main memory always goes over gloo, no matter which device trains.
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=_PATIENCE)


def _leave() -> None:
    """End the group and its threads now: those that are left to the interpreter's end may abort
    the process."""
    import gc

    import torch.distributed as dist

    dist.destroy_process_group()
    gc.collect()


def wait() -> None:
    """Wait until all processes are here; signals are handled meanwhile."""
    if world() > 1:
        AsyncFlag(0).result()


class AsyncFlag:
    """The largest of a number that every process gives at the same point, known a little later."""

    def __init__(self, mine: int) -> None:
        import torch
        import torch.distributed as dist

        self._number = torch.tensor(mine)
        self._work = dist.all_reduce(self._number, dist.ReduceOp.MAX, async_op=True)

    def result(self) -> int:
        """Return the largest number, once every process has given its own."""
        pause = 0.0005
        # in Python, which hears signals; in `wait` nothing does
        while not self._work.is_completed():
            time.sleep(pause)
            pause = min(2 * pause, 0.05)  # a search may take hours
        self._work.wait()
        return int(self._number)


def broadcast(value: T | None) -> T:
    """Return rank 0's value, in every process."""
    if world() > 1:
        import torch.distributed as dist

        wait()
        box = [value]
        dist.broadcast_object_list(box, src=0)
        (value,) = box
    return value  # type: ignore[return-value]


def gather(value: T) -> list[T]:
    """Return every process's value, by rank, in every process."""
    if world() == 1:
        return [value]
    import torch.distributed as dist

    wait()
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def rank_zero_only(action: Callable[[], T]) -> T:
    """Run an action on rank 0 while the others wait, and return its result in every process."""
    return broadcast(action() if is_main() else None)


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Let the first process of each host do this before the others there, which find what it left
    on the disk."""
    if local_rank() > 0:
        wait()
    yield
    if local_rank() == 0:
        wait()


def refuse_different(fingerprint: str, root: object) -> None:
    """Check that all hosts have the same images.

    Raises:
        DataError: If they do not.
    """
    fingerprints = gather(fingerprint)
    if len(set(fingerprints)) > 1:
        other = next(
            number for number, theirs in enumerate(fingerprints) if theirs != fingerprints[0]
        )
        raise DataError(
            f"data.root: {root} holds other images for process {other} than for process 0; copy"
            " them anew"
        )


def _first_to_fail() -> bool:
    import torch.distributed as dist

    try:
        store = dist.distributed_c10d._get_default_store()
        return bool(store.add("breedlab/failed", 1) == 1)
    except Exception:  # the store went with the process that kept it
        return False


def _is_of_connection(error: RuntimeError) -> bool:
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or "gloo" in str(error) or "onnection" in str(error)
