"""Whether a training step fits into memory, checked before the first one: a process that runs out
of memory is killed without a message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from breedlab import distributed, hardware
from breedlab.config import Config, search_space
from breedlab.errors import ConfigError
from breedlab.training.precision import autocast

if TYPE_CHECKING:
    from breedlab.training.context import TrainingContext

_TRIED = 2
"""Images that a step is measured with: BatchNorm needs more than one."""
_PER_WEIGHT = 5
"""Weights, gradients, the optimizer's two averages, and the averaged weights."""
_BATCH_SIZE = "data.batch_size"


def refuse_too_large_a_step(context: TrainingContext, config: Config) -> None:
    """Raise ConfigError if a training step of all images in a batch cannot fit into memory.

    A head on cached features takes next to none, and is not asked.
    """
    if config.model.freeze == "backbone":
        return
    space = search_space(config) if config.tuner.strategy != "none" else {}
    searched = _BATCH_SIZE in space
    images = int(max(space[_BATCH_SIZE].probes())) if searched else config.data.batch_size
    images = min(images, len(context.report.images.splits["train"]))
    at_once = config.tuner.parallel if space else 1
    fitting, needed, free = images_that_fit(context, config, images, context.precision, at_once)
    if fitting == images:
        return
    several = f" in each of {at_once} parallel trials" if at_once > 1 else ""
    smaller = f"{_BATCH_SIZE}={fitting} or less, " if fitting else ""
    raise ConfigError(
        f"{'tuner.space.' * searched}{_BATCH_SIZE}: a training step of {images} images{several}"
        f" takes at least {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free;"
        f" expected {smaller}a smaller data.image_size, or model.freeze=backbone"
    )


def images_that_fit(
    context: TrainingContext, config: Config, images: int, precision: str, at_once: int = 1
) -> tuple[int, int, int]:
    """Return how many images of a batch fit into memory, what all of them need, and what is free.

    Args:
        context: Of the config's network and input.
        config: Of the training.
        images: How many the batch would have, in all processes together.
        precision: What the network computes in.
        at_once: Trainings that run side by side.
    """
    of_weights, of_an_image = step_bytes(context, config, precision)
    if context.accelerator == "gpu":
        steps = at_once  # each process has its own GPU
        free, _ = torch.cuda.mem_get_info()
    else:
        steps = at_once * distributed.local_world()
        free = hardware.free_memory()
    weights, an_image = of_weights * steps, of_an_image * steps / distributed.world()
    needed = int(weights + an_image * images)
    if needed <= free:
        return images, needed, free
    fitting = max(0, int((free - weights) / an_image))
    # a power of two, as batch sizes are
    return 1 << (fitting.bit_length() - 1) if fitting else 0, needed, free


def step_bytes(context: TrainingContext, config: Config, precision: str) -> tuple[int, int]:
    """Return how much memory a training step takes at least: for the weights, and for an image.

    Measured on what a forward pass of two images keeps for the backward pass.
    """
    classifier = context.classifier(config).train()  # a copy, whose moving averages may change
    weights = {p.untyped_storage().data_ptr(): p.untyped_storage() for p in classifier.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            saved[address] = tensor  # kept, so that no other object gets its address
        return tensor

    side = config.data.train_size or classifier.side
    images = torch.zeros(_TRIED, 3, side, side)
    with (
        torch.random.fork_rng([]),  # restored, since training's dropout draws from it
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        autocast(torch.device("cpu"), precision),
    ):
        classifier.forward(images)
    of_images = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    return _PER_WEIGHT * sum(s.nbytes() for s in weights.values()), of_images // _TRIED
