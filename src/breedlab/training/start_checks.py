"""What is checked before the first training step: that the network takes these images and batches,
and that its weights suit them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from breedlab.config import Config
from breedlab.errors import Unsuitable
from breedlab.models import backbone as backbones
from breedlab.models import input_check
from breedlab.models.classifier import Classifier
from breedlab.training import memory

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


def takes(network: nn.Module, side: int) -> bool:
    """Return whether a network in evaluation mode takes images of a size."""
    device = next(network.parameters()).device
    return _refusal(network, torch.zeros(1, 3, side, side, device=device)) is None


def _refusal(
    forward: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor
) -> Exception | None:
    """Return the error with which a network refuses an image; None if it takes it."""
    try:
        with torch.no_grad():
            forward(image)
    except (RuntimeError, AssertionError, ValueError) as error:
        return error
    return None


def try_network(classifier: Classifier, config: Config) -> None:
    """Send one black image through the network, before anything is computed for long.

    Raises:
        ConfigError: If it takes no images of that size, or cannot be compiled.
    """
    image = torch.zeros(1, 3, classifier.side, classifier.side)
    # not compiled: whether it compiles is checked below
    error = _refusal(classifier.eval().forward, image)
    if error is not None:
        reason = " ".join(str(error).split())[:120]
        raise Unsuitable(
            f"data.image_size: {config.model.name} does not take images of {classifier.side} px"
            f" ({reason}); expected auto, or a size that this network was made for"
        ) from error
    if config.trainer.compile:
        _try_compiled(classifier, image)


def _try_compiled(classifier: Classifier, image: torch.Tensor) -> None:
    try:
        with torch.no_grad():
            classifier(image)
    except Exception as error:  # the compiler's, Dynamo's and Inductor's errors share no base class
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise Unsuitable(
            f"trainer.compile: got true, but the network cannot be compiled here ({reason});"
            " install a C++ compiler (such as g++), or set trainer.compile=false"
        ) from error


def refuse_what_cannot_train(prepared: TrainingContext, config: Config) -> None:
    """Raise ConfigError if a training would fail at its first step."""
    try_network(prepared.classifier(config), config)
    refuse_batch_of_one(prepared, config)
    memory.refuse_too_large_a_step(prepared, config)


def refuse_batch_of_one(prepared: TrainingContext, config: Config) -> None:
    """Raise ConfigError if batches have one image and a BatchNorm trains: it has no variance to
    divide by."""
    images = len(prepared.report.images.splits["train"])
    if min(config.data.batch_size, images) > 1 or config.model.freeze == "backbone":
        return
    classifier = prepared.classifier(config).train()  # a copy, whose moving averages may change
    try:
        with torch.no_grad():
            classifier.forward(torch.zeros(1, 3, classifier.side, classifier.side))
    except ValueError as error:
        raise Unsuitable(
            f"data.batch_size: got {config.data.batch_size}; {config.model.name} normalizes each"
            " batch by its own images, which takes at least 2 in it; expected data.batch_size=2 or"
            " more, or model.freeze=backbone"
        ) from error


def concerns(prepared: TrainingContext) -> list[str]:
    """Return what is wrong with the weights, by the config and on a few training images; one line
    each."""
    config = prepared.config
    if config.model.weights == "none":
        if config.model.freeze == "none":
            return []
        return [
            f"model.weights=none with model.freeze={config.model.freeze}: what is frozen stays"
            " random numbers, and the rest learns from noise; give weights (model.weights=...), or"
            " train all of it (model.freeze=none)"
        ]
    images = prepared.data(config).dataset("train")
    every = -(-len(images) // _CHECKED)
    batch = torch.stack([images[0, index][0] for index in range(0, len(images), every)])
    used, stated = prepared.evaluation, prepared.backbone.pretraining
    as_stated = (used.mean, used.std) == (stated.mean, stated.std)
    from_library = not backbones.is_path(config.model.weights)
    concern = input_check.concern(
        prepared.backbone.network,
        batch,
        used.mean,
        used.std,
        published=as_stated and from_library,
        stated=(stated.mean, stated.std) if from_library and not as_stated else None,
    )
    return [concern] if concern else []
