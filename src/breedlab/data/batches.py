"""Which images are in which batch, and in which view: the same for the same seed, and after a stop
in mid-epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from breedlab.distributed import WHOLE, Shard

Key = tuple[int, int]
"""(view, index): view 0 is the evaluation transform, each other number its own draw of the
augmentation."""


def epoch_order(
    count: int, seed: int, epoch: int, chances: torch.Tensor | None = None
) -> torch.Tensor:
    """Return which of `count` items an epoch takes, in order: a function of seed and epoch, so a
    resumed run repeats it.

    Args:
        count: How many there are, and are taken.
        seed: The run's.
        epoch: Counted from 0.
        chances: Of each item to be drawn, (count,); None takes each once.
    """
    generator = torch.Generator().manual_seed(mixed_seed(seed, epoch))
    if chances is None:
        return torch.randperm(count, generator=generator)
    return torch.multinomial(chances, count, replacement=True, generator=generator)


def sampling_chances(sampling: str, labels: torch.Tensor) -> torch.Tensor | None:
    """Return the chance of each image to be drawn under `data.sampling`, (n,); None where each is
    taken once."""
    if sampling == "shuffled":
        return None
    return (1.0 / torch.bincount(labels).clamp(min=1))[labels]


def batch_indices(order: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """Return an epoch's batches. A last batch of one is left out: BatchNorm cannot train on a
    single image."""
    batches = list(torch.split(order, batch_size))
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 < batch_size else batches


class Views:
    """Which view of the images an epoch sees.

    Args:
        frozen_views: For a frozen backbone, how many views there are; they are taken in turn. None
            for a backbone that trains: fresh augmentation every epoch.
        augment: The config's policy.
    """

    def __init__(self, frozen_views: int | None, augment: str) -> None:
        self.frozen_views = frozen_views
        self.augment = augment

    def of_epoch(self, epoch: int) -> int:
        if self.frozen_views is not None:
            return epoch % self.frozen_views
        return 0 if self.augment == "none" else epoch + 1


def mixed_seed(*numbers: int) -> int:
    """Return a seed from several, within what torch takes."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number) % 2**63
    return seed


class TrainingBatches(Sampler[list[Key]]):
    """Shuffled batches of (view, index), one epoch after another. Lightning calls `set_epoch`.

    Attributes:
        chances: As for `epoch_order`.
        shard: The part of each batch that is this process's. What a batch is does not depend on it.
        epoch: The one that is next iterated over.
        start: How many of its batches are left out, since a stopped run had done them; of this one
            epoch only.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        views: Views,
        shard: Shard = WHOLE,
        chances: torch.Tensor | None = None,
    ) -> None:
        self.chances = chances
        self.count, self.batch_size, self.seed, self.views, self.shard = (
            count,
            batch_size,
            seed,
            views,
            shard,
        )
        self.epoch = self.start = 0
        # Lightning looks for set_epoch on the batch sampler's sampler.
        self.sampler = self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(batch_indices(torch.arange(self.count), self.batch_size))

    def __iter__(self) -> Iterator[list[Key]]:
        view = self.views.of_epoch(self.epoch)
        start, self.start = self.start, 0
        order = epoch_order(self.count, self.seed, self.epoch, self.chances)
        for batch in batch_indices(order, self.batch_size)[start:]:
            # A process with no image of a small last batch computes one that counts for nothing:
            # all take the step.
            mine = (
                batch[self.shard.rank :: self.shard.world]
                if len(batch) > self.shard.rank
                else batch[:1]
            )
            yield [(view, index) for index in mine.tolist()]

    def sizes(self, index: int) -> tuple[int, int]:
        """Return how many images of a batch belong to this process, and how many the batch has."""
        whole = min(self.batch_size, self.count - index * self.batch_size)
        return len(range(self.shard.rank, whole, self.shard.world)), whole


class TrainingLoader(DataLoader[Any]):
    """A DataLoader over `TrainingBatches` that continues in the middle of an epoch without loading
    what came before.

    Lightning keeps `state_dict` in its checkpoints.
    """

    position = 0
    """Batches of the epoch that were handed out."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator: workers begin at the first batch, by which time Lightning has set the epoch.
        self.position = self.batches.start
        for batch in super().__iter__():
            self.position += 1
            yield batch

    @property
    def batches(self) -> TrainingBatches:
        assert isinstance(self.batch_sampler, TrainingBatches)
        return self.batch_sampler

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.batches.epoch, "done": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        whole = state["done"] >= len(self)
        self.batches.epoch, self.batches.start = (
            (state["epoch"] + 1, 0) if whole else (state["epoch"], state["done"])
        )
