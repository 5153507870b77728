"""How fast engines are here, timed in turn, and their order by speed."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from breedlab.console import progress, warn
from breedlab.models.ranking import NOISY, Timing, ranked, speedup, typical_spread
from breedlab.serving.engine_candidates import Candidate
from breedlab.serving.engine_kinds import EAGER

BATCHES = (1, 8, 32)
"""How many images are timed at a time."""
_FEWEST_ROUNDS, _MOST_ROUNDS, _BUDGET_S = 4, 10, 4.0
"""Seconds of timing after which no other round starts."""
_PATIENCE = 3
"""The factor for both limits if the rounds differ so much that other work must be running."""
_SAFEST_FIRST = ("fp32", "bf16", "int8")


def time_engines(candidates: Sequence[Candidate], images: torch.Tensor) -> None:
    """Time candidates in turn, so that a noisy neighbor slows all alike; the first pass of each
    does not count."""
    batches = {size: torch.cat([images] * -(-size // len(images)))[:size] for size in BATCHES}
    for candidate in candidates:
        _seconds(candidate, batches[1])
    once = sum(_seconds(candidate, batches[1]) for candidate in candidates)
    sizes = [size for size in BATCHES if size == 1 or size * once <= _BUDGET_S]
    for candidate in candidates:
        candidate.timing = Timing({size: [] for size in sizes})
    started = time.monotonic()
    patience = 1
    number = 0
    with progress("timing engines, rounds") as report:
        while number < _MOST_ROUNDS * patience:
            if number >= _FEWEST_ROUNDS and time.monotonic() - started > _BUDGET_S * patience:
                break
            for size in sizes:
                for candidate in candidates:
                    candidate.timing.rounds[size].append(_seconds(candidate, batches[size]))
            number += 1
            busy = number >= _FEWEST_ROUNDS and _spread(candidates) > NOISY
            patience = _PATIENCE if busy else 1
            report(number, max(number, _MOST_ROUNDS * patience))
    for candidate in candidates:
        candidate.milliseconds = candidate.timing.milliseconds
        candidate.speedup = speedup(candidate.timing, candidates[0].timing)
    if (spread := _spread(candidates)) > NOISY:
        warn(
            f"the timings are rough: rounds differed by {spread:.0%}, so other work was running;"
            " if two engines are too close to call, the safer one is chosen"
        )


def _spread(candidates: Sequence[Candidate]) -> float:
    return typical_spread([candidate.timing for candidate in candidates])


def _seconds(candidate: Candidate, batch: torch.Tensor) -> float:
    assert candidate.engine is not None
    started = time.perf_counter()
    candidate.engine.scores(batch)
    return time.perf_counter() - started


def fastest_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates from the fastest on; of two that noise cannot tell apart, the safer one
    first."""
    safest_first = sorted(
        candidates,
        key=lambda c: (_SAFEST_FIRST.index(c.choice.precision), c.choice.engine != EAGER),
    )
    by_choice = {candidate.choice: candidate for candidate in safest_first}
    timings = {choice: _timing(candidate) for choice, candidate in by_choice.items()}
    return [by_choice[choice] for choice in ranked(timings)]


def _timing(candidate: Candidate) -> Timing:
    if candidate.timing.rounds:
        return candidate.timing
    return Timing({size: [ms * size / 1000] for size, ms in candidate.milliseconds.items()})
