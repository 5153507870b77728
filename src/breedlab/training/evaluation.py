"""Evaluate a classifier on labeled images: metrics, overall and per class, and confusions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torchmetrics import MetricCollection

from breedlab.config.sections import Monitor
from breedlab.evaluation.answers import added, answers_of, spans_of
from breedlab.evaluation.class_metrics import make_metrics
from breedlab.evaluation.intervals import KNOWN, Answers, concatenated, intervals

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Confusion:
    """How often images of one class were taken for another."""

    truth: str
    taken_for: str
    count: int
    of: int


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        images: How many were looked at.
        metrics: By name: loss (nats), top1, top5, f1 (macro), ece, the others as fractions.
        per_class: By class name: `photos`, how many there are, `top1` (recall), `precision`.
        confusion: How many images there are by (true label, predicted label); missing pairs are 0.
        worst: The most frequent confusions, most frequent first.
        predictions: For each image the predicted label and its probability, in the order given.
        calibration: `temperature`, and the calibration error without it, `ece_before` and
            `ece_before_interval`. Empty if scores are taken as they are.
        intervals: By metric, where the true value is with 95% confidence; there is none for a
            plugin's that cannot be computed for parts of the images.
        most_frequent_class: Of the training images, which is the best guess without a model. None
            if it is not known.
        losses: For each image its cross-entropy in nats.
    """

    images: int
    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    confusion: dict[tuple[int, int], int]
    worst: list[Confusion]
    predictions: list[tuple[int, float]]
    calibration: dict[str, Any] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    most_frequent_class: str | None = None
    losses: list[float] = field(default_factory=list)

    def columns(self) -> dict[str, Any]:
        """Return the answer for each image, for predictions.json."""
        return {
            "predicted": [label for label, _ in self.predictions],
            "probabilities": [round(probability, 6) for _, probability in self.predictions],
            "losses": [round(loss, 6) for loss in self.losses],
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain data for metrics.json, without the single predictions."""
        tree = {"photos": self.images, **asdict(self)}  # the key of every older run
        del tree["images"], tree["predictions"], tree["losses"]
        # as JSON reads them back
        tree["intervals"] = {name: [*span] for name, span in self.intervals.items()}
        # The square of the classes is mostly zeros: a thousand classes have a million cells.
        tree["confusion"] = {
            "cells": [[*pair, count] for pair, count in sorted(self.confusion.items())]
        }
        return tree


@torch.no_grad()
def evaluate(
    scores: Callable[[torch.Tensor], torch.Tensor],
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    classes: tuple[str, ...],
    *,
    total: int,
    progress: Progress,
    monitor: Monitor | None = None,
    temperature: float = 1.0,
) -> Evaluation:
    """Score labeled images and evaluate the scores.

    Args:
        scores: From uint8 images (n, 3, side, side) to logits (n, classes) on the CPU.
        batches: Images and int64 labels.
        classes: Names in label order.
        total: Number of images, for the progress.
        progress: Called with how many are done.
        monitor: As for `make_metrics`.
        temperature: By which the logits are divided.
    """
    metrics = make_metrics(len(classes), monitor=monitor)
    before = make_metrics(len(classes), only="ece", monitor=monitor) if temperature != 1.0 else None
    confusion: Counter[tuple[int, int]] = Counter()
    predictions: list[tuple[int, float]] = []
    others = added(map(str, metrics), KNOWN, monitor)
    answers: list[Answers] = []
    answers_before: list[Answers] = []
    for images, labels in batches:
        logits = scores(images)
        if before is not None:
            before.update(logits, labels)
            answers_before.append(answers_of(logits.float(), labels))
            logits = logits / temperature
        metrics.update(logits, labels)
        for metric in others.values():
            metric.update(logits, labels)
        top = logits.softmax(1).max(1)
        confusion.update(zip(labels.tolist(), top.indices.tolist(), strict=True))
        answers.append(answers_of(logits.float(), labels))
        predictions += zip(top.indices.tolist(), top.values.tolist(), strict=True)
        progress(len(predictions), total)
    values = {name: float(value) for name, value in metrics.compute().items()}
    every = concatenated(answers)
    return Evaluation(
        images=len(predictions),
        metrics=values,
        intervals=intervals(values, every) | spans_of(others, values),
        per_class=_per_class(confusion, classes),
        confusion=dict(confusion),
        worst=worst_confusions(confusion, classes),
        predictions=predictions,
        losses=every.losses.tolist(),
        calibration=(
            {}
            if before is None
            else {"temperature": temperature, **_before(before, concatenated(answers_before))}
        ),
    )


def _before(metrics: MetricCollection, answers: Answers) -> dict[str, Any]:
    values = {name: float(value) for name, value in metrics.compute().items()}
    return {
        **{f"{name}_before": value for name, value in values.items()},
        **{f"{name}_before_interval": [*span] for name, span in intervals(values, answers).items()},
    }


def worst_confusions(
    confusion: Mapping[tuple[int, int], int], classes: tuple[str, ...], most: int = 10
) -> list[Confusion]:
    """Return the pairs confused most often, by count and then by share of the true class."""
    totals: Counter[int] = Counter()
    for (truth, _), count in confusion.items():
        totals[truth] += count
    pairs = [
        Confusion(classes[truth], classes[predicted], count, totals[truth])
        for (truth, predicted), count in sorted(confusion.items())
        if truth != predicted
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.count / pair.of, pair.truth))[:most]


def _per_class(
    confusion: Mapping[tuple[int, int], int], classes: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    images: Counter[int] = Counter()
    predicted: Counter[int] = Counter()
    for (truth, predicted_label), count in confusion.items():
        images[truth] += count
        predicted[predicted_label] += count
    metrics = {}
    for label, name in enumerate(classes):
        hits = confusion.get((label, label), 0)
        metrics[name] = {
            "photos": images[label],
            "top1": hits / max(1, images[label]),
            "precision": hits / max(1, predicted[label]),
        }
    return metrics
