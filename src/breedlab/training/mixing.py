"""What mixes the images of a training batch, and their labels with them: mixup and CutMix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torchvision.transforms import v2

from breedlab.config.sections import Data

Mix = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""From float images (n, 3, side, side) and labels (n,) or (n, classes) to mixed images, and targets
(n, classes)."""


def mixing(data: Data, classes: int) -> Mix | None:
    """Return what mixes a batch as a config says; None for nothing.

    With both, each batch gets one of them, by chance.

    Args:
        data: The config's section.
        classes: Number of classes.
    """
    kinds: list[v2.Transform] = []
    if data.mixup:
        kinds.append(v2.MixUp(alpha=data.mixup, num_classes=classes))
    if data.cutmix:
        kinds.append(v2.CutMix(alpha=data.cutmix, num_classes=classes))
    if not kinds:
        return None
    mix: Mix = kinds[0] if len(kinds) == 1 else v2.RandomChoice(kinds)
    return mix
