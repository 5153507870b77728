"""The figures that training, search and evaluation share. Names: loss, top1, top5, f1, ece."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score


class CrossEntropy(Metric):
    """Mean cross-entropy in nats, whatever weights or smoothing the training loss has."""

    full_state_update = False
    total: torch.Tensor
    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        self.total += nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        self.count += len(labels)

    def compute(self) -> torch.Tensor:
        return self.total / self.count


def make_metrics(classes: int, only: str | None = None) -> MetricCollection:
    """Metrics over logits (n, classes) and labels (n,).

    Args:
        classes: Number of classes.
        only: The one metric wanted beside the loss, by its short name; all by default.
    """
    makers: dict[str, Callable[[], Metric]] = {
        "loss": CrossEntropy,
        "top1": lambda: MulticlassAccuracy(classes, average="micro", validate_args=False),
        "top5": lambda: MulticlassAccuracy(classes, average="micro", top_k=min(5, classes), validate_args=False),
        "f1": lambda: MulticlassF1Score(classes, average="macro", validate_args=False),
        "ece": lambda: MulticlassCalibrationError(classes, n_bins=15, validate_args=False),
    }
    wanted = makers if only is None else {"loss", only}
    return MetricCollection({name: make() for name, make in makers.items() if name in wanted}, compute_groups=False)
