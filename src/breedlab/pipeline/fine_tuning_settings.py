"""What a fine-tuning trains by: the experiment's settings, but for those of `fine_tune`."""

from __future__ import annotations

from typing import Any

from breedlab import config as configs
from breedlab.config import Config
from breedlab.registry import HEADS
from breedlab.training.context import TrainingContext

_CROP_SHARE = 0.8
"""The side of the training crop relative to validation's images."""
_START_SHARE = 0.5
"""The side of the first epoch's crops relative to the last one's."""
_SMALLEST_START = 96
"""Pixels, of the first epoch's crops."""
_SMALLEST_SHRUNK = 128
"""Pixels; smaller images have no detail to spare."""


def settings(context: TrainingContext, config: Config, freeze: str) -> Config:
    """Return what a config trains its backbone by, once its head is there.

    Args:
        context: Of the config's backbone and image size.
        config: Of the head's training.
        freeze: What stays frozen: `none`, or everything through a named stage.
    """
    values: dict[str, Any] = {
        "model.freeze": freeze,
        # so that training begins with the network as the head saw it
        "model.batch_norm": "frozen",
        "cache.views": 1 if freeze == "none" else 0,  # each epoch has other crops
        "cache.mode": "off",
        "data.augment": config.fine_tune.augment,
        "data.cutmix": config.fine_tune.cutmix,
        "data.train_size": _train_size(context, config),
        "data.start_size": _start_size(context, config),
        "data.batch_size": config.fine_tune.batch_size,
        "optim.name": "adamw",
        "optim.lr": config.fine_tune.lr,
        "optim.weight_decay": 0.01,
        "optim.layer_decay": config.fine_tune.layer_decay,
        "optim.param_groups": "layers",
        "optim.schedule": "cosine",
        "optim.warmup_epochs": 0.5,  # the optimizer's averages begin at zero
        "trainer.max_epochs": config.fine_tune.epochs,
        "trainer.probe_epochs": 0,
        "trainer.ema": config.fine_tune.ema,
        "trainer.patience": None,
        "trainer.gradient_clip": 1.0,
        # recording and profiling are only for the training that was asked for
        "debugger.level": "none",
        "profiler.level": "none",
        "logger.name": "tensorboard" if config.logger.name == "tensorboard" else "none",
        "tuner.strategy": "none",
        "tuner.folds": 1,
        "fine_tune.epochs": 0,
    }
    if HEADS.get(config.model.head_type).solved:
        values["model.head_type"] = "linear"  # the same layer, trained in steps
    return configs.replace(config, values)


def _train_size(context: TrainingContext, config: Config) -> int | None:
    """Return the side of the crops; None for the side of validation's images."""
    configured = config.fine_tune.train_size
    if config.fine_tune.augment == "none":  # which cuts no crops
        return None
    if configured != "auto":
        return configured
    side = context.evaluation.crop
    smaller = 32 * round(side * _CROP_SHARE / 32)
    if side < _SMALLEST_SHRUNK or not context.takes(smaller):
        return None
    return smaller


def _start_size(context: TrainingContext, config: Config) -> int | None:
    """Return the side of the first epoch's crops; None for that of all epochs."""
    configured = config.fine_tune.start_size
    if configured is None or config.fine_tune.augment == "none":
        return None
    largest = _train_size(context, config) or context.evaluation.crop
    if configured != "auto":
        return min(configured, largest)
    side = max(_SMALLEST_START, 32 * round(largest * _START_SHARE / 32))
    return side if side < largest and context.takes(side) else None
