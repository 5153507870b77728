"""How far a measured rate can be trusted, and whether two models differ by more than chance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist, mean, stdev
from typing import Any

import numpy as np

CONFIDENCE = 0.95

Array = np.ndarray[Any, Any]


def wilson(successes: float, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval that holds the true rate with the given confidence.

    Wilson (1927): unlike the textbook's normal interval it keeps its promise near 0 and 1 and for
    few trials. Checked against `scipy.stats.binomtest(...).proportion_ci(method="wilson")`.

    Args:
        successes: How many of the trials were right.
        trials: At least 1.
        confidence: Between 0 and 1.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / trials
    center = rate + z * z / (2 * trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # Rounding would make the ends at no success and at no failure 1e-17 and 0.9999999999999998.
    low = (center - half) / scale if successes > 0 else 0.0
    high = (center + half) / scale if successes < trials else 1.0
    return clipped((low, high))


def f1_interval(hits: float, mistakes: int) -> tuple[float, float]:
    """Return the 95% interval of a class's F1.

    A share of the images that are of the class or were taken for it is both, and F1 is a function
    of that share that only rises: 2s / (1 + s). So its interval is that of a rate.

    Args:
        hits: Images of the class that were taken for it.
        mistakes: Those of it that were not, and others that were; at least one image in total.
    """
    images = round(hits + mistakes)
    low, high = (2 * share / (1 + share) for share in wilson(hits, images))
    return low, high


_STUDENT = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930),
)
"""The 97.5% quantiles of Student's t, by degrees of freedom from 1."""


def fold_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95% interval of a mean over the folds of a cross-validation.

    Nadeau & Bengio (2003): the folds share most of their training images, so that their plain
    standard error is too small; the variance counts 1/(k-1) times more, the share of test to
    training images.

    Args:
        values: Of 2 to 20 folds.
    """
    count, middle = len(values), mean(values)
    deviation = stdev(values)
    half = _STUDENT[count - 2] * deviation * math.sqrt(1 / count + 1 / (count - 1))
    return middle - half, middle + half


def fold_ends(values: Sequence[float], metric: str) -> tuple[float, float] | None:
    """Return the 95% interval of a mean over folds, within what the metric can be: with few folds,
    Student's t goes far beyond. None for fewer than 2 folds.

    Args:
        values: Of each fold.
        metric: Its name, such as `valid/top1`.
    """
    if len(values) < 2:
        return None
    low, high = fold_interval(values)
    if min(values) >= 0:
        low = max(low, 0.0)
    if not metric.endswith("loss") and max(values) <= 1:
        high = min(high, 1.0)
    return low, high


def fold_span(values: Sequence[float], metric: str) -> str:
    """Return what `fold_ends` does as text, such as `0.8312 to 0.8710`; empty instead of None."""
    return span_text(fold_ends(values, metric))


def seeds_interval(seeds: Iterable[Sequence[Any]]) -> tuple[float, float] | None:
    """Return the 95% interval of a trial's mean over seeds, none narrower than that: the mean of
    the seeds' own, which err together, being of the same images. None where one of them is unknown.

    Args:
        seeds: Of each the objective, the validation loss, and the objective's interval, which may
            be None, and which older versions did not record.
    """
    spans = [seed[2] if len(seed) > 2 else None for seed in seeds]
    if None in spans:
        return None
    low, high = (mean(ends) for ends in zip(*spans, strict=True))
    return low, high


def clipped(span: Sequence[float]) -> tuple[float, float]:
    """Return an interval of a share within what a share can be."""
    low, high = span
    return max(0.0, low), min(1.0, high)


def span_text(ends: Sequence[float] | None) -> str:
    """Return the interval of a search's objective, such as `0.8312 to 0.8710`; empty for None."""
    return "{:.4f} to {:.4f}".format(*ends) if ends else ""


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Return the exact two-sided p-value that two models are equally often right on the same
    images.

    Only the images that one model gets right and the other wrong count (McNemar 1947): under the
    hypothesis each of those is a coin toss. Checked against `scipy.stats.binomtest(k, n, 0.5)`.

    Args:
        first: For each image whether the first model was right.
        second: Likewise for the second, in the same order.
    """
    # bool: with NumPy's own, the power below would overflow
    only_first = sum(bool(a) and not b for a, b in zip(first, second, strict=True))
    only_second = sum(bool(b) and not a for a, b in zip(first, second, strict=True))
    tosses = only_first + only_second
    tail = sum(math.comb(tosses, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, float(2 * tail / 2**tosses))


def macro_f1(labels: Array, predicted: Array, weights: Array) -> Array:
    """Return the mean over the classes of F1, of weighted images; as `class_metrics.MacroF1`.

    Arrays of rows give one value a row.
    """
    count = int(max(labels.max(), predicted.max())) + 1
    hits = _sums(labels, weights * (labels == predicted), count)
    total = _sums(labels, weights, count) + _sums(predicted, weights, count)
    present = total > 0
    of_class = np.divide(2 * hits, total, out=np.zeros_like(total), where=present)
    mean_of_seen: Array = of_class.sum(axis=-1) / present.sum(axis=-1)
    return mean_of_seen


def calibration_error(confidences: Array, right: Array, weights: Array, bins: int = 15) -> Array:
    """Return the expected calibration error of weighted images; as torchmetrics computes it.

    Arrays of rows give one value a row.
    """
    place = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    gap = _sums(place, weights * (confidences - right), bins)
    error: Array = np.abs(gap).sum(axis=-1) / weights.sum(axis=-1)
    return error


def _sums(places: Array, values: Array, count: int) -> Array:
    """Return the sums of the values at each of `count` places, row by row."""
    places, values = np.broadcast_arrays(places, values)
    flat = values.reshape(-1, values.shape[-1])
    begins = count * np.arange(len(flat))[:, None]
    sums = np.bincount(
        (places.reshape(flat.shape) + begins).ravel(), flat.ravel(), minlength=count * len(flat)
    )
    return sums.reshape(*values.shape[:-1], count)
