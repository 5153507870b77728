"""Trains one classifier to the end with Lightning's Trainer: checkpoints, early stopping,
TensorBoard, resume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from breedlab import distributed
from breedlab.config import Config
from breedlab.data.batches import TrainingBatches, TrainingLoader, sampling_chances
from breedlab.data.module import ImageData
from breedlab.errors import Unsuitable
from breedlab.files import atomic_write_json, read_json_if_whole
from breedlab.signals import StopRequest
from breedlab.training.activations import Activations
from breedlab.training.callbacks import (
    BestCheckpoint,
    EpochLines,
    FiniteFigures,
    MovableCheckpoint,
    Patience,
    ScheduledRates,
    SeededEpochs,
    StepBar,
    best_checkpoint,
    out_of_patience,
    ran_all,
    stop_reason,
)
from breedlab.training.checkpoints import read_checkpoint
from breedlab.training.ema import KeepAverage
from breedlab.training.learner import Learner
from breedlab.training.log_filters import quiet_lightning
from breedlab.training.loggers import make_loggers
from breedlab.training.mid_epoch import MidEpochCheckpoint
from breedlab.training.progress import REQUIRED
from breedlab.training.trainer import make_trainer, train


@dataclass(frozen=True)
class Fitted:
    """How training ended.

    Attributes:
        epochs: How many ran.
        reason: Why it ended.
        best_epoch: The one whose weights were kept, from 1.
        best: The monitored metric then.
        tied: How many other epochs reached it; the one kept has the lowest validation loss of them.
        loss: The validation loss then; None of a training that an older version ended.
    """

    epochs: int
    reason: str
    best_epoch: int
    best: float
    tied: int = 0
    loss: float | None = None


class ActivationDataset(Dataset[Any]):
    """Cached activations behind a DataLoader, one whole batch per read."""

    def __init__(self, activations: Activations) -> None:
        self.activations = activations

    def __len__(self) -> int:
        return len(self.activations.labels)

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        view, index = keys[0][0], torch.tensor([key[1] for key in keys])
        return self.activations.train[view][index].float(), self.activations.labels[index]


class ActivationData(lightning.LightningDataModule):
    """The batches that `ImageData` would give, as activations."""

    def __init__(self, activations: Activations, image_data: ImageData) -> None:
        super().__init__()
        self.activations, self.image_data = activations, image_data
        self.shard = distributed.WHOLE

    def train_dataloader(self) -> TrainingLoader:
        dataset = ActivationDataset(self.activations)
        data, views = self.image_data.data, self.image_data.views
        chances = sampling_chances(data.sampling, self.activations.labels)
        batches = TrainingBatches(
            len(dataset), data.batch_size, self.image_data.seed, views, self.shard, chances
        )
        return TrainingLoader(
            dataset, batch_sampler=batches, collate_fn=lambda batch: batch, generator=_aside()
        )

    def val_dataloader(self) -> DataLoader[Any]:
        # Whole batches already; DataLoader asks for a list, not for its elements to be stacked.
        return DataLoader(
            self.activations.valid_batches(shard=self.shard),  # type: ignore[arg-type]
            batch_size=None,
            generator=_aside(),
        )


def _aside() -> torch.Generator:
    """Return a separate generator: a DataLoader draws from its generator, and dropout's must not be
    disturbed."""
    return torch.Generator()


def fit(
    learner: Learner,
    data: ImageData | ActivationData,
    config: Config,
    run: Path,
    *,
    accelerator: str,
    precision: str,
    extended_after: int | None = None,
    callbacks: Sequence[lightning.Callback] = (),
) -> Fitted:
    """Train, or continue from `run/checkpoints/last.ckpt`, or return at once if training had
    ended.

    Args:
        learner: With the network.
        data: Its batches.
        config: The experiment.
        run: The run directory.
        accelerator, precision: In Lightning's terms and ours.
        extended_after: How many epochs there were when the run was given more: from there, early
            stopping counts anew.
        callbacks: What else watches the training: the debugger's hook, the profiler, a program's
            own.

    Raises:
        TrainingError: If the loss stops being a number.
        KeyboardInterrupt: On Ctrl-C, when the step is saved and Lightning has shut down.
        Stopped: Likewise, on SIGTERM.
    """
    marker = run / "trained.json"
    last = run / "checkpoints" / "last.ckpt"
    already_fitted = distributed.rank_zero_only(
        lambda: _ended_before(run, config) if marker.exists() else None
    )
    if already_fitted is not None:
        return already_fitted
    if distributed.world() > 1:
        _refuse_too_few(config, data)
        data.shard = distributed.shard()
    stop = StopRequest()
    every: list[lightning.Callback] = [
        SeededEpochs(config.seed),
        ScheduledRates(),
        FiniteFigures(),
        StepBar(),
        BestCheckpoint(run / "checkpoints", config.monitor),
        # Not ModelCheckpoint's own save_last, which writes only when the best does.
        _keep_last(run / "checkpoints"),
        EpochLines(),
        MidEpochCheckpoint(last, stop),
    ]
    if config.trainer.patience:
        anew = distributed.rank_zero_only(lambda: _ends_at(run, extended_after))
        every.append(Patience(config.monitor, config.trainer.patience, anew=anew))
    if config.trainer.ema:
        every.append(KeepAverage(config.trainer.ema))
    every.extend(callbacks)
    with quiet_lightning():
        trainer = make_trainer(
            config,
            run,
            every,
            accelerator=accelerator,
            precision=precision,
            max_epochs=config.trainer.max_epochs,
            logger=make_loggers(config, run),
            num_sanity_val_steps=0,
        )
        train(trainer, learner, data, last, stop)
    return distributed.rank_zero_only(lambda: _ended(trainer, run))


def refit(
    learner: Learner,
    data: ImageData | ActivationData,
    config: Config,
    folder: Path,
    epochs: int,
    *,
    accelerator: str,
    precision: str,
) -> None:
    """Train for a number of epochs without validation, or continue from `folder/last.ckpt` if it
    exists; in the end, that file has the weights.

    Args:
        learner, data, accelerator, precision: As for `fit`.
        config: The experiment; its schedule is that of `trainer.max_epochs`, as when those epochs
            were found.
        folder: Where checkpoints are.
        epochs: How many of `trainer.max_epochs`.
    """
    if distributed.world() > 1:
        data.shard = distributed.shard()
    last = folder / "last.ckpt"
    stop = StopRequest()
    every: list[lightning.Callback] = [
        SeededEpochs(config.seed),
        ScheduledRates(),
        FiniteFigures(),
        StepBar(),
        _keep_last(folder),
        MidEpochCheckpoint(last, stop),
    ]
    if config.trainer.ema:
        every.append(KeepAverage(config.trainer.ema))
    with quiet_lightning():
        trainer = make_trainer(
            config,
            folder,
            every,
            accelerator=accelerator,
            precision=precision,
            max_epochs=epochs,
            logger=False,
            limit_val_batches=0,
        )
        train(trainer, learner, data, last, stop)


def _refuse_too_few(config: Config, data: ImageData | ActivationData) -> None:
    """Raise ConfigError if a whole batch, or the validation split, has fewer images than there are
    processes: each needs one."""
    images = (data.image_data if isinstance(data, ActivationData) else data).images
    for path, count in (
        ("data.batch_size", config.data.batch_size),
        ("valid split", len(images.splits["valid"])),
    ):
        if count < distributed.world():
            raise Unsuitable(
                f"{path}: {count} images cannot be divided among {distributed.world()} processes;"
                " start fewer"
            )


def _ended(trainer: lightning.Trainer, run: Path) -> Fitted:
    checkpoint = best_checkpoint(trainer)
    weights = read_checkpoint(run / "checkpoints" / "best.ckpt")
    assert checkpoint.best_model_score is not None
    best = float(checkpoint.best_model_score)
    fitted = Fitted(
        trainer.current_epoch,
        stop_reason(trainer),
        weights["epoch"] + 1,
        best,
        checkpoint.tied,
        checkpoint.loss,
    )
    atomic_write_json(run / "trained.json", asdict(fitted))
    return fitted


def _ended_before(run: Path, config: Config) -> Fitted:
    """Return how a finished training ended: from `trained.json`, or if that is damaged, from the
    checkpoints, and write it anew."""
    recorded = read_json_if_whole(run / "trained.json", needs=REQUIRED)
    if recorded is not None:
        return Fitted(**recorded)
    last = read_checkpoint(run / "checkpoints" / "last.ckpt", mmap=True)
    checkpoint = read_checkpoint(run / "checkpoints" / "best.ckpt", mmap=True)
    monitor = config.monitor.metric
    states = [state for state in last["callbacks"].values() if isinstance(state, dict)]
    best = next(
        s["best_model_score"]
        for s in states
        if s.get("monitor") == monitor and "best_model_score" in s
    )
    epochs = last["epoch"] + 1
    early = [s for s in states if s.get("stopped_epoch")]
    if early:
        reason = out_of_patience(early[0]["stopped_epoch"], monitor, early[0]["patience"])
    else:  # a rule of the debugger's leaves no state
        reason = (
            ran_all(epochs)
            if epochs >= config.trainer.max_epochs
            else f"stopped after epoch {epochs}"
        )
    tied = max((state.get("tied", 0) for state in states), default=0)
    loss = next((state["loss"] for state in states if state.get("loss") is not None), None)
    fitted = Fitted(epochs, reason, checkpoint["epoch"] + 1, float(best), tied, loss)
    atomic_write_json(run / "trained.json", asdict(fitted))
    return fitted


def _ends_at(run: Path, epochs: int | None) -> bool:
    """Return whether the run's last checkpoint is from that many epochs."""
    last = run / "checkpoints" / "last.ckpt"
    return (
        epochs is not None
        and last.exists()
        and read_checkpoint(last, mmap=True)["epoch"] + 1 == epochs
    )


def _keep_last(folder: Path) -> ModelCheckpoint:
    """Write `last.ckpt` after whole epochs only: a resumed run begins with the next."""
    return MovableCheckpoint(
        dirpath=folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
    )
