"""How long an epoch of fine-tuning will take, from a few timed steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from breedlab.config import Config
from breedlab.training.context import TrainingContext
from breedlab.training.precision import autocast

_TIMED_STEPS = 3


@dataclass(frozen=True)
class EpochTime:
    """What an epoch takes.

    Attributes:
        seconds: With validation, and the refit's epoch if there is a refit; on average, if crops
            grow.
        validation: The seconds of a pass over the validation images alone.
    """

    seconds: float
    validation: float


def epoch_time(context: TrainingContext, config: Config, precision: str) -> EpochTime:
    """Return how long an epoch takes, from a few steps on crops as large as they become."""
    classifier = context.classifier(config).to(context.device)
    learner, feed = context.learner(classifier, config, 1)
    learner.to(context.device).train()

    def step(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        images, labels = (part.to(context.device) for part in batch)
        with autocast(context.device, precision):
            loss, _ = learner.loss_and_hits((images, labels))
        loss.backward()  # type: ignore[no-untyped-call]
        learner.zero_grad()

    def validate(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        with torch.inference_mode(), autocast(context.device, precision):
            learner(batch[0].to(context.device))

    trained = _seconds_an_image(step, list(islice(feed.train(0), 1 + _TIMED_STEPS)))
    learner.eval()
    validated = _seconds_an_image(validate, list(islice(feed.valid(), 2)))
    splits = context.report.images.splits
    train, valid = len(splits["train"]), len(splits["valid"])
    again = train + valid if config.trainer.refit else 0
    validation = validated * valid
    sizes = context.data(config).crop_sizes
    trained *= 1.0 if sizes is None else sizes.cost()
    return EpochTime(trained * (train + again) + validation, validation)


def _seconds_an_image(
    work: Callable[[tuple[torch.Tensor, torch.Tensor]], None],
    batches: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> float:
    """Return how long `work` takes, its first call aside, which allocates."""
    work(batches[0])
    timed = batches[1:] or batches
    _finish_on_gpu()
    started = time.monotonic()
    for batch in timed:
        work(batch)
    _finish_on_gpu()
    return (time.monotonic() - started) / sum(len(labels) for _, labels in timed)


def _finish_on_gpu() -> None:
    """Wait for what a GPU still has to do, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
