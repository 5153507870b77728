"""What intervals need of each image, from a classifier's scores."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from breedlab.config.sections import Monitor
from breedlab.evaluation import intervals, label_intervals
from breedlab.evaluation.class_metrics import make_metrics
from breedlab.evaluation.label_metrics import decided
from breedlab.evaluation.multi_label import UNDECIDED
from breedlab.evaluation.resampled import resampled_interval
from breedlab.evaluation.statistics import clipped, wilson
from breedlab.registry import METRICS

_RESAMPLES, _FEWEST = 200, 50
"""Of a trial: so few that computing them takes less time than its training; the second with very
many images and labels."""


def answers_of(logits: torch.Tensor, labels: torch.Tensor) -> intervals.Answers:
    """Return the answers to images of one class.

    Args:
        logits: float (n, classes).
        labels: int64 (n,).
    """
    top = logits.softmax(1).max(1)
    second = logits.topk(min(2, logits.shape[1]), dim=1).indices[:, -1]
    losses, losses_if_wrong = (
        nn.functional.cross_entropy(logits, target, reduction="none") for target in (labels, second)
    )
    return intervals.Answers(
        labels=labels.cpu().numpy(),
        predicted=top.indices.cpu().numpy(),
        runners_up=second.cpu().numpy(),
        confidences=top.values.double().cpu().numpy(),
        losses=losses.double().cpu().numpy(),
        losses_if_wrong=losses_if_wrong.double().cpu().numpy(),
    )


def label_answers_of(
    logits: torch.Tensor, targets: torch.Tensor, thresholds: Sequence[float]
) -> label_intervals.LabelAnswers:
    """Return the answers to images of several classes.

    Args:
        logits: float (n, classes), on the CPU.
        targets: Zeros and ones, float (n, classes), likewise.
        thresholds: The probability of each class from which an image is given its label.
    """
    losses = [
        nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        for truth in (targets, 1 - targets)
    ]
    return label_intervals.LabelAnswers(
        probabilities=logits.double().sigmoid().numpy(),
        targets=targets.double().numpy(),
        predicted=decided(logits, thresholds).numpy(),
        losses=losses[0].double().numpy(),
        losses_if_flipped=losses[1].double().numpy(),
    )


def columns_of(logits: torch.Tensor, targets: torch.Tensor) -> tuple[list[Any], dict[str, Any]]:
    """Return the labels of images, and what is answered, as `paired` takes them; labels of several
    are given from a probability of a half.

    Args:
        logits: float (n, classes), on the CPU.
        targets: Labels (n,), or zeros and ones (n, classes), likewise.
    """
    if targets.ndim == 1:
        answers = answers_of(logits, targets)
        columns = {
            "predicted": answers.predicted.tolist(),
            "probabilities": answers.confidences.tolist(),
            "losses": answers.losses.tolist(),
        }
        return targets.tolist(), columns
    given = decided(logits, [UNDECIDED] * logits.shape[1])
    labels, predicted = (
        [row.nonzero().flatten().tolist() for row in each] for each in (targets, given)
    )
    return labels, {
        "predicted": predicted,
        "probabilities": logits.double().sigmoid().tolist(),
    }


class ScoredImages:
    """What the interval of a metric needs of the images that it is measured on, batch by batch as
    torchmetrics' metrics are updated.

    Args:
        metric: By its short name.
        monitor: As for `make_metrics`.
        thresholds: Likewise.

    Attributes:
        images: How many they are.
        is_rate: Whether it is a share of the images, whose interval follows from their number.
    """

    def __init__(
        self, metric: str, monitor: Monitor | None, thresholds: Sequence[float] | None = None
    ) -> None:
        self._metric, self._monitor, self._thresholds = metric, monitor, thresholds
        self.is_rate = bool(METRICS.get(metric).rate)
        self.images = 0
        self._answers: list[intervals.Answers] = []
        self._logits: list[torch.Tensor] = []
        self._targets: list[torch.Tensor] = []

    def update(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Take a batch: logits (n, classes), and labels (n,) or targets (n, classes)."""
        self.images += len(targets)
        if self.is_rate:
            return
        if targets.ndim == 1 and self._metric in intervals.KNOWN:
            self._answers.append(answers_of(logits.float(), targets))
        else:
            self._logits.append(logits.float().cpu())
            self._targets.append(targets.cpu())

    def interval(self, value: float) -> tuple[float, float] | None:
        """Return where the metric's true value is with 95% confidence; None of an infinite
        loss, and where a plugin's cannot be computed for parts of the images."""
        if self.is_rate:
            return wilson(value * self.images, self.images)
        if self._answers:
            answers = intervals.concatenated(self._answers)
            spans = intervals.intervals({self._metric: value}, answers, _RESAMPLES)
            return spans.get(self._metric)
        logits, targets = torch.cat(self._logits), torch.cat(self._targets)
        classes = logits.shape[1]
        thresholds = self._thresholds or [UNDECIDED] * classes
        several = targets.ndim == 2
        if several and self._metric in label_intervals.KNOWN:
            answers_of_labels = label_answers_of(logits, targets.float(), thresholds)
            return label_intervals.label_interval(
                self._metric, value, answers_of_labels, most=_RESAMPLES, fewest=_FEWEST
            )
        metrics = make_metrics(
            classes, self._metric, monitor=self._monitor, multi_label=several, thresholds=thresholds
        )
        own = metrics[self._metric]
        span = resampled_interval(own, value, logits, targets, thresholds)
        return clipped(span) if span and METRICS.get(self._metric).percent else span


def added(
    metrics: Iterable[str],
    known: Container[str],
    monitor: Monitor | None,
    thresholds: Sequence[float] | None = None,
) -> dict[str, ScoredImages]:
    """Return what the intervals need of metrics that plugins add, by name.

    Args:
        metrics: All that are measured.
        known: Those that have intervals already.
        monitor, thresholds: As for `make_metrics`.
    """
    return {name: ScoredImages(name, monitor, thresholds) for name in metrics if name not in known}


def spans_of(
    scored: Mapping[str, ScoredImages], values: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """Return the known intervals of metrics with these values, by name."""
    spans = {name: images.interval(values[name]) for name, images in scored.items()}
    return {name: span for name, span in spans.items() if span is not None}
