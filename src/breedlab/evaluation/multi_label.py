"""Multi-label metrics: average precision, F1 at thresholds, and the thresholds themselves.

All of it takes a weight for each image, one row per resample, so that intervals come from the same
code as the metrics (`evaluation.label_intervals`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from breedlab.evaluation.statistics import Array

UNDECIDED = 0.5
"""The threshold of a class without validation images, which leave it open."""


def average_precision(scores: Array, positives: Array, images: Array) -> Array:
    """Return the average precision of a class; NaN where it has no image.

    As scikit-learn computes it: precision at each score, times the recall gained there; images of
    one score are taken together.

    Args:
        scores: (n,).
        positives: How much each image counts as one of the class, (n,) or (resamples, n).
        images: How much each counts at all, likewise.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])
    hits = np.cumsum(positives[..., order], axis=-1)[..., ends]
    cumulative = np.cumsum(images[..., order], axis=-1)[..., ends]
    total = hits[..., -1:]
    gained = np.diff(hits, axis=-1, prepend=0)
    precision = np.divide(hits, cumulative, out=np.zeros_like(cumulative), where=cumulative > 0)
    share = np.divide(gained, total, out=np.full_like(gained, np.nan), where=total > 0)
    average: Array = (precision * share).sum(axis=-1)
    return average


def f1(hits: Array, predicted: Array, positives: Array) -> Array:
    """Return F1 from the numbers of labels given rightly, given, and true; NaN if none was given
    and none is true."""
    total = np.asarray(predicted + positives, dtype=float)
    scores: Array = np.divide(
        2.0 * np.asarray(hits, dtype=float), total, out=np.full_like(total, np.nan), where=total > 0
    )
    return scores


def best_threshold(scores: Array, targets: Array) -> float:
    """Return the probability from which a class is given to an image, by the best F1 on images that
    the model did not learn from.

    It is midway between two images' probabilities. Of several that reach the best F1, it is the
    one nearest to 0.5; of a class without an image it is 0.5.

    Args:
        scores: Probabilities of the class, (n,).
        targets: 1 for images of the class, else 0, (n,).
    """
    positives = float(targets.sum())
    if not positives:
        return UNDECIDED
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order].astype(float)
    ends = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])
    hits = np.cumsum(targets[order])[ends].astype(float)
    reached = f1(hits, ends + 1.0, np.full(len(ends), positives))
    below = np.append(ranked, 0.0)[ends + 1]
    midway = (ranked[ends] + below) / 2
    best = np.flatnonzero(reached >= reached.max() - 1e-12)
    return float(midway[best[np.argmin(np.abs(midway[best] - UNDECIDED))]])


def best_thresholds(probabilities: Array, targets: Array) -> list[float]:
    """Return the threshold of each class; both are (n, classes)."""
    return [
        best_threshold(probabilities[:, index], targets[:, index])
        for index in range(targets.shape[1])
    ]


def unseen(targets: Array, classes: Sequence[str]) -> list[str]:
    """Return the classes that no image of these is of."""
    return [name for name, count in zip(classes, targets.sum(0), strict=True) if not count]
