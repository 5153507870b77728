"""What training minimizes. Validation and the test measure the plain cross-entropy, whatever this
is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from breedlab.config.section import Section
from breedlab.registry import LOSSES

if TYPE_CHECKING:
    import torch
    from torch import nn


class Loss(Section):
    """A training loss.

    Attributes:
        multi_label: Whether it trains on images of several classes (`data.multi_label`).
    """

    multi_label: ClassVar[bool] = False

    @abstractmethod
    def build(self, class_weights: torch.Tensor | None, label_smoothing: float) -> nn.Module:
        """Return a module that is called with logits (n, classes) and targets, and returns the mean
        loss of the images.

        Targets are int64 (n,), or probabilities (n, classes) where images are mixed
        (`data.mixup`, `data.cutmix`).

        Args:
            class_weights: Of `data.class_weights`, (classes,), or None.
            label_smoothing: `optim.label_smoothing`. Refuse what the loss cannot do with a
                ConfigError.
        """

    def build_for(
        self,
        class_counts: Sequence[int],
        class_weights: torch.Tensor | None,
        label_smoothing: float,
    ) -> nn.Module:
        """Return what `build` does, for a training set with so many images of each class.

        Override it where the loss depends on how frequent classes are.
        """
        return self.build(class_weights, label_smoothing)

    def build_multi_label(
        self, class_weights: torch.Tensor | None, label_smoothing: float
    ) -> nn.Module:
        """Return what `build` does, of a loss with `multi_label`: targets are (n, classes) of zeros
        and ones.

        Args:
            class_weights: The weight of an image with each label relative to one without it,
                (classes,), or None.
            label_smoothing: As for `build`.
        """
        raise NotImplementedError(f"{type(self).__name__} trains on images of one class")


@LOSSES.register("cross_entropy")
class CrossEntropy(Loss):
    """Cross-entropy, optionally with class weights; for multi-label data, binary cross-entropy per
    class."""

    multi_label = True

    def build(self, class_weights: torch.Tensor | None, label_smoothing: float) -> nn.Module:
        from breedlab.training.cross_entropy import CrossEntropyLoss

        return CrossEntropyLoss(class_weights, label_smoothing=label_smoothing)

    def build_multi_label(
        self, class_weights: torch.Tensor | None, label_smoothing: float
    ) -> nn.Module:
        from breedlab.training.cross_entropy import BinaryCrossEntropyLoss

        return BinaryCrossEntropyLoss(class_weights, label_smoothing=label_smoothing)


@LOSSES.register("logit_adjusted")
class LogitAdjusted(CrossEntropy):
    """Cross-entropy with log class frequencies added to the logits, so that the network learns
    scores for equally frequent classes (Menon et al. 2021, arXiv 2007.07314)."""

    multi_label = False

    tau: Annotated[float, Field(ge=0)] = 1.0
    """The factor of the log frequencies; 0 is plain cross-entropy."""

    def build_for(
        self,
        class_counts: Sequence[int],
        class_weights: torch.Tensor | None,
        label_smoothing: float,
    ) -> nn.Module:
        import torch

        from breedlab.training.cross_entropy import CrossEntropyLoss

        counts = torch.tensor(class_counts, dtype=torch.float32)
        return CrossEntropyLoss(
            class_weights,
            label_smoothing=label_smoothing,
            offsets=self.tau * (counts / counts.sum()).log(),
        )
