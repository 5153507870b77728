"""All layers trained, from the head that frozen features gave (`fine_tune`).

Linear probing, then fine-tuning (Kumar et al. 2022, arXiv 2202.10054): from a head that fits, the
backbone is not wrecked by the gradients of one that does not. The result is kept only if it does
better on validation, so that asking for it never makes a run worse there.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from breedlab import config as configs
from breedlab import distributed
from breedlab.config import Config
from breedlab.console import note, progress, warn
from breedlab.errors import TrainingError
from breedlab.files import atomic_write_json, read_json_if_whole
from breedlab.registry import HEADS
from breedlab.training.checkpoints import of_classifier, read_checkpoint
from breedlab.training.context import TrainingContext
from breedlab.training.fit import Fitted, fit
from breedlab.training.objective import rank
from breedlab.training.precision import autocast

FOLDER = "fine_tune"
"""Of the run directory: checkpoints, curves, and what was planned."""
_PLAN = "plan.json"
_TIMED_STEPS = 3
_SHARE_OF_A_STEP = 0.4
"""What a validation image takes of a training image's time: no backward pass."""


@dataclass(frozen=True)
class FineTuned:
    """What came of it.

    Attributes:
        told: What metrics.json says of it.
        config: What the whole network was trained by; None where the frozen one is kept.
        fitted: How its training ended; None likewise.
        precision: What it computed in.
        head: What it started from.
    """

    told: dict[str, Any]
    config: Config | None = None
    fitted: Fitted | None = None
    precision: str = ""
    head: Mapping[str, torch.Tensor] | None = None


@dataclass(frozen=True)
class _Plan:
    epochs: int
    precision: str


def fine_tune(
    prepared: TrainingContext, config: Config, run: Path, before: Fitted, seconds: float | None
) -> FineTuned:
    """Train all layers from `checkpoints/best.ckpt`, or go on where that was stopped.

    Args:
        prepared: Of the run.
        config: Of the head's training.
        run: The run directory.
        before: How the head's training ended.
        seconds: What there is for it; None for as long as it takes.
    """
    folder = run / FOLDER
    tuned = settings(config)
    plan = distributed.rank_zero_only(lambda: _planned(prepared, tuned, folder, before, seconds))
    if plan.epochs == 0:
        return FineTuned({"epochs": 0, "kept": False})
    tuned = configs.replace(tuned, {"trainer.max_epochs": plan.epochs})
    classifier = prepared.classifier(tuned, synced=distributed.world() > 1)
    head = distributed.rank_zero_only(
        lambda: of_classifier(
            read_checkpoint(run / "checkpoints" / "best.ckpt")["state_dict"], "head."
        )
    )
    classifier.head.load_state_dict(head)
    learner, _ = prepared.learner(classifier, tuned, plan.epochs)
    with distributed.rank_zero_first():
        photos = prepared.live_data(tuned)
    try:
        fitted = fit(
            learner,
            photos,
            tuned,
            folder,
            accelerator=prepared.accelerator,
            precision=plan.precision,
        )
    except TrainingError as error:  # the head is there, and worth its test and export
        warn(f"{error}: fine_tune.lr here; the frozen backbone stays")
        distributed.rank_zero_only(lambda: _record(folder, _Plan(0, plan.precision), before))
        return FineTuned({"epochs": 0, "kept": False, "failed": str(error)})
    mode, metric = config.monitor.mode, config.monitor.metric
    kept = rank(fitted.best, fitted.loss, mode) < rank(before.best, before.loss, mode)
    told = {
        "epochs": fitted.epochs,
        "best_epoch": fitted.best_epoch,
        "best": fitted.best,
        "before": before.best,
        "precision": plan.precision,
        "kept": kept,
    }
    outcome = "kept" if kept else "the frozen backbone stays"
    note(f"{metric} {before.best:.4f} before, {fitted.best:.4f} after: {outcome}")
    return FineTuned(told, tuned, fitted, plan.precision, head) if kept else FineTuned(told)


def settings(config: Config) -> Config:
    """Return what a config trains the whole network by, once its head is there."""
    values: dict[str, Any] = {
        "model.freeze": "none",
        # so that training begins as the head left the network, which saw features with them
        "model.batch_norm": "frozen",
        "cache.views": 1,
        "data.augment": config.fine_tune.augment,
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
        # what records and profiles a run does so for the training that was asked for
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


def _planned(
    prepared: TrainingContext, tuned: Config, folder: Path, before: Fitted, seconds: float | None
) -> _Plan:
    """Return how to train, as it was planned when the head was the same."""
    known = read_json_if_whole(folder / _PLAN, needs=("epochs", "precision", "head"))
    if known is not None and known["head"] == _head(before):
        return _Plan(int(known["epochs"]), known["precision"])
    shutil.rmtree(folder, ignore_errors=True)
    plan = _Plan(tuned.trainer.max_epochs, prepared.precision)
    if seconds is not None:
        plan = _that_fits(prepared, tuned, seconds)
    _record(folder, plan, before)
    return plan


def _record(folder: Path, plan: _Plan, before: Fitted) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_json(folder / _PLAN, {**asdict(plan), "head": _head(before)})


def _head(before: Fitted) -> list[float]:
    """Return what tells one head's training from another of the same run."""
    return [before.epochs, before.best_epoch, before.best]


def _that_fits(prepared: TrainingContext, tuned: Config, seconds: float) -> _Plan:
    """Return as many epochs as there is time for, in the precision that is faster here."""
    choices = [prepared.precision]
    if prepared.accelerator == "cpu" and tuned.trainer.precision == "auto":
        # convolutions of single channels, as EfficientNets have, may be slower in bf16
        choices = [*dict.fromkeys([*choices, "fp32"])]
    with progress("timing a step of all layers"):
        times = {choice: _seconds_an_epoch(prepared, tuned, choice) for choice in choices}
    precision = min(times, key=lambda choice: times[choice])
    epochs = min(tuned.trainer.max_epochs, max(0, math.floor(seconds / times[precision])))
    note(
        f"an epoch of all layers takes about {times[precision]:,.0f} s in {precision}, and the"
        f" search left {max(seconds, 0):,.0f} s"
        + ("" if epochs else ": the backbone stays frozen; raise tuner.minutes to fine-tune it")
    )
    return _Plan(epochs, precision)


def _seconds_an_epoch(prepared: TrainingContext, tuned: Config, precision: str) -> float:
    """Return what an epoch takes, validation and the refit's epoch included."""
    classifier = prepared.classifier(tuned).to(prepared.device)
    learner, feed = prepared.learner(classifier, tuned, 1)
    learner.to(prepared.device).train()

    def step(batch: tuple[torch.Tensor, torch.Tensor]) -> int:
        images, labels = (part.to(prepared.device) for part in batch)
        with autocast(prepared.device, precision):
            loss, _ = learner.loss_and_hits((images, labels))
        loss.backward()  # type: ignore[no-untyped-call]
        learner.zero_grad()
        if prepared.device.type == "cuda":
            torch.cuda.synchronize()
        return len(labels)

    batches = list(islice(feed.train(0), 1 + _TIMED_STEPS))
    step(batches[0])  # which allocates
    started = time.monotonic()
    images = sum(step(batch) for batch in batches[1:] or batches)
    each = (time.monotonic() - started) / images
    splits = prepared.report.photos.splits
    train, valid = len(splits["train"]), len(splits["valid"])
    again = train + valid if tuned.trainer.refit else 0
    return each * (train + _SHARE_OF_A_STEP * valid + again)
