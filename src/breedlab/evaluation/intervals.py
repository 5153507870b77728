"""The 95% intervals of a test's metrics, honest also where nearly every image is right, or wrong.

Resampling the images alone says that a model without a mistake never makes one. So each resample
has one more image, as if testing had gone on: wrong for one end of the interval, right for the
other. For a rate that is the interval of Clopper and Pearson (1934); it works for any metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import NormalDist

import numpy as np

from breedlab.evaluation.statistics import (
    CONFIDENCE,
    Array,
    calibration_error,
    macro_f1,
    wilson,
)

RESAMPLES = 1000
_MOST_DRAWN = 20_000_000
"""Images of all resamples together: of very many images, fewer resamples do."""
_TAILS = (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2)
_DEVIATIONS = NormalDist().inv_cdf(_TAILS[1])


@dataclass(frozen=True)
class Answers:
    """What a model answered on labelled images; every array has one element an image.

    Attributes:
        labels: The true labels.
        predicted: The likeliest labels.
        runners_up: The second likeliest labels.
        confidences: The probabilities of the likeliest.
        losses: Cross-entropy in nats.
        losses_if_wrong: What it would be were the second likeliest label the true one.
    """

    labels: Array
    predicted: Array
    runners_up: Array
    confidences: Array
    losses: Array
    losses_if_wrong: Array

    @property
    def right(self) -> Array:
        """1 where the likeliest label is the true one, else 0."""
        right: Array = (self.predicted == self.labels).astype(float)
        return right

    def with_one_more(self, index: int, *, right: bool) -> Answers:
        """Return these and the answer on an image once more, which is right or wrong now."""
        if right:
            label, loss = self.predicted[index], -np.log(max(self.confidences[index], 1e-12))
        else:
            label, loss = self.runners_up[index], self.losses_if_wrong[index]
        return Answers(
            labels=np.append(self.labels, label),
            predicted=np.append(self.predicted, self.predicted[index]),
            runners_up=np.append(self.runners_up, self.runners_up[index]),
            confidences=np.append(self.confidences, self.confidences[index]),
            losses=np.append(self.losses, loss),
            losses_if_wrong=np.append(self.losses_if_wrong, self.losses_if_wrong[index]),
        )


def concatenated(batches: Sequence[Answers]) -> Answers:
    """Return the answers of several batches as one."""
    names = [field.name for field in fields(Answers)]
    return Answers(
        **{name: np.concatenate([getattr(batch, name) for batch in batches]) for name in names}
    )


Statistic = Callable[[Answers, Array], float]
"""From answers, and how much each image counts, to a metric."""


def f1(answers: Answers, weights: Array) -> float:
    """Return macro F1."""
    return macro_f1(answers.labels, answers.predicted, weights)


def loss(answers: Answers, weights: Array) -> float:
    """Return the mean cross-entropy."""
    return float(weights @ answers.losses / weights.sum())


def ece(answers: Answers, weights: Array) -> float:
    """Return the expected calibration error."""
    return calibration_error(answers.confidences, answers.right, weights)


def intervals(values: Mapping[str, float], answers: Answers) -> dict[str, tuple[float, float]]:
    """Return where the true values are with 95% confidence, of those metrics that are known here.

    Args:
        values: What was measured, by the metrics' names.
        answers: On the same images.
    """
    images = len(answers.labels)
    found = {
        name: wilson(values[name] * images, images) for name in ("top1", "top5") if name in values
    }
    if "ece" in values:
        found["ece"] = calibration_interval(answers)
    if "f1" in values:
        low, high = bootstrap(answers, f1)
        found["f1"] = (max(0.0, low), min(1.0, high))
    if "loss" in values and np.isfinite(values["loss"]):
        low, high = bootstrap(answers, loss)
        found["loss"] = (max(0.0, low), high)
    return found


@dataclass(frozen=True)
class _Resampled:
    """A metric of all images, and of each resample: as it is, and with one more image."""

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


def bootstrap(answers: Answers, statistic: Statistic, seed: int = 0) -> tuple[float, float]:
    """Return the interval that holds the true value of a metric with 95% confidence.

    Args:
        answers: At least one.
        statistic: The metric.
        seed: Decides the resamples.
    """
    resampled = _resample(answers, statistic, seed)
    low, high = resampled.quantiles()
    return min(low, resampled.value), max(high, resampled.value)


def calibration_interval(answers: Answers, seed: int = 0) -> tuple[float, float]:
    """Return the interval that holds the true calibration error with 95% confidence.

    By chance alone the error of few images is far above zero, also of a model whose confidence is
    true. So the lower end is zero where answers drawn by these confidences come to such an error in
    more than one case of twenty.
    """
    resampled = _resample(answers, ece, seed)
    value, reach = resampled.value, _DEVIATIONS * float(resampled.plain.std())
    low, high = resampled.quantiles()
    high = min(1.0, max(high, value + reach))
    if value <= np.quantile(_errors_by_chance(answers, seed), CONFIDENCE):
        return 0.0, high
    return max(0.0, min(low, value - resampled.bias - reach)), high


def _errors_by_chance(answers: Answers, seed: int) -> list[float]:
    """Return calibration errors of images that are right as often as the confidences say."""
    draw, confidences = np.random.default_rng(seed), answers.confidences
    once = np.ones(len(confidences))
    errors = []
    for _ in range(_resamples(len(confidences))):
        right = (draw.random(len(confidences)) < confidences).astype(float)
        errors.append(calibration_error(confidences, right, once))
    return errors


def _resample(answers: Answers, statistic: Statistic, seed: int) -> _Resampled:
    """Draw weights of the images as the Bayesian bootstrap does (Rubin 1981): unlike whole counts,
    they leave no class out."""
    draw = np.random.default_rng(seed)
    images = len(answers.labels)
    plain, one_wrong, one_right = [], [], []
    for index in _any_class(answers.labels, _resamples(images), draw):
        weights = draw.exponential(size=images + 1)
        plain.append(statistic(answers, weights[:-1]))
        one_wrong.append(statistic(answers.with_one_more(index, right=False), weights))
        one_right.append(statistic(answers.with_one_more(index, right=True), weights))
    value = statistic(answers, np.ones(images))
    return _Resampled(value, np.array(plain), np.array(one_wrong), np.array(one_right))


def _any_class(labels: Array, count: int, draw: np.random.Generator) -> Iterator[int]:
    """Yield the index of an image of a random class, so that rare classes err as often as others:
    they count as much in a mean over classes."""
    by_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for _ in range(count):
        yield int(draw.choice(by_class[draw.integers(len(by_class))]))


def _resamples(images: int) -> int:
    return max(200, min(RESAMPLES, _MOST_DRAWN // images))
