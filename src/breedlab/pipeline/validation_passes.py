"""What weights reach on the validation images, for averages that no training has validated."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from breedlab.config import Config
from breedlab.console import progress
from breedlab.training.context import TrainingContext
from breedlab.training.loop import validated
from breedlab.training.precision import autocast
from breedlab.training.tasks import task_of


class ValidationPasses:
    """Passes over the live validation images, with one network and one set of workers.

    Args:
        context: Of the run.
        config: Of the training that the weights come from.
        precision: Of that training.
    """

    def __init__(self, context: TrainingContext, config: Config, precision: str) -> None:
        self._device, self._precision, self._config = context.device, precision, config
        self._network = context.classifier(config).to(context.device)
        self._metrics = task_of(config.data).metrics(
            len(context.classes),
            only=config.monitor.metric.removeprefix("valid/"),
            monitor=config.monitor,
        )
        self._metrics.to(context.device)
        self._batches = context.live_data(config).val_dataloader()

    def of(self, state: Mapping[str, torch.Tensor], title: str) -> tuple[float, float] | None:
        """Return the monitored metric and the validation loss; None if one is not finite.

        Args:
            state: The classifier's weights.
            title: What they are, for the progress bar.
        """
        device = self._device
        self._network.load_state_dict(state)
        with progress(title):
            there = ((images.to(device), targets.to(device)) for images, targets in self._batches)
            values = validated(
                self._network, there, self._metrics, autocast(device, self._precision)
            )
        if not all(map(math.isfinite, values.values())):
            return None
        return values[self._config.monitor.metric], values["valid/loss"]
