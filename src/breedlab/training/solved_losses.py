"""What a solved head minimizes besides its penalty: with one class per image, or with several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Loss(ABC):
    """What is minimized besides the penalty.

    Attributes:
        class_weights: (classes,), or None where all weigh the same.
        label_smoothing: The share of each target that is spread over all classes, or over yes and
            no.
    """

    class_weights: torch.Tensor | None = None
    label_smoothing: float = 0.0

    @abstractmethod
    def shares(self, targets: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return what each image's loss counts, (n,), summing to 1, in the type of `like`."""

    @abstractmethod
    def of_images(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of each image, (n,)."""

    @abstractmethod
    def problems(self, classes: int) -> float:
        """Return how many times scikit-learn counts the penalty of the weights that these are."""


class CrossEntropy(Loss):
    """Cross-entropy with one class per image: the mean over images, weighted by their class."""

    def shares(self, targets: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        if self.class_weights is None:
            return like.new_ones(len(targets)) / len(targets)
        shares = self.class_weights.to(like)[targets]
        return shares / shares.sum()

    def of_images(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(
            logits, targets, reduction="none", label_smoothing=self.label_smoothing
        )

    def problems(self, classes: int) -> float:
        # scikit-learn has one vector for two classes, whose difference these two are.
        return 2.0 if classes == 2 else 1.0


class BinaryLoss(Loss):
    """Binary cross-entropy of each class by itself, summed: one regression against the rest for
    each, whose optima do not depend on one another."""

    def shares(self, targets: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return like.new_ones(len(targets)) / len(targets)

    def of_images(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        smoothed = targets.to(logits) * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = nn.functional.binary_cross_entropy_with_logits(
            logits, smoothed, reduction="none", pos_weight=weights
        )
        return losses.sum(1)

    def problems(self, classes: int) -> float:
        return 1.0
