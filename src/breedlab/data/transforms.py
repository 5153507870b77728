"""Geometry between decoded pixels and the network's input. Values stay uint8; the network
normalizes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import center_crop

_AREAS = (0.35, 1.0)
_ASPECTS = (3 / 4, 4 / 3)
"""Of a training crop: its share of the image, and its width by its height."""
_ATTEMPTS = 10
"""Draws of a crop before the largest one in the middle is taken: in a long image few fit."""
_STRIDE = 32
"""The pixels of the input that are one of most networks' last feature map."""


@dataclass(frozen=True)
class EvalTransform:
    """Resize the shorter side, cut the center. The same object serves validation, test, export and
    endpoint.

    Attributes:
        resize: Shorter side after the resize, pixels.
        crop: Side of the square cut from the center, pixels.
        interpolation: `bilinear` or `bicubic`, both antialiased.
        mean: Per channel, of values scaled to 0..1; subtracted by the network.
        std: Per channel, likewise; divided by.
    """

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, pixels: np.ndarray[Any, Any]) -> torch.Tensor:
        """From uint8 (height, width, 3) to uint8 (3, crop, crop)."""
        image = to_tensor(pixels)
        height, width = image.shape[1:]
        short, long = self.resize, int(self.resize * max(height, width) / min(height, width))
        size = (long, short) if width <= height else (short, long)
        cropped: torch.Tensor = center_crop(
            resize(image, size, self.interpolation), [self.crop, self.crop]
        )
        return cropped


@dataclass(frozen=True)
class CropSizes:
    """The sides of training crops that grow from epoch to epoch (progressive resizing, as in
    EfficientNetV2: Tan and Le 2021, arXiv 2104.00298). Small crops take less time.

    Attributes:
        first: Pixels, in the first epoch.
        last: Pixels, in the last epoch.
        epochs: Of the whole training.
    """

    first: int
    last: int
    epochs: int

    def of_epoch(self, epoch: int) -> int:
        """Return the side in an epoch counted from 0: the nearest multiple of what networks
        halve their input to, but for the last."""
        if epoch + 1 >= self.epochs:
            return self.last
        share = epoch / (self.epochs - 1)
        side = _STRIDE * round((self.first + share * (self.last - self.first)) / _STRIDE)
        return min(max(side, self.first), self.last)

    def cost(self) -> float:
        """Return how much an epoch costs on average, relative to one of the largest crops."""
        sides = [self.of_epoch(epoch) for epoch in range(self.epochs)]
        return sum(side**2 for side in sides) / (self.last**2 * len(sides))


class TrainTransform:
    """A random crop, a flip, and what an augmentation adds. Draws from torch's generator: seed it
    for each image.

    Args:
        base: The evaluation's, for the size.
        more: Applied last, from uint8 (3, crop, crop) to the same; None for nothing.
        sizes: Of the crops, if they grow; None for that of `base`.
    """

    def __init__(
        self,
        base: EvalTransform,
        more: Callable[[torch.Tensor], torch.Tensor] | None,
        sizes: CropSizes | None = None,
    ) -> None:
        self._side = base.crop
        self._sizes = sizes
        self._interpolation = base.interpolation
        self._more = more

    def __call__(
        self,
        pixels: np.ndarray[Any, Any],
        original: tuple[int, int] | None = None,
        epoch: int = 0,
    ) -> torch.Tensor:
        """From uint8 (height, width, 3) to uint8 (3, crop, crop).

        Args:
            pixels: The image.
            original: The (height, width) that it had before it was shrunk: the same draws cut the
                same part of it.
            epoch: Counted from 0; it matters where crops grow.
        """
        side = self._side if self._sizes is None else self._sizes.of_epoch(epoch)
        height, width = original or pixels.shape[:2]
        top, left, high, wide = random_crop(height, width)
        rows = _scaled(top, high, pixels.shape[0] / height)
        columns = _scaled(left, wide, pixels.shape[1] / width)
        # Copied before the resize: from a window of a larger array it would take the slow path.
        window = to_tensor(np.ascontiguousarray(pixels[rows, columns]))
        image = resize(window, (side, side), self._interpolation)
        if torch.rand(()) < 0.5:
            image = image.flip(-1)
        return image if self._more is None else self._more(image)


def random_crop(height: int, width: int) -> tuple[int, int, int, int]:
    """Draw (top, left, height, width) of a crop of an image, by torch's generator.

    Distributed as in torchvision's RandomResizedCrop (inception crops: Szegedy et al. 2014, arXiv
    1409.4842), which draws numbers one by one: with images that are decoded already, that takes a
    tenth of the time of loading them.
    """
    least, most = map(math.log, _ASPECTS)
    for _ in range(_ATTEMPTS):
        share, shape, down, right = torch.rand(4).tolist()
        area = height * width * (_AREAS[0] + share * (_AREAS[1] - _AREAS[0]))
        aspect = math.exp(least + shape * (most - least))
        high, wide = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < high <= height and 0 < wide <= width:
            top, left = int(down * (height - high + 1)), int(right * (width - wide + 1))
            return top, left, high, wide
    high = min(height, round(width / _ASPECTS[0]))
    wide = min(width, round(height * _ASPECTS[1]))
    return (height - high) // 2, (width - wide) // 2, high, wide


def _scaled(start: int, length: int, scale: float) -> slice:
    """Return where a stretch of an image is once that is resized, to the nearest pixel."""
    return slice(round(start * scale), round((start + length) * scale))


def side_for_crops(crop: int) -> int:
    """Return the shorter side in pixels at which an image has the detail of all training crops of a
    size.

    The smallest crop of an image of height and width `side` or more is `crop` pixels high or wide.
    """
    return math.ceil(crop / math.sqrt(_AREAS[0] * _ASPECTS[0]))


def shrunk(pixels: np.ndarray[Any, Any], side: int, interpolation: str) -> np.ndarray[Any, Any]:
    """Return an image (height, width, 3) with its shorter side at `side`, or as it is where that is
    no smaller."""
    size = shrunk_size(pixels.shape[0], pixels.shape[1], side)
    if size == pixels.shape[:2]:
        return pixels
    resized: np.ndarray[Any, Any] = (
        resize(to_tensor(pixels), size, interpolation).permute(1, 2, 0).numpy()
    )
    return resized


def shrunk_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the (height, width) of the result of `shrunk` for an image of these."""
    if min(height, width) <= side:
        return height, width
    long = round(side * max(height, width) / min(height, width))
    return (long, side) if width <= height else (side, long)


def resize(image: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """Resize a uint8 (channels, height, width) image to another (height, width), antialiased.

    What torchvision's resize computes, in whole numbers on every version and CPU: torchvision 0.21,
    which is that of AWS's newest inference image, uses floats on CPUs with AVX512, where one value
    in seven rounds differently.
    """
    if tuple(image.shape[1:]) == size:
        return image
    # The batch's stride is written out: torch then sees channels-last memory, and answers in the
    # same.
    batch = image.as_strided((1, *image.shape), (image.numel(), *image.stride()))
    return interpolate(batch, size, mode=interpolation, align_corners=False, antialias=True)[0]


def to_tensor(pixels: np.ndarray[Any, Any]) -> torch.Tensor:
    """Return a uint8 (3, height, width) view in channels-last memory, for which resizing is
    fast."""
    return torch.from_numpy(pixels).permute(2, 0, 1)
