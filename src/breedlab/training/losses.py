"""What training minimizes. Validation and the test measure the plain cross-entropy, whatever this
is."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from breedlab.config.section import Section
from breedlab.registry import LOSSES

if TYPE_CHECKING:
    import torch
    from torch import nn


class Loss(Section):
    """A training loss."""

    @abstractmethod
    def build(self, class_weights: torch.Tensor | None, label_smoothing: float) -> nn.Module:
        """Return a module that is called with logits (n, classes) and targets, and returns the mean
        loss of the images.

        Targets are int64 (n,), or probabilities (n, classes) where `data.mixup` mixes images.

        Args:
            class_weights: Of `data.class_weights`, (classes,), or None.
            label_smoothing: `optim.label_smoothing`. Refuse what the loss cannot do with a
                ConfigError.
        """


@LOSSES.register("cross_entropy")
class CrossEntropy(Loss):
    """Cross-entropy, in which a class weight weighs images of the class."""

    def build(self, class_weights: torch.Tensor | None, label_smoothing: float) -> nn.Module:
        from breedlab.training.cross_entropy import CrossEntropyLoss

        return CrossEntropyLoss(class_weights, label_smoothing=label_smoothing)
