"""Rank engines by timings that other work on the machine may have disturbed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import geometric_mean, median, quantiles
from typing import TypeVar

Key = TypeVar("Key")

CLEARLY_FASTER = 1.1
"""The factor by which an engine must win three quarters of the rounds to be preferred to a safer
one."""

NOISY = 0.3
"""A spread of the rounds above which the timings are called noisy: the interquartile range over the
median."""


@dataclass
class Timing:
    """Seconds of one engine, by batch size, one entry per round; the engines took turns in each
    round."""

    rounds: dict[int, list[float]] = field(default_factory=dict)

    @property
    def milliseconds(self) -> dict[int, float]:
        """One image's share of a batch's time, by batch size: the quickest round, which other work
        disturbed least."""
        return {size: 1000 * min(seconds) / size for size, seconds in self.rounds.items()}

    @property
    def spread(self) -> float:
        """The largest interquartile range of the rounds over their median."""
        return max((_spread(seconds) for seconds in self.rounds.values()), default=0.0)


def _spread(seconds: Sequence[float]) -> float:
    if len(seconds) < 2:
        return 0.0
    low, middle, high = quantiles(seconds, n=4, method="inclusive")
    return (high - low) / middle


def speedups(timing: Timing, reference: Timing) -> list[float]:
    """Return how many times faster than a reference each round was, all batch sizes counting alike.

    Both ran in the same round one after the other, so that what slowed the machine then slowed
    both.
    """
    rounds = min((len(seconds) for seconds in timing.rounds.values()), default=0)

    def speedup(number: int) -> float:
        return geometric_mean(
            reference.rounds[size][number] / seconds[number]
            for size, seconds in timing.rounds.items()
        )

    return [speedup(number) for number in range(rounds)]


def speedup(timing: Timing, reference: Timing) -> tuple[float, float, float] | None:
    """Return the median of the rounds' speedups and their quartiles; None if nothing was timed."""
    each = speedups(timing, reference)
    if not each:
        return None
    if len(each) == 1:
        return each[0], each[0], each[0]
    low, middle, high = quantiles(each, n=4, method="inclusive")
    return middle, low, high


def is_clearly_faster(timing: Timing, reference: Timing) -> bool:
    """Return whether three quarters of the rounds were faster by more than `CLEARLY_FASTER`."""
    gain = speedup(timing, reference)
    return gain is not None and gain[1] > CLEARLY_FASTER


def ranked(timings: Mapping[Key, Timing]) -> list[Key]:
    """Return engines from the best on.

    Args:
        timings: By engine, the safest first: of two that are not clearly apart, the safer one is
            better, so that noise does not decide what is exported.
    """
    remaining = list(timings)
    order = []
    while remaining:
        fastest = min(remaining, key=lambda key: geometric_mean(timings[key].milliseconds.values()))
        rivals = [key for key in remaining if not is_clearly_faster(timings[fastest], timings[key])]
        best = rivals[0] if rivals else fastest
        order.append(best)
        remaining.remove(best)
    return order


def typical_spread(timings: Sequence[Timing]) -> float:
    """Return the median engine's spread: a single engine may vary by itself, but on a busy machine
    all do."""
    return median(timing.spread for timing in timings)
