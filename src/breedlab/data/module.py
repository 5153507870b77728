"""The LightningDataModule: images to batches, the same for the same seed with any number of
workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from breedlab import distributed, hardware
from breedlab.config.sections import Data
from breedlab.data import shared_memory
from breedlab.data.augmentations import Built
from breedlab.data.batches import TrainingBatches, TrainingLoader, Views, sampling_chances
from breedlab.data.dataset import (
    ImageDataset,
    KeptImages,
    SplitsDataset,
    Target,
    collate,
    stacked,
    start_worker,
    target_of,
)
from breedlab.data.image_set import ImageSet
from breedlab.data.transforms import CropSizes, EvalTransform, TrainTransform
from breedlab.distributed import WHOLE, Shard
from breedlab.registry import AUGMENTATIONS

_VIEW_BATCH = 32


class ImageData(lightning.LightningDataModule):
    """Batches of a checked image set.

    Batches are (images, targets): uint8 (n, 3, side, side) and int64 (n,), or float (n, classes)
    with `data.multi_label`.

    Args:
        images: Their splits.
        data: How they are batched and augmented.
        evaluation: The transform of validation and test.
        seed: Of order and augmentation.
        frozen_views: For a frozen backbone, the number of views that epochs take in turn.
        caches: Images that need not be decoded again, by split.
        epochs: Of the whole training, over which crops grow (`data.start_size`).
    """

    def __init__(
        self,
        images: ImageSet,
        data: Data,
        evaluation: EvalTransform,
        seed: int,
        frozen_views: int | None,
        caches: Mapping[str, KeptImages] | None = None,
        epochs: int = 1,
    ) -> None:
        super().__init__()
        self.images, self.data, self.evaluation, self.seed = images, data, evaluation, seed
        self.caches = caches or {}
        self.views = Views(frozen_views, data.augment)
        crop = data.train_size or evaluation.crop
        self.crop_sizes = (
            None if data.start_size is None else CropSizes(min(data.start_size, crop), crop, epochs)
        )
        self.training = (
            None
            if data.augment == "none"
            else TrainTransform(
                replace(evaluation, crop=crop), Built(AUGMENTATIONS.chosen(data)), self.crop_sizes
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
        dataset = SplitsDataset({split: self.dataset(split) for split, _, _ in parts})
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
