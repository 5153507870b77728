"""The 95% interval of a metric that is known only by what computes it, such as a plugin's.

The resamples of `intervals`, with whole images instead of weights, which such a metric does not
take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from breedlab.evaluation.intervals import wide_interval_of
from breedlab.evaluation.label_metrics import decided
from breedlab.evaluation.statistics import Array

if TYPE_CHECKING:
    import torchmetrics

Sample = tuple[torch.Tensor, torch.Tensor]
"""Logits (n, classes), and labels (n,) or targets (n, classes)."""

_RESAMPLES, _FEWEST = 200, 50
_MOST_SCORES = 200_000_000
"""Of all resamples together: with very many images and classes there are fewer."""


@torch.no_grad()
def resampled_interval(
    metric: torchmetrics.Metric,
    value: float,
    logits: torch.Tensor,
    targets: torch.Tensor,
    thresholds: Sequence[float],
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return where the metric's true value is with 95% confidence; None if it cannot be computed
    for most resamples, which need not have images of every class.

    Args:
        metric: Of torchmetrics, on the CPU; it is reset.
        value: Of all images.
        logits: (n, classes), on the CPU.
        targets: Labels (n,), or zeros and ones (n, classes), likewise.
        thresholds: With targets, the probability of each class from which an image is given its
            label.
        seed: Decides the resamples.
    """
    draw, images = np.random.default_rng(seed), len(targets)
    pick = _picker(targets)
    rows = []
    for _ in range(max(_FEWEST, min(_RESAMPLES, _MOST_SCORES // logits.numel()))):
        chosen = torch.from_numpy(draw.integers(images, size=images))
        one = pick(draw)
        sample = (logits[chosen], targets[chosen])
        wrong, right = _added(logits[one], targets, thresholds)
        rows.append([_value(metric, [sample, *more]) for more in ([], [wrong], [right])])
    table = np.array(rows)
    finite = table[np.isfinite(table).all(axis=1)]
    if not np.isfinite(value) or 2 * len(finite) < len(table):
        return None
    return wide_interval_of(value, *finite.T)


def _value(metric: torchmetrics.Metric, samples: list[Sample]) -> float:
    """Return the metric of some images, NaN where it cannot be computed for them."""
    metric.reset()
    try:
        for logits, targets in samples:
            metric.update(logits, targets)
        return float(metric.compute())
    except (ArithmeticError, IndexError, RuntimeError, ValueError):
        return float("nan")


def _picker(targets: torch.Tensor) -> Callable[[np.random.Generator], int]:
    """Return what draws the additional image: of a random class, so that rare ones err as often as
    others; any, if images have several classes."""
    if targets.ndim == 2:
        return lambda draw: int(draw.integers(len(targets)))
    labels: Array = targets.numpy()
    by_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]

    def pick(draw: np.random.Generator) -> int:
        of_class = by_class[draw.integers(len(by_class))]
        return int(of_class[draw.integers(len(of_class))])

    return pick


def _added(
    logits: torch.Tensor, targets: torch.Tensor, thresholds: Sequence[float]
) -> tuple[Sample, Sample]:
    """Return an image once more, as samples of one: so that its answer is wrong, and right.

    Its label is the second or the first guess. If images have several classes, it has the labels
    that it was given, but for the least certain one where it is wrong.

    Args:
        logits: Its own, (classes,).
        targets: Those of all images.
        thresholds: As for `resampled_interval`.
    """
    if targets.ndim == 1:
        best = logits.topk(min(2, len(logits))).indices.to(targets.dtype)
        return (logits[None], best[-1:]), (logits[None], best[:1])
    right = decided(logits[None], thresholds).to(targets.dtype)
    wrong = right.clone()
    least = (logits.double().sigmoid() - torch.tensor(thresholds)).abs().argmin()
    wrong[0, least] = 1 - wrong[0, least]
    return (logits[None], wrong), (logits[None], right)
