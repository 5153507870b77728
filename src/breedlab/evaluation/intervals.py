"""The 95% intervals of a test's metrics, honest also where nearly every image is right, or wrong.

Resampling the images alone says that a model without a mistake never makes one. So each resample
has one more image, as if testing had continued: wrong for one end of the interval, right for the
other. For a rate that is the interval of Clopper and Pearson (1934); it works for any metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import NormalDist

import numpy as np

from breedlab.evaluation.statistics import (
    CONFIDENCE,
    Array,
    calibration_error,
    clipped,
    macro_f1,
    wilson,
)

KNOWN = ("top1", "top5", "f1", "ece", "loss")
"""The metrics whose intervals are computed here."""

RESAMPLES = 1000
_FEWEST = 200
_MOST_DRAWN = 20_000_000
"""Images of all resamples together: with very many images, fewer resamples are enough."""
_AT_ONCE = 100_000
"""Images of those resamples that are computed together."""
_TAILS = (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2)
DEVIATIONS = NormalDist().inv_cdf(_TAILS[1])


@dataclass(frozen=True)
class Answers:
    """What a model answered on labeled images; every array has one element per image, or rows of
    them.

    Attributes:
        labels: The true labels.
        predicted: The most likely labels.
        runners_up: The second most likely labels.
        confidences: The probabilities of the most likely.
        losses: Cross-entropy in nats.
        losses_if_wrong: What it would be were the second most likely label the true one.
    """

    labels: Array
    predicted: Array
    runners_up: Array
    confidences: Array
    losses: Array
    losses_if_wrong: Array

    @property
    def right(self) -> Array:
        """1 where the most likely label is the true one, else 0."""
        right: Array = (self.predicted == self.labels).astype(float)
        return right

    def with_one_more(self, indices: Array, *, right: bool) -> Answers:
        """Return a row for each index: these, and the answer on that image once more, which is
        right or wrong now."""
        if right:
            labels = self.predicted[indices]
            losses = -np.log(np.maximum(self.confidences[indices], 1e-12))
        else:
            labels, losses = self.runners_up[indices], self.losses_if_wrong[indices]
        return Answers(
            labels=_with_last(self.labels, labels),
            predicted=_with_last(self.predicted, self.predicted[indices]),
            runners_up=_with_last(self.runners_up, self.runners_up[indices]),
            confidences=_with_last(self.confidences, self.confidences[indices]),
            losses=_with_last(self.losses, losses),
            losses_if_wrong=_with_last(self.losses_if_wrong, self.losses_if_wrong[indices]),
        )


def _with_last(values: Array, last: Array) -> Array:
    """Return a row of the values for each of `last`, which ends it."""
    rows = np.empty((len(last), len(values) + 1), np.result_type(values, last))
    rows[:, :-1], rows[:, -1] = values, last
    return rows


def concatenated(batches: Sequence[Answers]) -> Answers:
    """Return the answers of several batches as one."""
    columns = {}
    for field in fields(Answers):
        columns[field.name] = np.concatenate([getattr(batch, field.name) for batch in batches])
    return Answers(**columns)


Statistic = Callable[[Answers, Array], Array]
"""From answers, and rows of how much each image counts, to the metric of each row."""


def f1(answers: Answers, weights: Array) -> Array:
    """Return macro F1."""
    return macro_f1(answers.labels, answers.predicted, weights)


def loss(answers: Answers, weights: Array) -> Array:
    """Return the mean cross-entropy."""
    mean: Array = (weights * answers.losses).sum(axis=-1) / weights.sum(axis=-1)
    return mean


def ece(answers: Answers, weights: Array) -> Array:
    """Return the expected calibration error."""
    return calibration_error(answers.confidences, answers.right, weights)


def intervals(
    values: Mapping[str, float], answers: Answers, most: int | None = None
) -> dict[str, tuple[float, float]]:
    """Return where the true values are with 95% confidence, of those metrics that are known here.

    Args:
        values: What was measured, by the metrics' names.
        answers: On the same images.
        most: How many resamples at most; `RESAMPLES` by default.
    """
    images = len(answers.labels)
    by_metric = {
        name: wilson(values[name] * images, images) for name in ("top1", "top5") if name in values
    }
    if "ece" in values:
        by_metric["ece"] = calibration_interval(answers, most=most)
    if "f1" in values:
        by_metric["f1"] = clipped(bootstrap(answers, f1, most=most))
    if "loss" in values and np.isfinite(values["loss"]):
        low, high = bootstrap(answers, loss, most=most)
        by_metric["loss"] = (max(0.0, low), high)
    return by_metric


@dataclass(frozen=True)
class _Resampled:
    """A metric of all images, and of each resample: without and with the additional image."""

    value: float
    plain: Array
    one_wrong: Array
    one_right: Array

    @property
    def bias(self) -> float:
        """How much higher resampling makes the metric, which it does once more than testing did."""
        return float(self.plain.mean()) - self.value

    def quantiles(self) -> tuple[float, float]:
        """Return the ends of the interval, less the bias."""
        ends = np.quantile([self.one_wrong, self.one_right], _TAILS, axis=1)
        return float(ends[0].min()) - self.bias, float(ends[1].max()) - self.bias


def interval_of(
    value: float, plain: Array, one_wrong: Array, one_right: Array
) -> tuple[float, float]:
    """Return the 95% interval of a metric from its values in resamples: without and with the
    additional image.

    Args:
        value: Of all images.
        plain, one_wrong, one_right: Of each resample.
    """
    low, high = _Resampled(value, plain, one_wrong, one_right).quantiles()
    return min(low, value), max(high, value)


def wide_interval_of(
    value: float, plain: Array, one_wrong: Array, one_right: Array
) -> tuple[float, float]:
    """Return what `interval_of` does, of a metric that nothing is known of: at least so wide that
    it also holds for one that resampling moves as far as it scatters, such as the least of several
    shares."""
    resampled = _Resampled(value, plain, one_wrong, one_right)
    low, high = resampled.quantiles()
    reach, without_bias = DEVIATIONS * float(plain.std()), value - resampled.bias
    return min(low, min(value, without_bias) - reach), max(high, max(value, without_bias) + reach)


def bootstrap(
    answers: Answers, statistic: Statistic, seed: int = 0, most: int | None = None
) -> tuple[float, float]:
    """Return the interval that holds the true value of a metric with 95% confidence.

    Args:
        answers: At least one.
        statistic: The metric.
        seed: Decides the resamples.
        most: As for `intervals`.
    """
    samples = _resample(answers, statistic, seed, most)
    return interval_of(samples.value, samples.plain, samples.one_wrong, samples.one_right)


def count_interval(counts: Array, seed: int = 0) -> tuple[float, float]:
    """Return the interval that holds the true mean of a count with 95% confidence.

    Args:
        counts: Of each image, at least 1; the additional image of a resample has 1, or one more
            than any other has.
        seed: Decides the resamples.
    """
    draw, images = np.random.default_rng(seed), len(counts)
    resamples: list[list[float]] = [[], [], []]
    for _ in range(_resamples(images, None)):
        weights = draw.exponential(size=images + 1)
        total, mass = float(weights[:-1] @ counts), float(weights[:-1].sum())
        resamples[0].append(total / mass)
        for means, last in zip(resamples[1:], (1, counts.max() + 1), strict=True):
            means.append((total + weights[-1] * last) / (mass + weights[-1]))
    low, high = interval_of(float(counts.mean()), *map(np.array, resamples))
    return max(1.0, low), high


def calibration_interval(
    answers: Answers, seed: int = 0, most: int | None = None
) -> tuple[float, float]:
    """Return the interval that holds the true calibration error with 95% confidence.

    By chance alone the error of few images is far above zero, even for a perfectly calibrated
    model. So the lower end is zero if answers drawn by these confidences have such an error in more
    than one case of twenty.
    """
    resampled = _resample(answers, ece, seed, most)
    value, reach = resampled.value, DEVIATIONS * float(resampled.plain.std())
    low, high = resampled.quantiles()
    high = min(1.0, max(high, value + reach))
    if value <= np.quantile(_errors_by_chance(answers, seed, most), CONFIDENCE):
        return 0.0, high
    return max(0.0, min(low, value - resampled.bias - reach)), high


def _errors_by_chance(answers: Answers, seed: int, most: int | None) -> Array:
    """Return calibration errors of images that are right as often as the confidences say."""
    draw, confidences = np.random.default_rng(seed), answers.confidences
    errors = []
    for rows in portions(len(confidences), most):
        right = (draw.random((rows, len(confidences))) < confidences).astype(float)
        errors.append(calibration_error(confidences, right, np.ones_like(right)))
    return np.concatenate(errors)


def _resample(
    answers: Answers, statistic: Statistic, seed: int, most: int | None = None
) -> _Resampled:
    """Draw weights of the images as the Bayesian bootstrap does (Rubin 1981): unlike whole counts,
    they leave no class out."""
    draw = np.random.default_rng(seed)
    images = len(answers.labels)
    by_class = [np.flatnonzero(answers.labels == label) for label in np.unique(answers.labels)]
    plain, one_wrong, one_right = [], [], []
    for rows in portions(images, most):
        weights = np.empty((rows, images + 1))
        indices = np.empty(rows, int)
        for row in range(rows):
            # Of a random class, so that rare ones err as often as others: they count as much in a
            # mean over classes.
            of_class = by_class[draw.integers(len(by_class))]
            indices[row] = of_class[draw.integers(len(of_class))]
            weights[row] = draw.exponential(size=images + 1)
        plain.append(statistic(answers, weights[:, :-1]))
        one_wrong.append(statistic(answers.with_one_more(indices, right=False), weights))
        one_right.append(statistic(answers.with_one_more(indices, right=True), weights))
    value = float(statistic(answers, np.ones(images)))
    return _Resampled(value, *map(np.concatenate, (plain, one_wrong, one_right)))


def portions(images: int, most: int | None = None, drawn: int = _MOST_DRAWN) -> list[int]:
    """Return how many resamples are computed together, until all are.

    Args:
        images: Of a resample.
        most: As for `intervals`.
        drawn: The images of all resamples together.
    """
    every, together = _resamples(images, most, drawn), max(1, _AT_ONCE // (images + 1))
    return [min(together, every - begin) for begin in range(0, every, together)]


def _resamples(images: int, most: int | None, drawn: int = _MOST_DRAWN) -> int:
    return max(_FEWEST, min(most or RESAMPLES, drawn // images))
