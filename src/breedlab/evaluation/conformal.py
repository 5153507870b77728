"""Sets of classes that hold the true one as often as they say: split conformal prediction on
validation images."""

from __future__ import annotations

import math
from typing import Any

import torch

from breedlab.evaluation.intervals import count_interval

COVERAGE = 0.9
FEWEST_IMAGES = 20
"""Validation images below which there are no sets."""


def least_probability(
    probabilities: torch.Tensor, labels: torch.Tensor, coverage: float = COVERAGE
) -> float:
    """Return the probability from which a class belongs into the set of an image.

    The true class of a new image is then in its set with at least this coverage, whatever the
    model, if it is drawn like these ("least ambiguous" sets, Sadinle et al. 2019).

    Args:
        probabilities: (n, classes), of images that the model did not learn from.
        labels: int64 (n,).
        coverage: Between 0 and 1.
    """
    true = probabilities.double().gather(1, labels[:, None])[:, 0].sort(descending=True).values
    rank = math.ceil((len(true) + 1) * coverage)
    return float(true[rank - 1]) if rank <= len(true) else 0.0


def sets_measured(
    probabilities: torch.Tensor, labels: torch.Tensor, least: float
) -> dict[str, Any]:
    """Return how often the sets of these images hold the true class, and how many classes they have
    on average, with its 95% interval."""
    inside = probabilities >= least
    # the most likely class is always in it
    inside.scatter_(1, probabilities.argmax(1, keepdim=True), True)
    sizes = inside.sum(1)
    return {
        "images": len(labels),
        "coverage": float(inside.gather(1, labels[:, None]).float().mean()),
        "size": float(sizes.float().mean()),
        "size_interval": [*count_interval(sizes.cpu().numpy())],
    }
