"""The minutes that a search has."""

from __future__ import annotations

import time
from collections.abc import Callable

from breedlab.errors import OutOfTime


class Budget:
    """A search's time, including that before a resume.

    Args:
        minutes: How many there are; None for no limit.
        spent: Seconds that were spent before.
        clock: Returns seconds.
    """

    def __init__(
        self, minutes: float | None, spent: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.minutes, self._clock = minutes, clock
        self._began = clock() - spent
        self.binding = False
        """Whether `heed` ends what is running: not before there is one result to continue with."""

    def left(self) -> float:
        """Return how many seconds are left."""
        return float("inf") if self.minutes is None else 60 * self.minutes - self.spent()

    def spent(self) -> float:
        """Return how many seconds the search has taken."""
        return self._clock() - self._began

    def heed(self) -> None:
        """Raise OutOfTime once the time is over."""
        if self.binding and self.left() < 0:
            raise OutOfTime(f"the search's {self.minutes:g} minutes are over")
