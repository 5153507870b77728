"""What `tuner.strategy=auto` tries: first what features are worth, by a head that takes a second;
then other heads.

A pass over the images takes minutes where a head takes seconds. So every backbone and image size is
judged by the first head of the list, in the order of the lists, which go from cheap to expensive.
The best of them is then judged with other augmented views, each of which takes a pass, too. Only
the two best get the other heads and settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from breedlab.config.candidates import PASSES_WITH_HEADS, Values, heads, passes, views
from breedlab.config.space import VIEWS, Space

_SHARE_OF_PASSES = 0.7
"""The share of the remaining time that the next pass may be expected to take."""
_NEXT_IS_DEARER = 1.7
"""How much longer than the longest pass so far the next may take: lists go from cheap to
expensive."""


@dataclass(frozen=True)
class Tried:
    """A trial so far.

    Attributes:
        values: By config path.
        state: `complete`, `pruned` or `failed`.
        rank: As of `objective.rank`; smaller is better. None if it was not completed.
        seconds: How long it took.
    """

    values: Values
    state: str
    rank: tuple[float, float] | None
    seconds: float


def candidate(
    space: Space, before: Sequence[Tried], seconds: float, reserved: int, first_pass: float = 0.0
) -> Values | None:
    """Return what to try next; None where nothing is left to try, or no time to.

    Args:
        space: Choices only.
        before: The trials so far, in order.
        seconds: How many are left.
        reserved: How many trials are to run after the last candidate.
        first_pass: Seconds of a pass over the images that ended before the first trial.
    """
    tries = [*heads(space)]
    first = tries[0]
    plain, *augmented = views(space)
    values_before = [trial.values for trial in before]
    longest = max((trial.seconds for trial in before if _is(trial, first)), default=0.0)
    longest = max(longest, first_pass)
    bad_models = [
        trial.values.get("model.name")
        for trial in before
        if trial.state == "failed" and _is(trial, first)
    ]
    for images in passes(space):
        values = {**images, **plain, **first}
        if values in values_before or (
            "model.name" in images and images["model.name"] in bad_models
        ):
            continue
        if not before or longest * _NEXT_IS_DEARER <= seconds * _SHARE_OF_PASSES:
            return values
    judged = sorted(
        (trial for trial in before if trial.rank is not None and _is(trial, first)),
        key=lambda trial: trial.rank or (),
    )
    if best := next((trial for trial in judged if _is(trial, plain)), None):
        pass_seconds = max(best.seconds, first_pass if best == before[0] else 0.0)
        for each in augmented:
            values = {**best.values, **each}
            longer = max(1, each.get(VIEWS[1], 1)) * pass_seconds
            if values not in values_before and longer <= seconds * _SHARE_OF_PASSES:
                return values
    others = [trial.seconds for trial in before if not _is(trial, first)]
    if seconds < max(others, default=0.0) * (1 + reserved):
        return None
    for trial in judged[:PASSES_WITH_HEADS]:
        for head in tries[1:]:
            values = {**trial.values, **head}
            if values not in values_before:
                return values
    return None


def _is(trial: Tried, head: Values) -> bool:
    return head.items() <= trial.values.items()
