"""Lightning callbacks of our own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint

from breedlab.config.sections import Monitor
from breedlab.console import console
from breedlab.errors import Diverged
from breedlab.training.loop import seed_epoch
from breedlab.training.objective import epoch_line, rank
from breedlab.training.optimization import set_rates


class SeededEpochs(lightning.Callback):
    """Make each epoch a function of the seed and its number, so that a resumed run equals an
    uninterrupted one."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        seed_epoch(self.seed, trainer.current_epoch, trainer.global_rank)


class ScheduledRates(lightning.Callback):
    """Start at the schedule's rate, which differs from the checkpoint's if the run was given more
    epochs."""

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        for scheduled in trainer.lr_scheduler_configs:
            set_rates(scheduled.scheduler)


class Patience(EarlyStopping):
    """Lightning's early stopping, which starts counting anew when a run is given more epochs.

    Args:
        monitor: `monitor`.
        patience: How many epochs without a better value end training.
        anew: Whether to forget those before.
    """

    def __init__(self, monitor: Monitor, patience: int, anew: bool) -> None:
        super().__init__(monitor.metric, patience=patience, mode=monitor.mode, check_finite=False)
        self._anew = anew

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self._anew:
            self.wait_count = self.stopped_epoch = 0

    def _generate_state_key(self, **kwargs: Any) -> str:
        return f"EarlyStopping{kwargs!r}"  # the key under which older runs saved it


class FiniteFigures(Checkpoint):
    """Refuse to continue from a NaN loss, before it is saved.

    A `Checkpoint` by name only: Lightning runs those when the epoch's metrics are known.
    """

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        wrong = {
            name: float(v)
            for name, v in trainer.callback_metrics.items()
            if not math.isfinite(float(v))
        }
        if wrong:
            text = ", ".join(f"{name}={value}" for name, value in wrong.items())
            raise Diverged(
                f"training diverged in epoch {trainer.current_epoch + 1} ({text}); try a lower"
                " optim.lr"
            )


class MovableCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that knows its best after its folder was moved or copied; Lightning's own
    forgets it then."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert self.dirpath is not None

        def here(path: str) -> str:
            return str(Path(self.dirpath or "", Path(path).name)) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved: dict[str, Any] = {
            name: here(state_dict[name]) for name in paths if name in state_dict
        }
        if "best_k_models" in state_dict:
            moved["best_k_models"] = {
                here(path): score for path, score in state_dict["best_k_models"].items()
            }
        super().load_state_dict({**state_dict, **moved, "dirpath": self.dirpath})

    def _generate_state_key(self, **kwargs: Any) -> str:
        return f"ModelCheckpoint{kwargs!r}"  # the key under which older runs saved it


class BestCheckpoint(MovableCheckpoint):
    """Keep the best epoch by `objective.rank`: of those that tie in the metric, the one with the
    lowest loss.

    Attributes:
        tied: How many other epochs reached the metric of the kept one.
        loss: Its validation loss.
    """

    def __init__(self, folder: Path, monitor: Monitor) -> None:
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor=monitor.metric,
            mode=monitor.mode,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.tied = 0
        self.loss: float | None = None

    def check_monitor_top_k(
        self, trainer: lightning.Trainer, current: torch.Tensor | None = None
    ) -> bool:
        assert current is not None
        best, loss = self.best_model_score, float(trainer.callback_metrics["valid/loss"])
        best_rank = None if best is None else rank(float(best), self.loss, self.mode)
        better = best_rank is None or rank(float(current), loss, self.mode) < best_rank
        better = trainer.strategy.reduce_boolean_decision(better)
        if best is not None and float(current) == float(best):
            self.tied += 1
        elif better:
            self.tied = 0
        if better:
            self.loss = loss
        return better

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "loss": self.loss, "tied": self.tied}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.loss, self.tied = state_dict.get("loss"), state_dict.get("tied", 0)


class EpochLines(Checkpoint):
    """Print one line per epoch with its metrics and the objective so far.

    A `Checkpoint` by name only: Lightning runs those last, so an epoch is reported when it has been
    saved.
    """

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        best_so_far = best_checkpoint(trainer)
        assert best_so_far.best_model_score is not None and best_so_far.monitor is not None
        assert trainer.max_epochs is not None
        best = float(best_so_far.best_model_score)
        line = "  " + epoch_line(
            trainer.current_epoch + 1, trainer.max_epochs, figures, best_so_far.monitor, best
        )
        if not trainer.is_global_zero:
            return
        bar = trainer.progress_bar_callback
        # the bar makes room for it
        print(line) if bar is None or not console.is_terminal else bar.print(line)


class StepBar(lightning.pytorch.callbacks.TQDMProgressBar):
    """Lightning's progress bar, removed at the end of an epoch, and shown only in a terminal."""

    def __init__(self) -> None:
        super().__init__(leave=False)

    def get_metrics(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        return {
            name: value
            for name, value in super().get_metrics(trainer, pl_module).items()
            if name != "v_num"
        }

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        super().setup(trainer, pl_module, stage)
        if not console.is_terminal:
            self.disable()


@runtime_checkable
class EndsTraining(Protocol):
    """A callback that may end the training, and then says why in `ended`."""

    ended: str


def stop_reason(trainer: lightning.Trainer) -> str:
    """Return as text why training ended; it must never end silently."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EndsTraining) and callback.ended:
            return callback.ended
        if isinstance(callback, EarlyStopping) and callback.stopped_epoch:
            return out_of_patience(callback.stopped_epoch, callback.monitor, callback.patience)
    return ran_all(int(trainer.max_epochs or 0))


def ran_all(epochs: int) -> str:
    """Return why training ended that went through all of its epochs."""
    return f"all {epochs} epochs" if epochs > 1 else "its one epoch"


def out_of_patience(epoch: int, monitor: str, patience: int) -> str:
    """Say that early stopping ended training after an epoch, counted from 0."""
    return f"stopped after epoch {epoch + 1}: no better {monitor} for {patience} epochs"


def best_checkpoint(trainer: lightning.Trainer) -> BestCheckpoint:
    """Return the callback that keeps the best epoch."""
    return next(c for c in trainer.callbacks if isinstance(c, BestCheckpoint))  # type: ignore[attr-defined]
