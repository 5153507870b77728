"""How far a measured rate can be trusted, and whether two models differ by more than chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 1000
_MOST_DRAWN = 20_000_000
"""Images of all resamples together: of very many images, fewer resamples do."""

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
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Return the exact two-sided p-value that two models are equally often right on the same
    images.

    Only the images that one model gets right and the other wrong count (McNemar 1947): under the
    hypothesis each of those is a coin toss. Checked against `scipy.stats.binomtest(k, n, 0.5)`.

    Args:
        first: For each image whether the first model was right.
        second: Likewise for the second, in the same order.
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    tosses = only_first + only_second
    tail = sum(math.comb(tosses, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, float(2 * tail / 2**tosses))


def bootstrap(
    value: float,
    images: int,
    statistic: Callable[[Array], float],
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the interval that holds the true value of a statistic of the images with the given
    confidence.

    The basic bootstrap (Davison & Hinkley 1997): it takes the bias that resampling shows off the
    value, where the plain percentiles would add it once more.

    Args:
        value: Of all images, each once.
        images: At least 1.
        statistic: From the number of times that each image counts (images,) to the value.
        confidence: Between 0 and 1.
        seed: Decides the resamples.
    """
    values = _resampled(images, statistic, seed)
    low, high = np.quantile(values, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(2 * value - high), float(2 * value - low)


def _resampled(images: int, statistic: Callable[[Array], float], seed: int) -> Array:
    draw = np.random.default_rng(seed)
    weights = (
        np.bincount(draw.integers(0, images, images), minlength=images)
        for _ in range(_resamples(images))
    )
    return np.array([statistic(counted.astype(float)) for counted in weights])


def _resamples(images: int) -> int:
    return max(200, min(RESAMPLES, _MOST_DRAWN // images))


def macro_f1(labels: Array, predicted: Array, weights: Array) -> float:
    """Return the mean over the classes of F1, of images that count so many times; as
    `training.metrics.MacroF1`."""
    count = int(max(labels.max(), predicted.max())) + 1
    right = labels == predicted
    hits = np.bincount(labels[right], weights[right], minlength=count)
    total = np.bincount(labels, weights, minlength=count) + np.bincount(
        predicted, weights, minlength=count
    )
    seen = total > 0
    return float((2 * hits[seen] / total[seen]).mean())


def calibration_error(confidences: Array, right: Array, weights: Array, bins: int = 15) -> float:
    """Return the expected calibration error of images that count so many times; as torchmetrics
    computes it."""
    place = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(place, weights * (confidences - right), minlength=bins)
    return float(np.abs(gap).sum() / weights.sum())


def calibration_interval(confidences: Array, right: Array, seed: int = 0) -> tuple[float, float]:
    """Return the interval that holds the true calibration error with 95% confidence.

    By chance alone the error of few images is far above zero, also of a model whose confidence is
    true. So the lower end is zero where answers drawn by these confidences come to such an error in
    more than one case of twenty, else the bootstrap's, less the bias that it shows.

    Args:
        confidences: Of each image, 0 to 1.
        right: Of each image, 1 or 0.
        seed: Decides what is drawn.
    """
    images, once = len(right), np.ones(len(right))
    value = calibration_error(confidences, right, once)
    values = _resampled(
        images, lambda weights: calibration_error(confidences, right, weights), seed
    )
    reach = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * float(values.std())
    draw = np.random.default_rng(seed)
    by_chance = [
        calibration_error(confidences, (draw.random(images) < confidences).astype(float), once)
        for _ in range(_resamples(images))
    ]
    bias = float(values.mean()) - value
    low = 0.0 if value <= np.quantile(by_chance, CONFIDENCE) else max(0.0, value - bias - reach)
    return low, min(1.0, value + reach)
