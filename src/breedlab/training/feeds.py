"""Where the lean loop's batches come from: the images themselves or their cached activations."""

from __future__ import annotations

from typing import Any

from breedlab.config import Config
from breedlab.data.batches import TrainingBatches, sampling_chances
from breedlab.data.module import ImageData
from breedlab.training import loop
from breedlab.training.activations import Activations


class LiveFeed:
    """Images, decoded and augmented as they are needed."""

    def __init__(self, data: ImageData) -> None:
        self._train, self._valid = data.train_dataloader(), data.val_dataloader()

    def train(self, epoch: int) -> loop.Batches:
        assert isinstance(self._train.batch_sampler, TrainingBatches)
        self._train.batch_sampler.set_epoch(epoch)
        return self._train

    def valid(self) -> loop.Batches:
        return self._valid


class CachedFeed:
    """Cached activations, read one batch at a time."""

    def __init__(self, activations: Activations, config: Config) -> None:
        self._activations, self._config = activations, config

    def train(self, epoch: int) -> Any:
        data = self._config.data
        chances = sampling_chances(data.sampling, self._activations.labels)
        return self._activations.batches(epoch, data.batch_size, self._config.seed, chances)

    def valid(self) -> Any:
        return self._activations.valid_batches()
