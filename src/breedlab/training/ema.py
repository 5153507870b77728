"""The moving average of the weights that train, in trials and in the final training alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import torch

from breedlab.models.classifier import Classifier
from breedlab.training.checkpoints import of_classifier


def decay_at(step: int, decay: float) -> float:
    """Return the decay of an update, ramped up as timm's ModelEmaV3 does with `use_warmup`.

    A fixed 0.999 takes thousands of steps to leave the random head that it starts from.

    Args:
        step: Counted from 1.
        decay: The final decay.
    """
    since = step - 1
    return min(decay, 1 - (1 + since) ** (-2 / 3)) if since > 0 else 0.0


class MovingAverage:
    """The moving average of what trains in a classifier: parameters, and buffers such as
    BatchNorm's. Nothing that is frozen.

    Attributes:
        steps: Updates so far.
    """

    def __init__(self, classifier: Classifier, decay: float) -> None:
        frozen = {id(tensor) for tensor in classifier.frozen_tensors().values()}
        tensors = classifier.state_dict(keep_vars=True)
        self.decay, self.steps = decay, 0
        self._current = {
            name: tensor.detach() for name, tensor in tensors.items() if id(tensor) not in frozen
        }
        self._average = {name: tensor.clone() for name, tensor in self._current.items()}
        self._floating = [
            name for name, tensor in self._current.items() if tensor.is_floating_point()
        ]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now, after a step."""
        self.steps += 1
        average = [self._average[name] for name in self._floating]
        current = [self._current[name] for name in self._floating]
        torch._foreach_lerp_(average, current, 1 - decay_at(self.steps, self.decay))
        for name in self._current.keys() - set(self._floating):  # BatchNorm counts its batches
            self._average[name].copy_(self._current[name])

    @torch.no_grad()
    def swap(self) -> None:
        """Put the average in the place of the current weights, or these back."""
        for name, current in self._current.items():
            copy = current.clone()
            current.copy_(self._average[name])
            self._average[name].copy_(copy)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the classifier the averaged weights for as long as this lasts."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def averaged(self) -> dict[str, torch.Tensor]:
        """Return the averages by the names of the classifier's state dict."""
        return self._average

    def current(self) -> dict[str, torch.Tensor]:
        """Return the weights that were averaged, as they are now, by the same names."""
        return self._current

    @torch.no_grad()
    def load(
        self, averaged: dict[str, torch.Tensor], current: dict[str, torch.Tensor], steps: int
    ) -> None:
        """Continue from saved averages and weights; names that do not train are ignored."""
        self.steps = steps
        for name in self._current:
            self._average[name].copy_(averaged[name])
            self._current[name].copy_(current[name])


class KeepAverage(lightning.Callback):
    """Validate and save the averaged weights while the current ones train.

    A checkpoint has the average as its `state_dict`, the training weights in `current_model_state`
    and the number of updates in `averaging_state`: the format of Lightning's WeightAveraging, with
    which older runs were saved. That class copies the whole module before it is on its device, and
    averages every frozen weight, too.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: MovingAverage | None = None
        self._saved: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], int] | None = None

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        # now that the weights are on their device
        self.average = MovingAverage(pl_module.classifier, self.decay)
        if self._saved is not None:
            self.average.load(*self._saved)
            self._saved = None

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._kept.update()

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._kept.swap()

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._kept.swap()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._kept.swap()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        weights = self._kept
        averaged = {f"classifier.{name}": tensor for name, tensor in weights.averaged().items()}
        checkpoint["current_model_state"] = {
            f"classifier.{name}": tensor for name, tensor in weights.current().items()
        }
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **averaged}
        checkpoint["averaging_state"] = {"n_averaged": torch.tensor(weights.steps)}

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        averaged, current = (
            checkpoint["state_dict"],
            checkpoint.get("current_model_state", checkpoint["state_dict"]),
        )
        steps = int(checkpoint.get("averaging_state", {}).get("n_averaged", 0))
        self._saved = (of_classifier(averaged), of_classifier(current), steps)

    @property
    def _kept(self) -> MovingAverage:
        assert self.average is not None, "training has not started"
        return self.average
