"""What training does to an image after the random crop and flip that each of them begins with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from breedlab.config.section import Section
from breedlab.registry import AUGMENTATIONS

if TYPE_CHECKING:
    import torch

    Transform = Callable[[torch.Tensor], torch.Tensor]


class Augmentation(Section):
    """An augmentation of training images."""

    @abstractmethod
    def build(self) -> Transform | None:
        """Return what is done to an image, uint8 (3, side, side), once it is cropped and flipped;
        None for nothing.

        It draws from torch's default generator, which is seeded for each image.
        """


class Built:
    """An augmentation, built at its first image in each process: what `build` returns need not be
    picklable.

    Loading workers may be spawned, and get this pickled.
    """

    def __init__(self, augmentation: Augmentation) -> None:
        self.augmentation = augmentation

    @cached_property
    def _transform(self) -> Transform | None:
        return self.augmentation.build()

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return image if self._transform is None else self._transform(image)

    def __getstate__(self) -> dict[str, Augmentation]:
        return {"augmentation": self.augmentation}


@AUGMENTATIONS.register("basic")
class Basic(Augmentation):
    """A random crop and flip, and nothing else."""

    def build(self) -> None:
        return None


@AUGMENTATIONS.register("trivial")
class Trivial(Augmentation):
    """TrivialAugment: one random operation at a random strength (Müller and Hutter 2021, arXiv
    2103.10158)."""

    def build(self) -> Transform:
        from torchvision.transforms import v2

        trivial: Transform = v2.TrivialAugmentWide()
        return trivial


@AUGMENTATIONS.register("randaug")
class RandAugment(Augmentation):
    """RandAugment: two random operations at a fixed strength (Cubuk et al. 2020, arXiv
    1909.13719)."""

    def build(self) -> Transform:
        from torchvision.transforms import v2

        randaug: Transform = v2.RandAugment()
        return randaug
