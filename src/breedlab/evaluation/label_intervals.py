"""The 95% intervals of multi-label metrics, by the resampling of `intervals`.

The additional image of a resample copies a test image and its scores, with one label changed so
that the answer is wrong, or right. Since the scores are those of an existing image, it only makes
that image count more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from breedlab.evaluation import multi_label
from breedlab.evaluation.intervals import RESAMPLES, interval_of
from breedlab.evaluation.statistics import Array, clipped, wilson

Span = tuple[float, float]
KNOWN = ("map", "f1", "micro_f1", "exact", "loss")
"""The metrics whose intervals are computed here."""

_FEWEST, _MOST_DRAWN = 200, 20_000_000
"""The fewest resamples; and the number of labels in all of them together up to which there are
more."""


@dataclass(frozen=True)
class LabelAnswers:
    """What a model answered on labeled images, (images, classes) each.

    Attributes:
        probabilities: Of each class.
        targets: 1 for the image's classes, else 0.
        predicted: Whether the image was given the label.
        losses: Binary cross-entropy in nats.
        losses_if_flipped: The same if the label were the opposite.
    """

    probabilities: Array
    targets: Array
    predicted: Array
    losses: Array
    losses_if_flipped: Array


@dataclass(frozen=True)
class _Extra:
    """How much each image counts in each resample, and the additional image of each."""

    weights: Array
    image: Array
    label: Array
    weight: Array

    def masses(
        self, answers: LabelAnswers, index: int, target: Array | None
    ) -> tuple[Array, Array]:
        """Return how much each image counts as one of a class, and in total, including the
        additional image; `target` is its label, by default that of the image it copies."""
        rows = np.arange(len(self.image))
        own = answers.targets[:, index]
        images, positives = self.weights.copy(), self.weights * own
        images[rows, self.image] += self.weight
        positives[rows, self.image] += self.weight * (own[self.image] if target is None else target)
        return positives, images


@dataclass(frozen=True)
class _OfClass:
    """A class's average precision, and its (hits, given, positives), in each resample: without the
    additional image, with an unchanged copy, with its label wrong, and right."""

    precision: tuple[Array, ...]
    counts: tuple[Array, ...]


def label_intervals(
    values: Mapping[str, float], answers: LabelAnswers, seed: int = 0
) -> tuple[dict[str, Span], list[Span | None]]:
    """Return where the true values are with 95% confidence, of those metrics that are known here,
    and of each class's average precision (None of a class without images).

    Args:
        values: What was measured, by the metrics' names.
        answers: On the same images.
        seed: Decides the resamples.
    """
    images, classes = answers.targets.shape
    extra = _drawn(answers, seed)
    every = [_of_class(answers, extra, index, answers.predicted) for index in range(classes)]
    precision = _precisions(answers)
    spans: list[Span | None] = [
        clipped(interval_of(float(value), one.precision[0], one.precision[2], one.precision[3]))
        if np.isfinite(value)
        else None
        for value, one in zip(precision, every, strict=True)
    ]
    intervals: dict[str, Span] = {}
    if "exact" in values:
        intervals["exact"] = wilson(values["exact"] * images, images)
    for name, resamples in _resampled(answers, extra, every, answers.predicted).items():
        if name in values and np.isfinite(values[name]):
            low, high = interval_of(values[name], *resamples)
            intervals[name] = _possible(name, (low, high))
    return intervals, spans


def label_interval(name: str, value: float, answers: LabelAnswers, most: int, fewest: int) -> Span:
    """Return where the true value of one metric is with 95% confidence, in less time.

    Args:
        name: Of the metric, one of `KNOWN`.
        value: What was measured.
        answers: On the same images.
        most, fewest: How many resamples there may be; the more images and labels, the fewer.
    """
    if name == "exact":
        images = len(answers.targets)
        return wilson(value * images, images)
    extra, by = _drawn(answers, 0, most, fewest), answers.predicted
    classes = range(0 if name == "loss" else answers.targets.shape[1])
    every = [_of_class(answers, extra, index, by, alone=False) for index in classes]
    resamples = _resampled(answers, extra, every, by)[name]
    return _possible(name, interval_of(value, *resamples))


def label_differences(
    first: LabelAnswers, second: LabelAnswers, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """Return by metric how much higher it is for the first model than for the second, and where the
    true difference is with 95% confidence; both models count each image alike.

    Args:
        first: Of a model.
        second: Of another, on the same images.
        seed: Decides the resamples.
    """
    extra, by = _drawn(first, seed), first.predicted
    plain, resampled = [], []
    for answers in (first, second):
        classes = range(answers.targets.shape[1])
        every = [_of_class(answers, extra, index, by, alone=False) for index in classes]
        plain.append(_values(answers))
        resampled.append(_resampled(answers, extra, every, by))
    differences = {}
    for name in resampled[0].keys() & resampled[1].keys():
        value = plain[0][name] - plain[1][name]
        pairs = zip(resampled[0][name], resampled[1][name], strict=True)
        differences[name] = (value, *interval_of(value, *(one - other for one, other in pairs)))
    return differences


def _precisions(answers: LabelAnswers) -> Array:
    """Return the average precision of each class, NaN of one without images."""
    images, classes = answers.targets.shape
    ones = np.ones(images)
    return np.array(
        [
            multi_label.average_precision(
                answers.probabilities[:, index], answers.targets[:, index], ones
            )
            for index in range(classes)
        ]
    )


def _values(answers: LabelAnswers) -> dict[str, float]:
    """Return the metrics that `_resampled` has, of all images."""
    hits = (answers.predicted * answers.targets).sum(axis=0)
    sums = hits, answers.predicted.sum(axis=0), answers.targets.sum(axis=0)
    return {
        "map": float(np.nanmean(_precisions(answers))),
        "f1": float(np.nanmean(multi_label.f1(*sums))),
        "micro_f1": float(multi_label.f1(*(part.sum() for part in sums))),
        "loss": float(answers.losses.mean()),
    }


Resamples = tuple[Array, Array, Array]
"""A metric in each resample: without the additional image, with its label wrong, and right."""


def _resampled(
    answers: LabelAnswers, extra: _Extra, every: list[_OfClass], by: Array
) -> dict[str, Resamples]:
    """Return the metrics that have a value for these images; without classes, the loss alone."""
    metrics: dict[str, Resamples] = {"loss": _losses(answers, extra, by)}
    if not every:
        return metrics
    defined = answers.targets.any(axis=0)
    if defined.any():
        precisions = [one.precision for one in every]
        metrics["map"] = _each(lambda how: _with_one(extra, precisions, how)[defined].mean(axis=0))
    counts = [one.counts for one in every]
    there = (answers.predicted | (answers.targets > 0)).any(axis=0)
    if there.any():
        metrics["f1"] = _each(
            lambda how: multi_label.f1(*_parts(_with_one(extra, counts, how)[there])).mean(axis=0)
        )
    micro = _each(lambda how: multi_label.f1(*_parts(_with_one(extra, counts, how).sum(axis=0))))
    if all(np.isfinite(each).all() for each in micro):
        metrics["micro_f1"] = micro
    return metrics


def _each(compute: Callable[[int], Array]) -> Resamples:
    return compute(0), compute(1), compute(2)


def _possible(name: str, span: Span) -> Span:
    """Return an interval within what a metric can be."""
    return (max(0.0, span[0]), span[1]) if name == "loss" else clipped(span)


def _drawn(
    answers: LabelAnswers, seed: int, most: int = RESAMPLES, fewest: int = _FEWEST
) -> _Extra:
    draw = np.random.default_rng(seed)
    images, classes = answers.targets.shape
    rows = max(fewest, min(most, _MOST_DRAWN // (images * classes)))
    label = draw.integers(classes, size=rows)
    image = draw.integers(images, size=rows)
    for row in range(rows):
        # Half of the additional images have the class, so that missing and superfluous labels are
        # equally likely.
        of_class = np.flatnonzero(answers.targets[:, label[row]])
        if len(of_class) and draw.random() < 0.5:
            image[row] = draw.choice(of_class)
    return _Extra(draw.exponential(size=(rows, images)), image, label, draw.exponential(size=rows))


def _of_class(
    answers: LabelAnswers, extra: _Extra, index: int, by: Array, *, alone: bool = True
) -> _OfClass:
    """Compute what a class adds to each resample.

    Args:
        answers: Of the model.
        extra: The resamples.
        index: Of the class.
        by: Says which label of the additional image is right: the prediction.
        alone: Whether the label is changed in all resamples, for the class's own interval; else
            only in those whose additional image is about it, which takes half the time.
    """
    own = answers.targets[:, index]
    plain = _computed(answers, index, extra.weights * own, extra.weights)
    same = _computed(answers, index, *extra.masses(answers, index, None))
    rows = np.arange(len(extra.label)) if alone else np.flatnonzero(extra.label == index)
    some = _Extra(extra.weights[rows], extra.image[rows], extra.label[rows], extra.weight[rows])
    right = by[some.image, index].astype(float)
    variants = [plain, same]
    for target in (1 - right, right):
        changed = _computed(answers, index, *some.masses(answers, index, target))
        precision, counts = (each.copy() for each in same)
        precision[rows], counts[rows] = changed
        variants.append((precision, counts))
    precisions, counts_of_all = zip(*variants, strict=True)
    return _OfClass(precisions, counts_of_all)


def _computed(
    answers: LabelAnswers, index: int, positives: Array, images: Array
) -> tuple[Array, Array]:
    """Return a class's average precision in each resample, and its (hits, given, positives)."""
    predicted = answers.predicted[:, index].astype(float)
    counts = [positives @ predicted, images @ predicted, positives.sum(axis=-1)]
    precision = multi_label.average_precision(answers.probabilities[:, index], positives, images)
    return precision, np.stack(counts, axis=-1)


def _with_one(extra: _Extra, resamples: list[tuple[Array, ...]], how: int) -> Array:
    """Return each class's average precision in each resample: plain (0), or with an additional
    image whose changed label is wrong (1), or right (2)."""
    if how == 0:
        return np.stack([each[0] for each in resamples])
    same = np.stack([each[1] for each in resamples])
    changed = np.stack([each[1 + how] for each in resamples])
    rows = np.arange(len(extra.label))
    same[extra.label, rows] = changed[extra.label, rows]
    return same


def _parts(counts: Array) -> tuple[Array, Array, Array]:
    return counts[..., 0], counts[..., 1], counts[..., 2]


def _losses(answers: LabelAnswers, extra: _Extra, by: Array) -> Resamples:
    classes = answers.targets.shape[1]
    of_image = answers.losses.mean(axis=1)
    place = extra.image, extra.label
    is_right = by[place] == (answers.targets[place] > 0)
    own, flipped = answers.losses[place], answers.losses_if_flipped[place]
    rest = of_image[extra.image] - own / classes
    total, mass = extra.weights @ of_image, extra.weights.sum(axis=1)

    def with_one(loss: Array) -> Array:
        mean: Array = (total + extra.weight * (rest + loss / classes)) / (mass + extra.weight)
        return mean

    wrong, right = np.where(is_right, flipped, own), np.where(is_right, own, flipped)
    return total / mass, with_one(wrong), with_one(right)
