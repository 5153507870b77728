"""Whether a network takes images of a size, and trains as a config wants it: tried on one image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from breedlab.config import Config
from breedlab.errors import Unsuitable
from breedlab.models.classifier import Classifier


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
