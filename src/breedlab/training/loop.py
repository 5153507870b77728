"""The lean loop: what a trial or a probe runs. Lightning's Fabric places and casts; nothing is
logged a step.

Lightning's Trainer costs about as much a step as a head on cached activations does, Fabric a tenth
of that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from breedlab.config import Config
from breedlab.data.batches import mixed_seed
from breedlab.errors import Diverged
from breedlab.evaluation.answers import ScoredImages
from breedlab.training.ema import MovingAverage
from breedlab.training.learner import Learner
from breedlab.training.log_filters import quiet_lightning
from breedlab.training.precision import lightning_precision

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


class Feed(Protocol):
    """Where batches come from: the images themselves or their cached activations."""

    def train(self, epoch: int) -> Batches: ...

    def valid(self) -> Batches: ...


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: the mean training loss and the validation metrics by name; with
    `tuner.folds` their means, and the monitored metric of each fold, without it what the interval
    of the monitored metric needs."""

    number: int
    train_loss: float
    valid: dict[str, float]
    folds: tuple[float, ...] = ()
    scores: ScoredImages | None = field(default=None, compare=False, repr=False)


def seed_epoch(seed: int, epoch: int, rank: int = 0) -> None:
    """Seed everything random in an epoch by the run's seed and the epoch's number; each process
    draws its own numbers."""
    torch.manual_seed(mixed_seed(seed, epoch, rank) if rank else mixed_seed(seed, epoch))


def epochs(
    learner: Learner, feed: Feed, config: Config, *, count: int, accelerator: str, precision: str
) -> Iterator[Epoch]:
    """Train for `count` epochs, yielding after each, so that the caller may stop.

    Raises:
        TrainingError: If the loss stops being a number.
    """
    with quiet_lightning():
        # The environment is named, or a process in a Slurm job would be mistaken for one of the
        # job's tasks.
        alone = LightningEnvironment()
        precision = lightning_precision(precision)
        fabric = Fabric(accelerator=accelerator, devices=1, precision=precision, plugins=[alone])
    setup = learner.configure_optimizers()
    module, optimizer = fabric.setup(learner, setup["optimizer"])
    schedule = setup["lr_scheduler"]["scheduler"]
    average = MovingAverage(learner.classifier, config.trainer.ema) if config.trainer.ema else None
    short = config.monitor.metric.removeprefix("valid/")
    metrics = learner.task.metrics(
        learner.classifier.architecture.classes, only=short, monitor=config.monitor
    ).to(fabric.device)
    for epoch in range(count):
        seed_epoch(config.seed, epoch)
        learner.train()
        total, images = torch.zeros((), device=fabric.device), 0
        for batch in feed.train(epoch):
            batch = fabric.to_device(batch)
            # Not by `mark_forward_method`: on one device Fabric calls a marked method as it is,
            # without autocast.
            with fabric.autocast():
                loss, _ = learner.loss_and_hits(batch)
            optimizer.zero_grad(set_to_none=True)
            fabric.backward(loss)
            if config.trainer.gradient_clip:
                fabric.clip_gradients(module, optimizer, max_norm=config.trainer.gradient_clip)
            optimizer.step()
            schedule.step()
            if average is not None:
                average.update()
            total += loss.detach() * len(batch[1])
            images += len(batch[1])
        mean = float(total) / images
        if not math.isfinite(mean):
            raise Diverged(f"diverged: the training loss is {mean} after epoch {epoch + 1}")
        with average.applied() if average else nullcontext():
            scores = ScoredImages(short, config.monitor)
            valid = _validate(fabric, learner, feed, metrics, scores)
        yield Epoch(epoch, mean, valid, scores=scores)


def _validate(
    fabric: Fabric, learner: Any, feed: Feed, metrics: Any, scores: ScoredImages
) -> dict[str, float]:
    batches = map(fabric.to_device, feed.valid())
    values = validated(learner, batches, metrics, fabric.autocast(), scores)
    if not all(map(math.isfinite, values.values())):
        raise Diverged(
            f"diverged: {', '.join(f'{name} is {value}' for name, value in values.items())}"
        )
    return values


@torch.no_grad()
def validated(
    network: torch.nn.Module,
    batches: Batches,
    metrics: Any,
    autocast: AbstractContextManager[Any],
    scores: ScoredImages | None = None,
) -> dict[str, float]:
    """Return a network's metrics on validation, by their names in the config.

    Args:
        network: From images to logits.
        batches: Images and targets, on the network's device.
        metrics: Of torchmetrics, on it, too.
        autocast: For the precision.
        scores: To update, too.
    """
    network.eval()
    metrics.reset()
    with autocast:
        for images, targets in batches:
            logits = network(images)
            metrics.update(logits, targets)
            if scores is not None:
                scores.update(logits, targets)
    return {f"valid/{name}": float(value) for name, value in metrics.compute().items()}
