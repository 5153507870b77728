"""A checkpoint in the middle of an epoch: written when the run is asked to stop, from which the
next start continues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint

from breedlab import distributed
from breedlab.signals import StopRequest
from breedlab.training.ema import KeepAverage
from breedlab.training.loop import seed_epoch


class MidEpochCheckpoint(Checkpoint):
    """Save `last.ckpt` after the step in which a signal stopped the run, and end the run.

    It adds what Lightning's checkpoint lacks in the middle of an epoch: the generators that dropout
    and mixup draw from. The loader's position and the sums of the epoch's metrics add themselves. A
    `Checkpoint` by name only: Lightning calls those last, when the moving average includes the
    step's weights.
    """

    def __init__(self, path: Path, stop: StopRequest) -> None:
        self.path, self._stop = path, stop
        self._generators: list[dict[str, torch.Tensor]] | None = None
        self._asked: distributed.AsyncFlag | None = None
        self._ending = False

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        # an epoch that starts from its beginning seeds them itself
        if self._generators is not None:
            if len(self._generators) == distributed.world():
                _set_generators(self._generators[distributed.rank()], pl_module.device)
            else:
                # Continued by more processes, or fewer: each draws different numbers anyway.
                seed_epoch(trainer.global_step, trainer.current_epoch, distributed.rank())
            self._generators = None
        self._stop.defer()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        # After an epoch's last step, validation saves it, so that only validation is left to do.
        if self._is_told() and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save(trainer)

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        if self._is_told():
            self._save(trainer)

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # Processes may have different numbers of batches, and so no step at which they could agree.
        if self._stop.is_pending() and distributed.world() == 1:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                # it had swapped in the averaged weights for the validation
                if isinstance(callback, KeepAverage):
                    callback.on_validation_epoch_end(trainer, pl_module)
            self._save(trainer)

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        if trainer.validating:
            # Validation starts again: Lightning sees one whose first batch was interrupted.
            interrupted = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            none = dict.fromkeys(interrupted, 0)
            progress = {"total": interrupted, "current": none, "is_last_batch": False}
            checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"].update(progress)
        checkpoint["generators"] = distributed.gather(_generators(pl_module.device))

    def on_load_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        self._generators = checkpoint["generators"]

    def _is_told(self) -> bool:
        """Return whether to stop here: each process gets its own signal, and all have to stop at
        the same step."""
        if distributed.world() == 1:
            return self._stop.is_pending()
        # The answer to the question of one step ago, which has arrived meanwhile.
        self._ending = self._ending or (self._asked is not None and bool(self._asked.result()))
        self._asked = distributed.AsyncFlag(self._stop.is_pending())
        return self._ending

    def _save(self, trainer: lightning.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._stop.heed()


def _generators(device: torch.device) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_generators(states: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
