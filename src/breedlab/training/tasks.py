"""What training needs to know of its kind of labels: one class per image, or several
(`data.multi_label`).

Serving asks `serving.answers.Answers` the same, which reads it from the archive.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from torchmetrics import MetricCollection

from breedlab.config.sections import Data, Monitor, Optim
from breedlab.evaluation.class_metrics import make_metrics
from breedlab.evaluation.label_metrics import decided
from breedlab.evaluation.multi_label import UNDECIDED
from breedlab.registry import LOSSES
from breedlab.training import losses
from breedlab.training.solved_losses import BinaryLoss, CrossEntropy, Loss


class Task(ABC):
    """What targets are, and what is right.

    Attributes:
        multi_label: Whether an image may have several classes, or none.
        accuracy: The metric that is the share of images answered right.
    """

    multi_label: ClassVar[bool]
    accuracy: ClassVar[str]

    @abstractmethod
    def loss(
        self, optim: Optim, class_counts: Sequence[int], class_weights: torch.Tensor | None
    ) -> nn.Module:
        """Return the training loss that a config names.

        Args:
            optim: Its section.
            class_counts: Images of each class.
            class_weights: (classes,), or None.
        """

    @abstractmethod
    def solved_loss(self, class_weights: torch.Tensor | None, label_smoothing: float) -> Loss:
        """Return the loss of a head that is solved; arguments as in `loss`."""

    @abstractmethod
    def right(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return which images are answered right, bool (n,)."""

    def metrics(
        self,
        classes: int,
        only: str | None = None,
        shared: bool = False,
        monitor: Monitor | None = None,
    ) -> MetricCollection:
        """Return the metrics of these targets; arguments as in `make_metrics`."""
        return make_metrics(classes, only, shared, monitor, multi_label=self.multi_label)


class SingleLabel(Task):
    """One class per image: targets are labels, int64 (n,), or their mixtures, (n, classes)."""

    multi_label, accuracy = False, "top1"

    def loss(
        self, optim: Optim, class_counts: Sequence[int], class_weights: torch.Tensor | None
    ) -> nn.Module:
        chosen: losses.Loss = LOSSES.chosen(optim)
        return chosen.build_for(class_counts, class_weights, optim.label_smoothing)

    def solved_loss(self, class_weights: torch.Tensor | None, label_smoothing: float) -> Loss:
        return CrossEntropy(class_weights, label_smoothing)

    def right(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        truth = targets if targets.ndim == 1 else targets.argmax(1)
        return logits.argmax(1) == truth


class MultiLabel(Task):
    """Several classes per image, or none: targets are zeros and ones, float (n, classes)."""

    multi_label, accuracy = True, "exact"

    def loss(
        self, optim: Optim, class_counts: Sequence[int], class_weights: torch.Tensor | None
    ) -> nn.Module:
        chosen: losses.Loss = LOSSES.chosen(optim)
        return chosen.build_multi_label(class_weights, optim.label_smoothing)

    def solved_loss(self, class_weights: torch.Tensor | None, label_smoothing: float) -> Loss:
        return BinaryLoss(class_weights, label_smoothing)

    def right(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        thresholds = [UNDECIDED] * logits.shape[1]
        return (decided(logits, thresholds) == (targets > UNDECIDED)).all(1)


def task_of(data: Data) -> Task:
    """Return the task of a config's `data`."""
    return MultiLabel() if data.multi_label else SingleLabel()
