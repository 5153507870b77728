"""The metrics of images of several classes, or none, as torchmetrics computes with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torchmetrics import Metric

from breedlab.evaluation import multi_label
from breedlab.evaluation.class_metrics import MeanLoss


class BinaryCrossEntropy(MeanLoss):
    """Mean binary cross-entropy of all labels in nats, whatever weights or smoothing the training
    loss has."""

    def update(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        self.total += nn.functional.binary_cross_entropy_with_logits(
            logits.float(), targets.float(), reduction="sum"
        )
        self.count += targets.numel()


class MeanAveragePrecision(Metric):
    """The mean over the classes that have images of their average precision; 0 without any."""

    full_state_update = False
    logits: list[torch.Tensor]
    targets: list[torch.Tensor]

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        for name in ("logits", "targets"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        self.logits.append(logits.float())
        self.targets.append(targets.to(torch.uint8))

    def compute(self) -> torch.Tensor:
        logits, targets = _joined(self.logits), _joined(self.targets)
        if not bool(logits.isfinite().all()):  # a diverged training has no ranking
            return torch.tensor(float("nan"))
        scores, truth = logits.cpu().numpy(), targets.cpu().numpy().astype(float)
        ones = (truth >= 0).astype(float)
        values = [
            multi_label.average_precision(scores[:, index], truth[:, index], ones[:, index])
            for index in range(truth.shape[1])
        ]
        return torch.tensor(values, dtype=torch.float64).nanmean().nan_to_num(0.0)


def _joined(parts: list[torch.Tensor] | torch.Tensor) -> torch.Tensor:
    """Return a state of lists as one tensor; after a sync it already is one."""
    return parts if isinstance(parts, torch.Tensor) else torch.cat(parts)


class LabelF1(Metric):
    """F1 of labels at thresholds, of each class and then the mean (`macro`), or of all together
    (`micro`).

    Classes that are neither there nor given do not count, as for images of one class.
    """

    full_state_update = False
    hits: torch.Tensor
    predicted: torch.Tensor
    positives: torch.Tensor

    def __init__(
        self, thresholds: Sequence[float], average: Literal["macro", "micro"], **how: Any
    ) -> None:
        super().__init__(**how)
        self._thresholds, self._average = tuple(thresholds), average
        for name in ("hits", "predicted", "positives"):
            zeros = torch.zeros(len(self._thresholds), dtype=torch.int64)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        positives, true = decided(logits, self._thresholds), targets > 0.5
        self.hits += (positives & true).sum(0)
        self.predicted += positives.sum(0)
        self.positives += true.sum(0)

    def compute(self) -> torch.Tensor:
        sums = [part.cpu().numpy() for part in (self.hits, self.predicted, self.positives)]
        if self._average == "micro":
            values = multi_label.f1(*(part.sum(keepdims=True) for part in sums))
        else:
            values = multi_label.f1(*sums)
        return torch.tensor(values, dtype=torch.float64).nanmean().nan_to_num(0.0)


class ExactMatch(Metric):
    """The share of images whose labels are all right at thresholds."""

    full_state_update = False
    right: torch.Tensor
    count: torch.Tensor

    def __init__(self, thresholds: Sequence[float], **how: Any) -> None:
        super().__init__(**how)
        self._thresholds = tuple(thresholds)
        self.add_state("right", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        self.right += (decided(logits, self._thresholds) == (targets > 0.5)).all(1).sum()
        self.count += len(targets)

    def compute(self) -> torch.Tensor:
        return self.right / self.count


def decided(logits: torch.Tensor, thresholds: Sequence[float]) -> torch.Tensor:
    """Return which labels images are given, bool (n, classes)."""
    least = torch.tensor(thresholds, dtype=torch.float64, device=logits.device)
    return logits.double().sigmoid() >= least
