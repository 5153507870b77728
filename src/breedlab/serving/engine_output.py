"""What is done with an engine's numbers before anyone sees them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from breedlab.serving.answers import Answers
from breedlab.serving.engine_kinds import Compute, Engine


def mirrored(compute: Compute) -> Compute:
    """Return a function that averages the scores of images and of their mirror images
    (`serving.flip_tta`)."""
    return lambda images: (compute(images) + compute(images.flip(-1))) / 2


def calibrated(compute: Compute, answers: Answers) -> Compute:
    """Return a function that makes an engine's numbers what `answers` are made of: calibrated
    scores (n, classes), plus a column of distances with `unknown`; for a multi-label model, the
    probability of each label."""

    def scores(images: torch.Tensor) -> torch.Tensor:
        numbers = compute(images)
        scores = numbers[:, : answers.classes] / answers.temperature
        if answers.thresholds is not None:
            scores = scores.sigmoid()
        if answers.unknown is None:
            return scores
        distances = answers.unknown.novelty.distance(numbers[:, answers.classes :])
        return torch.cat([scores, distances[:, None]], 1)

    return scores


class WrappedEngine:
    """An engine with something done around each of its functions.

    Args:
        engine: What computes.
        around: Returns a function in place of one of the engine's, as `mirrored` does.
    """

    def __init__(self, engine: Engine, around: Callable[[Compute], Compute]) -> None:
        self.choice = engine.choice
        self._engine, self._around = engine, around
        self._scores = around(engine.scores)

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        return self._scores(images)

    def split(self) -> list[Compute]:
        return [self._around(compute) for compute in self._engine.split()]
