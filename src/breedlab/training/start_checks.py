"""What is checked before the first training step: that the network takes these images and batches,
and that its weights suit them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from breedlab.config import Config
from breedlab.errors import Unsuitable
from breedlab.models import backbone as backbones
from breedlab.models import input_check
from breedlab.training import memory
from breedlab.training.network_checks import try_network

if TYPE_CHECKING:
    from breedlab.training.context import TrainingContext

_CHECKED = 32
"""Training images that the weights are checked on."""


def refuse_constant_monitor(config: Config, classes: int) -> None:
    """Raise ConfigError if every epoch and trial would reach the same monitored metric."""
    if config.monitor.metric == "valid/top5" and classes <= 5:
        raise Unsuitable(
            f"monitor.metric: got 'valid/top5', but of {classes} classes every image's is among the"
            " five most likely, so all epochs and trials would tie; expected valid/top1, valid/f1,"
            " valid/loss or valid/ece"
        )


def refuse_what_cannot_train(context: TrainingContext, config: Config) -> None:
    """Raise ConfigError if a training would fail at its first step."""
    try_network(context.classifier(config), config)
    refuse_batch_of_one(context, config)
    memory.refuse_too_large_a_step(context, config)


def refuse_batch_of_one(context: TrainingContext, config: Config) -> None:
    """Raise ConfigError if batches have one image and a BatchNorm trains: it has no variance to
    divide by."""
    images = len(context.report.images.splits["train"])
    if min(config.data.batch_size, images) > 1 or config.model.freeze == "backbone":
        return
    classifier = context.classifier(config).train()  # a copy, whose moving averages may change
    try:
        with torch.no_grad():
            classifier.forward(torch.zeros(1, 3, classifier.side, classifier.side))
    except ValueError as error:
        raise Unsuitable(
            f"data.batch_size: got {config.data.batch_size}; {config.model.name} normalizes each"
            " batch by its own images, which takes at least 2 in it; expected data.batch_size=2 or"
            " more, or model.freeze=backbone"
        ) from error


def concerns(context: TrainingContext) -> list[str]:
    """Return what is wrong with the weights, by the config and on a few training images; one line
    each."""
    config = context.config
    if config.model.weights == "none":
        if config.model.freeze == "none":
            return []
        return [
            f"model.weights=none with model.freeze={config.model.freeze}: what is frozen stays"
            " random numbers, and the rest learns from noise; give weights (model.weights=...), or"
            " train all of it (model.freeze=none)"
        ]
    images = context.data(config).dataset("train")
    every = -(-len(images) // _CHECKED)
    batch = torch.stack([images[0, index][0] for index in range(0, len(images), every)])
    used, stated = context.evaluation, context.backbone.pretraining
    as_stated = (used.mean, used.std) == (stated.mean, stated.std)
    from_library = not backbones.is_path(config.model.weights)
    concern = input_check.concern(
        context.backbone.network,
        batch,
        used.mean,
        used.std,
        published=as_stated and from_library,
        stated=(stated.mean, stated.std) if from_library and not as_stated else None,
    )
    return [concern] if concern else []
