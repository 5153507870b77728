"""What runs in a thread beside a test, and waiting for it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


def until(found: Callable[[], Any], seconds: float = 30) -> Any:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if thing := found():
            return thing
        time.sleep(0.01)
    raise AssertionError("it never came")


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """Run `work` in a thread beside the block, and wait for its end after it.

    Where the work fails, the block is interrupted, as it may wait forever for what the work no
    longer does, and the work's error is the test's.
    """
    failures: list[BaseException] = []

    def attempt() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)
            signal.pthread_kill(main, signal.SIGUSR2)

    def interrupt(number: int, frame: FrameType | None) -> None:
        if failures:
            raise failures[0]
        if callable(outer):  # of a block around this one, whose work has failed
            outer(number, frame)

    main = threading.get_ident()
    outer = signal.signal(signal.SIGUSR2, interrupt)
    worker = threading.Thread(target=attempt, daemon=True)
    try:
        worker.start()
        yield
        worker.join()
    finally:
        signal.signal(signal.SIGUSR2, outer)
    if failures:
        raise failures[0]
