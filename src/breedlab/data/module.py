"""The LightningDataModule: images to batches, the same for the same seed with any number of
workers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from breedlab import distributed, hardware
from breedlab.config.sections import Data
from breedlab.data import shared_memory
from breedlab.data.augmentations import Built
from breedlab.data.batches import (
    Key,
    TrainingBatches,
    TrainingLoader,
    Views,
    mixed_seed,
    sampling_chances,
)
from breedlab.data.decode import ImageError, decode, keep_memory, read_image
from breedlab.data.image_set import ImageSet, LabeledImage
from breedlab.data.transforms import EvalTransform, TrainTransform, to_tensor
from breedlab.distributed import WHOLE, Shard
from breedlab.errors import DataError
from breedlab.registry import AUGMENTATIONS

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
            return self.training(pixels, original), target
        finally:
            torch.default_generator.set_state(before)


class _Splits(Dataset[tuple[torch.Tensor, Target]]):
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


_VIEW_BATCH = 32


class ImageData(lightning.LightningDataModule):
    """Batches of a checked image set.

    Batches are (images, targets): uint8 (n, 3, side, side) and int64 (n,), or float (n, classes)
    with `data.multi_label`.
    """

    def __init__(
        self,
        images: ImageSet,
        data: Data,
        evaluation: EvalTransform,
        seed: int,
        frozen_views: int | None,
        caches: Mapping[str, KeptImages] | None = None,
    ) -> None:
        super().__init__()
        self.images, self.data, self.evaluation, self.seed = images, data, evaluation, seed
        self.caches = caches or {}
        self.views = Views(frozen_views, data.augment)
        self.training = (
            None
            if data.augment == "none"
            else TrainTransform(
                replace(evaluation, crop=data.train_size or evaluation.crop),
                Built(AUGMENTATIONS.chosen(data)),
            )
        )
        self.shard = WHOLE

    def dataset(self, split: str) -> ImageDataset:
        return ImageDataset(
            self.images.splits[split],
            self.evaluation,
            self.training,
            self.seed,
            self.caches.get(split),
            len(self.images.classes),
        )

    def train_dataloader(self) -> TrainingLoader:
        dataset = self.dataset("train")
        batches = TrainingBatches(
            len(dataset),
            self.data.batch_size,
            self.seed,
            self.views,
            self.shard,
            sampling_chances(self.data.sampling, self.labels("train")),
        )
        return TrainingLoader(dataset, batch_sampler=batches, **self._loading(self.data.batch_size))

    def val_dataloader(self) -> DataLoader[tuple[torch.Tensor, Target]]:
        return self.view_dataloader("valid", 0, shard=self.shard)

    def test_dataloader(self) -> DataLoader[tuple[torch.Tensor, Target]]:
        return self.view_dataloader("test", 0)

    def view_dataloader(
        self,
        split: str,
        view: int,
        batch_size: int = _VIEW_BATCH,
        start: int = 0,
        shard: Shard = WHOLE,
        indices: Sequence[int] | None = None,
    ) -> DataLoader[tuple[torch.Tensor, Target]]:
        """Load one view of a split, all of it unless a start, a shard or indices say otherwise, in
        the order of its images.

        Indices are taken in the order given.
        """
        dataset = self.dataset(split)
        positions = (
            range(start + shard.rank, len(dataset), shard.world) if indices is None else indices
        )
        keys = [(view, index) for index in positions]
        return DataLoader(dataset, batch_size=batch_size, sampler=keys, **self._loading(batch_size))

    def stream(
        self, parts: Sequence[tuple[str, int, int]], batch_size: int
    ) -> DataLoader[tuple[torch.Tensor, Target]]:
        """Load views of splits in sequence, in the order of their images, with one set of workers.

        Args:
            parts: (split, view, first image) each.
            batch_size: The most in a batch; none spans two parts.
        """
        batches: list[list[tuple[str, int, int]]] = []
        for split, view, start in parts:
            keys = [(split, view, index) for index in range(start, len(self.images.splits[split]))]
            batches += [keys[at : at + batch_size] for at in range(0, len(keys), batch_size)]
        dataset = _Splits({split: self.dataset(split) for split, _, _ in parts})
        return DataLoader(dataset, batch_sampler=batches, **self._loading(batch_size))

    def labels(self, split: str) -> torch.Tensor:
        """Return the targets of a split in the order of its images: int64 (n,), or float (n,
        classes)."""
        count = len(self.images.classes)
        images = self.images.splits[split]
        if not images and self.images.multi_label:
            return torch.zeros(0, count)
        return stacked([target_of(image, count) for image in images])

    def class_weights(self) -> torch.Tensor | None:
        """Return inverse class frequencies with mean 1 over the images, or None where classes are
        not weighed.

        With `data.multi_label`, what each class's images weigh against those that are not of it: as
        many times as those are more."""
        if self.data.class_weights == "none":
            return None
        if self.images.multi_label:
            counts = torch.tensor(self.images.counts("train"), dtype=torch.float32).clamp(min=1)
            return (len(self.images.splits["train"]) - counts).clamp(min=1) / counts
        return self._inverse_frequencies()

    def solving_weights(self) -> torch.Tensor | None:
        """Return the class weights of a head that is solved: nothing is drawn for it, so balanced
        sampling is what it is on average."""
        balanced = self.data.sampling == "balanced"
        return self._inverse_frequencies() if balanced else self.class_weights()

    def _inverse_frequencies(self) -> torch.Tensor:
        counts = torch.tensor(self.images.counts("train"), dtype=torch.float32)
        return counts.sum() / (len(counts) * counts)

    def describe_loading(self) -> str:
        """Return what a user should know of how images are loaded, or nothing."""
        return shared_memory.note(
            self._wanted_workers(), self._batch_bytes(max(self.data.batch_size, _VIEW_BATCH))
        )

    def _wanted_workers(self) -> int:
        workers = self.data.num_workers
        return (
            max(1, min(hardware.available() // distributed.local_world(), 8))
            if workers == "auto"
            else workers
        )

    def _batch_bytes(self, batch_size: int) -> int:
        """Return the bytes of a batch in shared memory, times the processes of this machine that
        load one."""
        return batch_size * 3 * self.evaluation.crop**2 * distributed.local_world()

    def _loading(self, batch_size: int) -> dict[str, Any]:
        free = shared_memory.free_bytes()
        loading = shared_memory.fitting(self._wanted_workers(), self._batch_bytes(batch_size), free)
        workers = loading.workers
        return {
            "prefetch_factor": loading.prefetch if workers else None,
            "num_workers": workers,
            "collate_fn": collate,
            "persistent_workers": workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": start_worker if workers else None,
            # A generator of its own, so that loading draws nothing from the one that dropout uses.
            "generator": torch.Generator().manual_seed(self.seed),
        }


def start_worker(_worker: int) -> None:
    """Give a worker one thread, a process group of its own, and memory that it keeps."""
    torch.set_num_threads(1)
    if os.name == "posix":
        # a signal to the whole group must not end the workers before the current step is saved
        os.setpgid(0, 0)
    keep_memory()
