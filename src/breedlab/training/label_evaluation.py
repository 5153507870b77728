"""Evaluate a multi-label classifier on labeled images: metrics, overall and per class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from breedlab.config.sections import Monitor
from breedlab.evaluation import multi_label
from breedlab.evaluation.answers import added, label_answers_of, spans_of
from breedlab.evaluation.class_metrics import make_metrics
from breedlab.evaluation.label_intervals import KNOWN, LabelAnswers, Span, label_intervals
from breedlab.evaluation.statistics import Array
from breedlab.training.evaluation import Progress


@dataclass(frozen=True)
class LabelEvaluation:
    """The test results of a multi-label classifier.

    Attributes:
        images: How many were looked at.
        metrics: By name: loss (nats), map, f1 (macro), micro_f1, exact.
        intervals: By metric, where the true value is with 95% confidence.
        per_class: By class name: `photos`, how many there are, `threshold`, `ap` and `ap_interval`
            (None without images), `given`, `right`, `precision`, `recall`, `f1`.
        probabilities: Of each image, (n, classes).
        predicted: Which labels each image was given, (n, classes).
        calibration: Empty: scores are taken as they are.
    """

    images: int
    metrics: dict[str, float]
    intervals: dict[str, Span]
    per_class: dict[str, dict[str, Any]]
    probabilities: Array
    predicted: Array
    calibration: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for metrics.json, without the single predictions."""
        return {
            "multi_label": True,
            "photos": self.images,
            "metrics": self.metrics,
            "per_class": self.per_class,
            "worst": [],
            "calibration": {},
            "intervals": {name: [*span] for name, span in self.intervals.items()},
        }

    def columns(self) -> dict[str, Any]:
        """Return the answer for each image: its labels, and the probability of each class."""
        return {
            "predicted": [np.flatnonzero(row).tolist() for row in self.predicted],
            "probabilities": np.round(self.probabilities.astype(float), 6).tolist(),
            "thresholds": [own["threshold"] for own in self.per_class.values()],
        }


@torch.no_grad()
def evaluate_labels(
    scores: Callable[[torch.Tensor], torch.Tensor],
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    classes: tuple[str, ...],
    *,
    total: int,
    progress: Progress,
    thresholds: Sequence[float],
    monitor: Monitor | None = None,
) -> LabelEvaluation:
    """Score labeled images and evaluate the scores.

    Args:
        scores: From uint8 images (n, 3, side, side) to logits (n, classes) on the CPU.
        batches: Images, and zeros and ones, (n, classes).
        classes: Names in the order of the scores.
        total: Number of images, for the progress.
        progress: Called with how many are done.
        thresholds: The probability of each class from which an image is given its label.
        monitor: As for `make_metrics`.
    """
    metrics = make_metrics(
        len(classes), monitor=monitor, multi_label=True, thresholds=list(thresholds)
    )
    others = added(map(str, metrics), KNOWN, monitor, thresholds)
    logits, targets = [], []
    for images, truth in batches:
        logits.append(scores(images).float())
        targets.append(truth.float().cpu())
        metrics.update(logits[-1], targets[-1])
        for metric in others.values():
            metric.update(logits[-1], targets[-1])
        progress(sum(map(len, logits)), total)
    answers = label_answers_of(torch.cat(logits), torch.cat(targets), thresholds)
    values = {name: float(value) for name, value in metrics.compute().items()}
    intervals, of_classes = label_intervals(values, answers)
    return LabelEvaluation(
        images=len(answers.targets),
        metrics=values,
        intervals=intervals | spans_of(others, values),
        per_class={
            name: _of_class(answers, index, float(thresholds[index]), of_classes[index])
            for index, name in enumerate(classes)
        },
        probabilities=answers.probabilities,
        predicted=answers.predicted,
    )


def _of_class(
    answers: LabelAnswers, index: int, threshold: float, span: Span | None
) -> dict[str, Any]:
    truth, positives = answers.targets[:, index], answers.predicted[:, index]
    images, labels = int(truth.sum()), int(positives.sum())
    right = int(truth[positives].sum())
    precision = multi_label.average_precision(
        answers.probabilities[:, index], truth, np.ones(len(truth))
    )
    return {
        "photos": images,
        "threshold": threshold,
        "ap": float(precision) if images else None,
        "ap_interval": None if span is None else [*span],
        "given": labels,
        "right": right,
        "precision": right / max(1, labels),
        "recall": right / max(1, images),
        "f1": 2 * right / max(1, labels + images),
    }
