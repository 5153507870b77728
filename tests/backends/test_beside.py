"""The work beside a test: where it fails, so does the test, at once."""

from __future__ import annotations

import threading

import pytest
from waiting import beside


def fail() -> None:
    raise LookupError("the job is not there")


def test_a_test_that_waits_for_failed_work_is_interrupted() -> None:
    with pytest.raises(LookupError), beside(fail):
        threading.Event().wait(60)
        raise AssertionError("nobody interrupted it")


def test_a_failure_is_that_of_the_work_it_happened_in() -> None:
    enough = threading.Event()
    with pytest.raises(LookupError), beside(fail), beside(enough.wait):
        try:
            threading.Event().wait(60)
        finally:
            enough.set()


def test_work_that_ends_well_is_waited_for() -> None:
    done: list[int] = []
    with beside(lambda: done.append(1)):
        pass
    assert done == [1]
