"""The metrics that training, search and evaluation share, as torchmetrics computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassCalibrationError

from breedlab.config.sections import Monitor
from breedlab.evaluation.multi_label import UNDECIDED
from breedlab.registry import METRICS


class MeanLoss(Metric):
    """A loss's mean, from its sum over batches (`total`) and the number of values in it
    (`count`)."""

    full_state_update = False
    total: torch.Tensor
    count: torch.Tensor

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def compute(self) -> torch.Tensor:
        return self.total / self.count


class CrossEntropy(MeanLoss):
    """Mean cross-entropy in nats, whatever weights or smoothing the training loss has."""

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        self.total += nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        self.count += len(labels)


class MacroF1(Metric):
    """Mean over the classes of F1, in memory that grows with the classes and not with their square.

    Classes that are neither there nor predicted do not count, as in scikit-learn and torchmetrics.
    """

    full_state_update = False
    hits: torch.Tensor
    images: torch.Tensor
    predicted: torch.Tensor

    def __init__(self, classes: int, **how: Any) -> None:
        super().__init__(**how)
        for name in ("hits", "images", "predicted"):
            self.add_state(name, torch.zeros(classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        predicted = logits.argmax(1)
        count = len(self.hits)
        self.hits += torch.bincount(labels[predicted == labels], minlength=count)
        self.images += torch.bincount(labels, minlength=count)
        self.predicted += torch.bincount(predicted, minlength=count)

    def compute(self) -> torch.Tensor:
        present = self.images + self.predicted > 0
        return (2 * self.hits[present] / (self.images + self.predicted)[present]).mean()


class CalibrationError(MulticlassCalibrationError):
    """Expected calibration error of logits.

    torchmetrics takes scores that are all between 0 and 1 for probabilities, but the logits of an
    untrained head may be, too.
    """

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        super().update(preds.float().softmax(1), target)


def make_metrics(
    classes: int,
    only: str | None = None,
    shared: bool = False,
    monitor: Monitor | None = None,
    *,
    multi_label: bool = False,
    thresholds: Sequence[float] | None = None,
) -> MetricCollection:
    """Return the registered metrics over logits (n, classes) and labels (n,), or targets (n,
    classes).

    Args:
        classes: Number of classes.
        only: The one metric wanted besides the loss, by its short name; all by default.
        shared: Over what all processes of the run were given, rather than this one alone.
        monitor: Where metrics that have settings find them; the defaults without it.
        multi_label: Whether images have several classes, or none.
        thresholds: With `multi_label`, those of the classes; 0.5 by default.
    """
    fitting = [
        name
        for name, kind in METRICS.items()
        if (kind.multi_label if multi_label else kind.single_label)
    ]
    names = [name for name in fitting if only is None or name in ("loss", only)]
    section = monitor or Monitor()
    metrics: dict[str, Metric | MetricCollection] = {}
    for name in sorted(names, key="loss".__ne__):
        metric, how = METRICS.made(name, section), {"sync_on_compute": shared}
        if multi_label:
            metrics[name] = metric.build_multi_label(thresholds or [UNDECIDED] * classes, **how)
        else:
            metrics[name] = metric.build(classes, **how)
    return MetricCollection(metrics, compute_groups=False)
