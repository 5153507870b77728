"""The images of a split, one by one, and their batches: what a loading process runs.

A process that is spawned, as on Windows and macOS, imports this module and what it names, and no
more: Lightning would take it seconds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from breedlab.data.batches import Key, mixed_seed
from breedlab.data.decode import ImageError, decode, keep_memory, read_image
from breedlab.data.image_set import LabeledImage
from breedlab.data.transforms import EvalTransform, TrainTransform, to_tensor
from breedlab.errors import DataError

Batch = tuple[torch.Tensor, torch.Tensor]


class Pixels(Protocol):
    """Images by their index in a split, uint8 (height, width, 3) each."""

    def __getitem__(self, index: int) -> np.ndarray[Any, Any]: ...

    def original_size(self, index: int) -> tuple[int, int]:
        """Return the (height, width) that the image's file has."""
        ...


@dataclass(frozen=True)
class KeptImages:
    """The cached images of a split, so that no file has to be decoded again.

    Attributes:
        evaluated: The results of the evaluation transform.
        decoded: What training crops are cut from.
    """

    evaluated: Pixels | None = None
    decoded: Pixels | None = None


Target = int | torch.Tensor
"""Of one image: its label, or with `data.multi_label` float (classes,), 1 for each of its
classes."""


def target_of(image: LabeledImage, classes: int) -> Target:
    """Return what training compares the scores of an image with."""
    if image.labels is None:
        return image.label
    target = torch.zeros(classes)
    target[list(image.labels)] = 1.0
    return target


def stacked(targets: Sequence[Target]) -> torch.Tensor:
    """Return targets as int64 (n,), or float (n, classes) of images of several classes."""
    several = [target for target in targets if isinstance(target, torch.Tensor)]
    return torch.stack(several) if several else torch.tensor(targets, dtype=torch.int64)


class ImageDataset(Dataset[tuple[torch.Tensor, Target]]):
    """Images of one split, by (view, index): uint8 (3, side, side) and the target.

    Args:
        images: Of the split.
        evaluation: The transform of view 0.
        training: Of the other views.
        seed: Decides their draws.
        cache: Images that need not be decoded again.
        classes: How many there are; needed where images have several.
    """

    def __init__(
        self,
        images: Sequence[LabeledImage],
        evaluation: EvalTransform,
        training: TrainTransform | None = None,
        seed: int = 0,
        cache: KeptImages | None = None,
        classes: int = 0,
    ) -> None:
        self.images, self.evaluation, self.training, self.seed = images, evaluation, training, seed
        self.classes = classes
        self.cache = KeptImages() if cache is None else cache

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key | int) -> tuple[torch.Tensor, Target]:
        view, index = key if isinstance(key, tuple) else (0, key)
        image = self.images[index]
        target = target_of(image, self.classes)
        if view == 0 or self.training is None:
            if self.cache.evaluated is not None:
                return to_tensor(self.cache.evaluated[index]), target
            return self.evaluation(read_pixels(image.path)), target
        cache = self.cache.decoded
        pixels = read_pixels(image.path) if cache is None else cache[index]
        original = None if cache is None else cache.original_size(index)
        # not fork_rng with manual_seed, which reseeds the GPU as well
        before = torch.default_generator.get_state()
        torch.default_generator.manual_seed(mixed_seed(self.seed, view, index))
        try:
            return self.training(pixels, original, epoch=view - 1), target
        finally:
            torch.default_generator.set_state(before)


class SplitsDataset(Dataset[tuple[torch.Tensor, Target]]):
    """Several splits for one loader. Keys are (split, view, index)."""

    def __init__(self, datasets: dict[str, ImageDataset]) -> None:
        self.datasets = datasets

    def __getitem__(self, key: tuple[str, int, int]) -> tuple[torch.Tensor, Target]:
        split, view, index = key
        return self.datasets[split][view, index]


def collate(items: list[tuple[torch.Tensor, Target]]) -> Batch:
    """Stack images in their memory order, channels last; channels first takes longer.

    By torch's own collate, which in a worker writes straight into the memory that the main process
    reads.
    """
    images: torch.Tensor = default_collate([image.permute(1, 2, 0) for image, _ in items])
    return images.permute(0, 3, 1, 2), stacked([target for _, target in items])


class LostImage(DataError):
    """An image that was fine at the data check and is not any more."""

    code = "BL202"

    def __init__(self, text: str) -> None:
        # A DataLoader raises a new error with its worker's whole traceback as the text; the end is
        # ours.
        super().__init__(text.rsplit(f"{type(self).__name__}: ", 1)[-1].strip())

    @property
    def fact(self) -> str:
        """What is wrong with which, for where there was no data check."""
        return str(self).partition("; it ")[0]


def read_pixels(path: Path) -> np.ndarray[Any, Any]:
    """Return an image that the data check has seen, uint8 (height, width, 3).

    Raises:
        LostImage: If it changed since.
    """
    try:
        return decode(read_image(path))
    except ImageError as error:
        raise LostImage(f"{path} {error}; it changed after the data check: run again") from error
    except OSError as error:
        raise LostImage(
            f"{path} cannot be read ({error.strerror}); it was there at the data check"
        ) from error


def start_worker(_worker: int) -> None:
    """Give a worker one thread, a process group of its own, and memory that it keeps."""
    torch.set_num_threads(1)
    if os.name == "posix":
        # a signal to the whole group must not end the workers before the current step is saved
        os.setpgid(0, 0)
    keep_memory()
