"""Train the backbone, too, starting from the head that was trained on its frozen features
(`fine_tune`).

Linear probing, then fine-tuning (Kumar et al. 2022, arXiv 2202.10054): with a head that fits, the
gradients do not wreck the backbone as those of a random head would. It trains on smaller crops than
it is tested on, in which objects appear about as large (Touvron et al. 2019, arXiv 1906.06423). The
weights are then averaged with those that it started from (`weight_averaging.py`), and the result is
kept only if it does better on validation, so that asking for it never makes a run worse there.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from breedlab import config as configs
from breedlab import distributed
from breedlab.config import Config
from breedlab.console import note, progress, warn
from breedlab.errors import TrainingError
from breedlab.files import atomic_write_json, read_json_if_whole
from breedlab.models.boundary import layers
from breedlab.pipeline import weight_averaging
from breedlab.pipeline.step_timing import epoch_time
from breedlab.registry import HEADS
from breedlab.training import memory
from breedlab.training.checkpoints import of_classifier, read_checkpoint
from breedlab.training.context import TrainingContext
from breedlab.training.fit import Fitted, fit

FOLDER = "fine_tune"
"""Of the run directory: checkpoints, curves, and what was planned."""
_PLAN = "plan.json"
_ENOUGH = 0.6
"""The share of the epochs asked for that makes all layers worth more than the last ones."""
_SHARE_OF_TRAINING = 0.9
"""The share of the time left for training and the refit; the rest is for the test and export."""
_FEWEST = 2
"""Epochs. Half of the first warms up: after it alone, the network is worse than with its head."""
_FROZEN_SHARE = 2 / 3
"""The share of the layers to freeze if there is no time to train all."""
_CROP_SHARE = 0.8
"""The side of the training crop relative to validation's images."""
_START_SHARE = 0.5
"""The side of the first epoch's crops relative to the last one's."""
_SMALLEST_START = 96
"""Pixels, of the first epoch's crops."""
_SMALLEST_BATCH = 4
"""Images; with fewer, gradients say too little."""
_SMALLEST_SHRUNK = 128
"""Pixels; smaller images have no detail to spare."""


@dataclass(frozen=True)
class FineTuned:
    """The outcome of fine-tuning.

    Attributes:
        metrics: What metrics.json says of it.
        config: What the whole network was trained by; None where the frozen one is kept.
        fitted: How its training ended; None likewise.
        precision: What it computed in.
        head: What it started from.
        epoch_seconds: How long an epoch took; None if it resumed.
        alpha: The share of the fine-tuned weights in the network that is kept; the rest is of the
            frozen one's.
    """

    metrics: dict[str, Any]
    config: Config | None = None
    fitted: Fitted | None = None
    precision: str = ""
    head: Mapping[str, torch.Tensor] | None = None
    epoch_seconds: float | None = None
    alpha: float = 1.0


@dataclass(frozen=True)
class _Plan:
    epochs: int
    precision: str
    freeze: str = "none"
    batch_size: int | None = None  # None is the config's


def fine_tune(
    context: TrainingContext, config: Config, run: Path, before: Fitted, seconds: float | None
) -> FineTuned:
    """Train from `checkpoints/best.ckpt`, or resume where that stopped.

    Args:
        context: Of the run.
        config: Of the head's training.
        run: The run directory.
        before: How the head's training ended.
        seconds: What there is for it; None for as long as it takes.
    """
    folder = run / FOLDER
    plan = distributed.rank_zero_only(lambda: _planned(context, config, folder, before, seconds))
    if plan.epochs == 0:
        return FineTuned({"epochs": 0, "kept": False})
    tuned_config = configs.replace(
        settings(context, config, plan.freeze),
        {
            "trainer.max_epochs": plan.epochs,
            "data.batch_size": plan.batch_size or config.fine_tune.batch_size,
        },
    )
    classifier = context.classifier(tuned_config, synced=distributed.world() > 1)
    head = distributed.rank_zero_only(
        lambda: of_classifier(
            read_checkpoint(run / "checkpoints" / "best.ckpt")["state_dict"], "head."
        )
    )
    classifier.head.load_state_dict(head)
    learner, _ = context.learner(classifier, tuned_config, plan.epochs)
    with distributed.rank_zero_first():
        data = context.live_data(tuned_config)
    resumes = (folder / "checkpoints" / "last.ckpt").exists()
    started = time.monotonic()
    try:
        fitted = fit(
            learner,
            data,
            tuned_config,
            folder,
            accelerator=context.accelerator,
            precision=plan.precision,
        )
    except TrainingError as error:  # the head exists, and is worth its test and export
        warn(f"{error}: fine_tune.lr here; the frozen backbone stays")
        none = _Plan(0, plan.precision, plan.freeze)
        distributed.rank_zero_only(lambda: _record(folder, none, before))
        return FineTuned({"epochs": 0, "kept": False, "failed": str(error)})
    epoch_seconds = None if resumes else (time.monotonic() - started) / fitted.epochs
    mixes = distributed.rank_zero_only(
        lambda: weight_averaging.compare(
            context, tuned_config, folder / "checkpoints", head, before, fitted, plan.precision
        )
    )
    best = weight_averaging.best_of(mixes, config.monitor.mode)
    note(weight_averaging.describe(mixes, best, config.monitor.metric))
    record = {
        "epochs": fitted.epochs,
        "best_epoch": fitted.best_epoch,
        "best": fitted.best,
        "before": before.best,
        "precision": plan.precision,
        "freeze": plan.freeze,
        "kept": best.alpha > 0,
    }
    if config.fine_tune.wise_ft:
        record["wise_ft"] = {**asdict(best), "tried": [asdict(mix) for mix in mixes]}
    if not best.alpha:
        return FineTuned(record)
    fitted = replace(fitted, best=best.best, loss=best.loss)
    return FineTuned(record, tuned_config, fitted, plan.precision, head, epoch_seconds, best.alpha)


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
    if configured is None:
        return None
    largest = _train_size(context, config) or context.evaluation.crop
    if configured != "auto":
        return min(configured, largest)
    side = max(_SMALLEST_START, 32 * round(largest * _START_SHARE / 32))
    return side if side < largest and context.takes(side) else None


def _last_frozen(context: TrainingContext) -> str | None:
    """Return the stage through which most layers are frozen; None for a network of a few."""
    names = layers(context.backbone.network)
    count = int(len(names) * _FROZEN_SHARE)
    return names[count - 1] if count else None


def _planned(
    context: TrainingContext, config: Config, folder: Path, before: Fitted, seconds: float | None
) -> _Plan:
    """Return how to train, as it was planned when the head was the same."""
    earlier = read_json_if_whole(folder / _PLAN, needs=("epochs", "precision", "head"))
    if earlier is not None and earlier["head"] == _head(before):
        return _Plan(
            int(earlier["epochs"]),
            earlier["precision"],
            earlier.get("freeze", "none"),
            earlier.get("batch_size"),
        )
    shutil.rmtree(folder, ignore_errors=True)
    plan = _fastest(context, config, seconds)
    _record(folder, plan, before)
    return plan


def _record(folder: Path, plan: _Plan, before: Fitted) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_json(folder / _PLAN, {**asdict(plan), "head": _head(before)})


def _head(before: Fitted) -> list[float]:
    """Return what distinguishes one head's training from another of the same run."""
    return [before.epochs, before.best_epoch, before.best]


def _fastest(context: TrainingContext, config: Config, seconds: float | None) -> _Plan:
    """Return what to train, for how long, in the precision that is faster here.

    Args:
        context: Of the run.
        config: Of the head's training.
        seconds: What there is for it; None for as long as it takes.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    configured = config.fine_tune.freeze
    all_layers = "none" if configured == "auto" else configured
    precisions = [context.precision]
    if context.accelerator == "cpu" and config.trainer.precision == "auto":
        # convolutions of single channels, as EfficientNets have, may be slower in bf16
        precisions = [*dict.fromkeys([*precisions, "fp32"])]
    fitting = _batch_that_fits(context, settings(context, config, all_layers), precisions[-1])
    if fitting < _SMALLEST_BATCH:
        return _Plan(0, context.precision, all_layers)
    batch_size = None
    if fitting < config.fine_tune.batch_size:
        batch_size = fitting
        config = configs.replace(config, {"fine_tune.batch_size": batch_size})
    if seconds is None and len(precisions) == 1:
        return _Plan(config.fine_tune.epochs, context.precision, all_layers, batch_size)
    plan = _that_fits(context, config, all_layers, precisions, deadline)
    stage = _last_frozen(context)
    if configured == "auto" and stage and plan.epochs < _ENOUGH * config.fine_tune.epochs:
        plan = _that_fits(context, config, stage, [plan.precision], deadline)
    if plan.epochs == 0:
        note("too few epochs fit: the backbone stays frozen; raise tuner.minutes to fine-tune it")
    return replace(plan, batch_size=batch_size)


def _batch_that_fits(context: TrainingContext, config: Config, precision: str) -> int:
    """Return how many images of a batch memory has room for."""
    size = config.data.batch_size
    fitting, needed, free = memory.images_that_fit(context, config, size, precision)
    if fitting < size:
        instead = (
            f"fine_tune.batch_size={fitting} instead of {size}"
            if fitting >= _SMALLEST_BATCH
            else "the backbone stays frozen"
        )
        note(
            f"{instead}: a step of {size} images takes at least {needed / 1e9:.1f} GB of memory,"
            f" and {free / 1e9:.1f} GB are free"
        )
    return fitting


def _that_fits(
    context: TrainingContext,
    config: Config,
    freeze: str,
    precisions: Sequence[str],
    deadline: float | None,
) -> _Plan:
    """Return as many epochs as there is time for until a moment of the monotonic clock."""
    tuned_config = settings(context, config, freeze)
    what = "all layers" if freeze == "none" else f"the layers after {freeze}"
    with progress(f"timing a step of {what}"):
        times = {each: epoch_time(context, tuned_config, each) for each in precisions}
    precision = min(times, key=lambda each: times[each].seconds)
    seconds = math.inf if deadline is None else max(0.0, deadline - time.monotonic())
    rest = "" if deadline is None else f", and {seconds:,.0f} s are left"
    epoch = times[precision]
    note(f"an epoch of {what} takes about {epoch.seconds:,.0f} s in {precision}{rest}")
    averaging = epoch.validation * len(weight_averaging.between(config))
    configured = tuned_config.trainer.max_epochs
    room = (_SHARE_OF_TRAINING * seconds - averaging) / epoch.seconds
    epochs = math.floor(min(configured, room))
    return _Plan(epochs if epochs >= min(_FEWEST, configured) else 0, precision, freeze)
