"""How two models differ on the same images, and whether by more than chance: McNemar's test of what
they answer right, and a paired bootstrap of the other metrics.

Each resample weighs the images as the Bayesian bootstrap does (Rubin 1981), for both models alike.
One image more, which only one of the models gets right, keeps the intervals honest where the images
have few such, or none: for one end the first model, for the other the second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from breedlab.evaluation.intervals import (
    DEVIATIONS,
    RESAMPLES,
    Answers,
    calibration_interval,
    interval_of,
    portions,
)
from breedlab.evaluation.label_intervals import LabelAnswers, label_differences
from breedlab.evaluation.metrics import is_percent, lower_is_better, titles
from breedlab.evaluation.statistics import Array, calibration_error, macro_f1, mcnemar

SIGNIFICANT = 0.05
"""The p-value below which a difference counts as one."""
_MOST_DRAWN = 3_000_000
"""Images of all resamples together."""
_LEAST = 5e-7
"""The least probability: files have six digits."""
_SHOWN = ("map", "f1", "ece", "loss")
"""What is told besides what is right, in this order."""

Columns = Mapping[str, Any]
"""What a model answers, by image, as in predictions.json: `predicted`, `probabilities`, and of
images of one class `losses`, which older versions did not record."""


@dataclass(frozen=True)
class Difference:
    """How much higher a metric of the first model is than that of the second.

    Attributes:
        name: Of the metric.
        value: What was measured.
        low, high: Where the true value is with 95% confidence.
    """

    name: str
    value: float
    low: float
    high: float

    @property
    def by_chance(self) -> bool:
        """Whether chance can explain it."""
        return self.low <= 0 <= self.high

    def in_words(self) -> str:
        """Return it as the end of a sentence, such as `macro F1 is 6.9 points higher (-6.4 to
        +23.0), which chance can explain`."""
        percent = is_percent(self.name)
        size, low, high = (
            f"{100 * value:{sign}.1f}" if percent else f"{value:{sign}.3f}"
            for value, sign in ((abs(self.value), ""), (self.low, "+"), (self.high, "+"))
        )
        unit = " points" if percent else ""
        way = "higher" if self.value >= 0 else "lower"
        reading = "which chance can explain" if self.by_chance else "more than chance explains"
        return f"{titles()[self.name]} is {size}{unit} {way} ({low} to {high}), {reading}"


@dataclass(frozen=True)
class PairedTest:
    """McNemar's exact test of two models.

    Attributes:
        more: How many more images the first answers right.
        images: How many there are.
        p: The p-value.
    """

    more: int
    images: int
    p: float

    def in_words(self, right_on: str, images: str, tests: int = 1) -> str:
        """Return it as part of a sentence, such as `right on 2 more of 31 test images, which chance
        can explain (McNemar's exact test, p = 0.5)`.

        Args:
            right_on: What the first model does, such as `right on`.
            images: What they are, such as `test images`.
            tests: How many such tests there are, by which the threshold is divided (Bonferroni).
        """
        count = f"{abs(self.more):,} {'more' if self.more >= 0 else 'fewer'} of {self.images:,}"
        by_chance = self.p >= SIGNIFICANT / tests
        reading = "which chance can explain" if by_chance else "more than chance explains"
        return f"{right_on} {count} {images}, {reading} (McNemar's exact test, p = {self.p:.2g})"


def right(labels: Sequence[Any], columns: Columns) -> list[bool]:
    """Return for each image whether its class, or all of its labels, were answered right."""
    return [true == given for true, given in zip(labels, columns["predicted"], strict=True)]


def compare_right(labels: Sequence[Any], first: Columns, second: Columns) -> PairedTest:
    """Return whether the first model is right more often than the second, by McNemar's test.

    Args:
        labels: Of each image: its class, or a list of its labels.
        first, second: What the models answer.
    """
    ours, theirs = right(labels, first), right(labels, second)
    return PairedTest(sum(ours) - sum(theirs), len(labels), mcnemar(ours, theirs))


def compare_right_by_class(
    labels: Sequence[Any], first: Columns, second: Columns, classes: int
) -> list[PairedTest]:
    """Return the same for each class: of its images, or of all multi-label images, whose answer on
    a label is right if it was rightly given, or rightly not given."""
    results = []
    if isinstance(labels[0], int):
        ours, theirs = (np.array(right(labels, each)) for each in (first, second))
        for index in range(classes):
            own = np.array(labels) == index
            results.append(_paired_test(ours[own], theirs[own]))
        return results
    truth, one, other = (
        _matrix(each, classes) for each in (labels, first["predicted"], second["predicted"])
    )
    for index in range(classes):
        ours, theirs = (each[:, index] == truth[:, index] for each in (one, other))
        results.append(_paired_test(ours, theirs))
    return results


def _paired_test(ours: Array, theirs: Array) -> PairedTest:
    more = int(ours.sum()) - int(theirs.sum())
    return PairedTest(more, len(ours), mcnemar([*ours], [*theirs]))


def differences(
    labels: Sequence[Any], first: Columns, second: Columns, seed: int = 0
) -> dict[str, Difference]:
    """Return by metric how the models differ: of images of one class `top1`, `f1`, `ece`, and
    `loss` where both recorded it; of multi-label images `map`, `f1`, `micro_f1`, and `loss`. Empty
    where all images are of one class.

    Args:
        labels: Of each image: its class, or a list of its labels.
        first, second: What the models answer.
        seed: Decides the resamples.
    """
    if isinstance(labels[0], int):
        return _of_classes(np.array(labels), _model(first), _model(second), seed)
    ours, theirs = (_label_answers(labels, columns) for columns in (first, second))
    found = label_differences(ours, theirs, seed)
    return {name: Difference(name, *each) for name, each in found.items()}


RIGHT_ON = {"top1": "right on", "exact": "all labels right on"}
"""The metrics that are compared by McNemar's test, and what they count."""


def compared(labels: Sequence[Any], first: Columns, second: Columns, name: str) -> dict[str, Any]:
    """Return how a metric of two models differs, as plain data for metrics.json: by McNemar's test
    if it counts right answers, else by the paired bootstrap. Empty for a plugin's metric.

    Args:
        labels: Of each image: its class, or a list of its labels.
        first, second: What the models answer.
        name: Of the metric.
    """
    if name in RIGHT_ON:
        return {"name": name, **asdict(compare_right(labels, first, second))}
    found = differences(labels, first, second).get(name)
    return {} if found is None else asdict(found)


def told(record: Mapping[str, Any], images: str) -> str:
    """Return in words what `compared` returned; empty if that is empty.

    Args:
        record: What it returned.
        images: What they are, such as `test images`.
    """
    if not record:
        return ""
    if record["name"] in RIGHT_ON:
        test = PairedTest(record["more"], record["images"], record["p"])
        return test.in_words(RIGHT_ON[record["name"]], images)
    ends = (float(record[end]) for end in ("value", "low", "high"))
    return f"{Difference(record['name'], *ends).in_words()} (paired bootstrap)"


def in_words(found: Mapping[str, Difference]) -> list[str]:
    """Return what is told of differences besides what is right, a part of a sentence for each."""
    return [found[name].in_words() for name in _SHOWN if name in found]


def is_better(difference: Difference) -> bool:
    """Return whether the first model is better by more than chance."""
    sign = -1 if lower_is_better(difference.name) else 1
    return not difference.by_chance and sign * difference.value > 0


def _matrix(rows: Sequence[Sequence[int]], classes: int) -> Array:
    """Return lists of labels as bool (n, classes)."""
    matrix = np.zeros((len(rows), classes), bool)
    for row, own in zip(matrix, rows, strict=True):
        row[[*own]] = True
    return matrix


def _label_answers(labels: Sequence[Sequence[int]], columns: Columns) -> LabelAnswers:
    probabilities = np.array(columns["probabilities"], float)
    likely = probabilities.clip(_LEAST, 1 - _LEAST)
    classes = probabilities.shape[1]
    targets = _matrix(labels, classes)
    return LabelAnswers(
        probabilities=probabilities,
        targets=targets.astype(float),
        predicted=_matrix(columns["predicted"], classes),
        losses=-np.log(np.where(targets, likely, 1 - likely)),
        losses_if_flipped=-np.log(np.where(targets, 1 - likely, likely)),
    )


@dataclass(frozen=True)
class _Model:
    """What a model answers; each array has an element per image, or rows of them."""

    predicted: Array
    confidences: Array
    losses: Array | None

    def with_one_more(self, truth: Array, index: Array, other: Array, *, is_right: bool) -> _Model:
        """Return a row for each index: these, and the answer to an image like that, which is right
        or wrong.

        Args:
            truth: The images' classes.
            index: Images.
            other: Of each a class that is not its own.
            is_right: Whether the additional answer is.
        """
        own, confidence = truth[index], self.confidences[index].clip(_LEAST, 1 - _LEAST)
        was_right = self.predicted[index] == own
        predicted = own if is_right else np.where(was_right, other, self.predicted[index])
        losses = None
        if self.losses is not None:
            if_wrong = np.where(was_right, -np.log(1 - confidence), self.losses[index])
            losses = _extended(self.losses, -np.log(confidence) if is_right else if_wrong)
        return _Model(
            _extended(self.predicted, predicted),
            _extended(self.confidences, self.confidences[index]),
            losses,
        )


def _extended(values: Array, last: Array) -> Array:
    """Return a row of the values for each of `last`, which ends it."""
    rows = np.broadcast_to(values, (len(last), len(values)))
    return np.concatenate([rows, last[:, None]], axis=1)


def _model(columns: Columns) -> _Model:
    losses = columns.get("losses")
    return _Model(
        np.array(columns["predicted"]),
        np.array(columns["probabilities"], float),
        None if losses is None else np.array(losses, float),
    )


Statistic = Callable[[Array, _Model, Array], Array]
"""From true classes, answers, and rows of how much each image counts, to the metric of each row."""


def _top1(truth: Array, model: _Model, weights: Array) -> Array:
    share: Array = (weights * (model.predicted == truth)).sum(axis=-1) / weights.sum(axis=-1)
    return share


def _f1(truth: Array, model: _Model, weights: Array) -> Array:
    return macro_f1(truth, model.predicted, weights)


def _ece(truth: Array, model: _Model, weights: Array) -> Array:
    return calibration_error(model.confidences, model.predicted == truth, weights)


def _loss(truth: Array, model: _Model, weights: Array) -> Array:
    assert model.losses is not None
    mean: Array = (weights * model.losses).sum(axis=-1) / weights.sum(axis=-1)
    return mean


def _of_classes(truth: Array, first: _Model, second: _Model, seed: int) -> dict[str, Difference]:
    classes = np.unique(np.concatenate([truth, first.predicted, second.predicted]))
    if len(classes) < 2:
        return {}
    statistics: dict[str, Statistic] = {"top1": _top1, "f1": _f1, "ece": _ece}
    if first.losses is not None and second.losses is not None:
        statistics["loss"] = _loss
    draw, images = np.random.default_rng(seed), len(truth)
    by_class = [np.flatnonzero(truth == label) for label in np.unique(truth)]
    resamples: dict[str, list[list[Array]]] = {name: [[], [], []] for name in statistics}
    for rows in portions(images, RESAMPLES, _MOST_DRAWN):
        weights = draw.exponential(size=(rows, images + 1))
        # of a random class, as in `intervals`: rare ones count as much in a mean over classes
        index = np.array(
            [draw.choice(by_class[draw.integers(len(by_class))]) for _ in range(rows)], int
        )
        step = draw.integers(1, len(classes), size=rows)
        other = classes[(np.searchsorted(classes, truth[index]) + step) % len(classes)]
        longer = _extended(truth, truth[index])
        models = {
            is_right: [
                model.with_one_more(truth, index, other, is_right=is_right)
                for model in (first, second)
            ]
            for is_right in (False, True)
        }
        for name, statistic in statistics.items():
            plain, lower, upper = resamples[name]
            here = weights[:, :-1]
            plain.append(statistic(truth, first, here) - statistic(truth, second, here))
            for ends, ours in ((lower, False), (upper, True)):
                one, two = models[ours][0], models[not ours][1]
                ends.append(statistic(longer, one, weights) - statistic(longer, two, weights))
    ones = np.ones(images)
    found = {}
    for name, statistic in statistics.items():
        value = float(statistic(truth, first, ones) - statistic(truth, second, ones))
        plainly, lower_ends, upper_ends = (np.concatenate(each) for each in resamples[name])
        low, high = interval_of(value, plainly, lower_ends, upper_ends)
        if name == "ece":
            below, above = (_excess(truth, model) for model in (first, second))
            reach = DEVIATIONS * float(plainly.std())
            low, high = min(low, value - below - reach), max(high, value + above + reach)
        found[name] = Difference(name, value, low, high)
    return found


def _excess(truth: Array, model: _Model) -> float:
    """Return how much of a calibration error may be there by chance alone.

    That of few images is far above zero even for a calibrated model, and less above its true value
    for one that is not, so that the difference of two is too small. The excess is what the error's
    own interval reaches further down than up.
    """
    other = np.where(model.predicted == truth, truth + 1, truth)
    losses = np.zeros(len(truth))  # which a calibration error has no use for
    answers = Answers(truth, model.predicted, other, model.confidences, losses, losses)
    error = float(calibration_error(model.confidences, answers.right, np.ones(len(truth))))
    low, high = calibration_interval(answers)
    return max(0.0, (error - low) - (high - error))
