"""How a fine-tuning trains in the time and memory that there are: layers, epochs, precision, batch
size, and how many times for a soup."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from breedlab import config as configs
from breedlab.config import Config
from breedlab.console import note, progress
from breedlab.files import atomic_write_json, read_json_if_whole
from breedlab.models.boundary import layers
from breedlab.names import counted
from breedlab.pipeline import weight_averaging
from breedlab.pipeline.fine_tuning_settings import settings
from breedlab.pipeline.step_timing import epoch_time
from breedlab.training import memory
from breedlab.training.context import TrainingContext
from breedlab.training.fit import Fitted

_PLAN = "plan.json"
_ENOUGH = 0.6
"""The share of the epochs asked for that makes all layers worth more than the last ones."""
_SHARE_OF_TRAINING = 0.9
"""The share of the time left for training and the refit; the rest is for the test and export."""
_FEWEST = 2
"""Epochs. Half of the first warms up: after it alone, the network is worse than with its head."""
_FROZEN_SHARE = 2 / 3
"""The share of the layers to freeze if there is no time to train all."""
_SMALLEST_BATCH = 4
"""Images; with fewer, gradients say too little."""


@dataclass(frozen=True)
class Plan:
    """How to fine-tune.

    Attributes:
        epochs: Of each training; 0 for none.
        precision: What it computes in.
        freeze: What stays frozen, as in `model.freeze`.
        batch_size: Images; None for the config's.
        count: The number of trainings, for a soup.
    """

    epochs: int
    precision: str
    freeze: str = "none"
    batch_size: int | None = None
    count: int = 1


def _last_frozen(context: TrainingContext) -> str | None:
    """Return the stage through which most layers are frozen; None for a network of a few."""
    names = layers(context.backbone.network)
    count = int(len(names) * _FROZEN_SHARE)
    return names[count - 1] if count else None


def planned(
    context: TrainingContext, config: Config, folder: Path, before: Fitted, seconds: float | None
) -> Plan:
    """Return how to train, as it was planned when the head was the same."""
    earlier = read_json_if_whole(folder / _PLAN, needs=("epochs", "precision", "head"))
    if earlier is not None and earlier["head"] == _head(before):
        return Plan(
            int(earlier["epochs"]),
            earlier["precision"],
            earlier.get("freeze", "none"),
            earlier.get("batch_size"),
            int(earlier.get("count", 1)),
        )
    shutil.rmtree(folder, ignore_errors=True)
    plan = _fastest(context, config, seconds)
    record(folder, plan, before)
    return plan


def record(folder: Path, plan: Plan, before: Fitted) -> None:
    """Write a plan down, for a resumed run."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_json(folder / _PLAN, {**asdict(plan), "head": _head(before)})


def _head(before: Fitted) -> list[float]:
    """Return what distinguishes one head's training from another of the same run."""
    return [before.epochs, before.best_epoch, before.best]


def _fastest(context: TrainingContext, config: Config, seconds: float | None) -> Plan:
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
        return Plan(0, context.precision, all_layers)
    batch_size = None
    if fitting < config.fine_tune.batch_size:
        batch_size = fitting
        config = configs.replace(config, {"fine_tune.batch_size": batch_size})
    if seconds is None and len(precisions) == 1:
        count = config.fine_tune.soup
        return Plan(config.fine_tune.epochs, context.precision, all_layers, batch_size, count)
    plan, needed = _that_fits(context, config, all_layers, precisions, deadline)
    stage = _last_frozen(context)
    if configured == "auto" and stage and plan.epochs < _ENOUGH * config.fine_tune.epochs:
        plan, needed = _that_fits(context, config, stage, [plan.precision], deadline)
    if plan.epochs == 0:
        note(_too_little_time(config, needed))
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
) -> tuple[Plan, float]:
    """Return as many epochs as there is time for until a moment of the monotonic clock, and how
    many seconds the fewest take that are worth it."""
    tuned_config = settings(context, config, freeze)
    what = "all layers" if freeze == "none" else f"the layers after {freeze}"
    with progress(f"timing a step of {what}"):
        times = {each: epoch_time(context, tuned_config, each) for each in precisions}
    precision = min(times, key=lambda each: times[each].seconds)
    seconds = math.inf if deadline is None else max(0.0, deadline - time.monotonic())
    rest = "" if deadline is None else f", and {seconds:,.0f} s are left"
    epoch = times[precision]
    note(f"an epoch of {what} takes about {epoch.seconds:,.0f} s in {precision}{rest}")
    passes = len(weight_averaging.between(config)) + config.fine_tune.soup - 1
    averaging = epoch.validation * passes
    configured = tuned_config.trainer.max_epochs
    room = (_SHARE_OF_TRAINING * seconds - averaging) / epoch.seconds
    epochs = math.floor(min(configured, room))
    fewest = min(_FEWEST, configured)
    needed = (fewest * epoch.seconds + averaging) / _SHARE_OF_TRAINING
    if epochs < fewest:
        return Plan(0, precision, freeze), needed
    count = math.floor(min(config.fine_tune.soup, max(1.0, room / configured)))
    return Plan(epochs, precision, freeze, count=count), needed


def _too_little_time(config: Config, needed: float) -> str:
    """Return a note on fine-tuning that would take too long, with the minutes that are enough."""
    from breedlab.tuning.study import SHARE_OF_FINE_TUNING

    fewest = counted(min(_FEWEST, config.fine_tune.epochs), "epoch")
    minutes = math.ceil(needed / SHARE_OF_FINE_TUNING / 60)
    return (
        f"too few epochs fit: the backbone stays frozen. The fewest that are worth it, {fewest},"
        f" take about {needed:,.0f} s with the test and export; tuner.minutes={minutes} leaves that"
    )
