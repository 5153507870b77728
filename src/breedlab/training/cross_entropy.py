"""Cross-entropy whose class weights weigh images, not the targets that smoothing spreads."""

from __future__ import annotations

import torch
from torch import nn


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """The mean cross-entropy of images, each weighted by its class.

    The debugger finds the loss by the name of this class, which therefore is PyTorch's.

    `nn.CrossEntropyLoss` weighs every class of a smoothed or mixed target by its own weight. With
    20 common images for each rare one, what smoothing lays on the rare class then counts 20 times
    over, and the network calls everything the rare class (pytorch#104776). Here an image weighs as
    much as its true class, a mixed one as its two classes in their proportion; its target stays as
    it is.

    Args:
        weight: Of each class, (classes,), or None.
        label_smoothing: The share of each target that is spread over all classes.
        offsets: What is added to the logits, (classes,), or None.
    """

    weight: torch.Tensor | None
    offsets: torch.Tensor | None

    def __init__(
        self,
        weight: torch.Tensor | None = None,
        *,
        label_smoothing: float = 0.0,
        offsets: torch.Tensor | None = None,
    ) -> None:
        super().__init__(weight, label_smoothing=label_smoothing)
        self.register_buffer("offsets", offsets, persistent=False)

    def image_weights(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the weight of each image, (n,).

        Args:
            labels: int64 (n,), or probabilities (n, classes).
        """
        if self.weight is None:
            return torch.ones(len(labels), device=labels.device)
        return (
            self.weight[labels] if labels.ndim == 1 else labels.to(self.weight.dtype) @ self.weight
        )

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the weighted mean, in nats.

        Args:
            input: Logits (n, classes).
            target: int64 (n,), or probabilities (n, classes).
        """
        logits = input.float()  # bf16 logits would round the loss itself
        if self.offsets is not None:
            logits = logits + self.offsets
        smoothing = self.label_smoothing
        if self.weight is None:
            return nn.functional.cross_entropy(logits, target, label_smoothing=smoothing)
        losses = nn.functional.cross_entropy(
            logits, target, reduction="none", label_smoothing=smoothing
        )
        weights = self.image_weights(target)
        return (weights * losses).sum() / weights.sum()


class BinaryCrossEntropyLoss(nn.BCEWithLogitsLoss):
    """The mean binary cross-entropy of all labels of all images (`data.multi_label`).

    Args:
        weight: The weight of an image with each label relative to one without it, (classes,), or
            None.
        label_smoothing: The share of each target that is spread evenly over yes and no, so that 1
            becomes 1 - share/2 and 0 becomes share/2.
    """

    def __init__(self, weight: torch.Tensor | None = None, *, label_smoothing: float = 0.0) -> None:
        super().__init__(pos_weight=weight)
        self.label_smoothing = label_smoothing

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the mean, in nats.

        Args:
            input: Logits (n, classes).
            target: Zeros and ones, (n, classes).
        """
        smoothed = target.float() * (1 - self.label_smoothing) + self.label_smoothing / 2
        return super().forward(input.float(), smoothed)


def image_weights(loss: nn.Module, labels: torch.Tensor) -> torch.Tensor:
    """Return what each image weighs in a loss, (n,): one, unless the loss says otherwise."""
    if isinstance(loss, CrossEntropyLoss):
        return loss.image_weights(labels)
    return torch.ones(len(labels), device=labels.device)
