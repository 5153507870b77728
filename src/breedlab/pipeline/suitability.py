"""Settings that do not suit the images, or each other: corrected where that is safe, else warned
of."""

from __future__ import annotations

from typing import Any

from breedlab import config as configs
from breedlab.config import Config
from breedlab.config.space import Choices, Range, leaves, read_dimension

_BATCH_SIZE = "data.batch_size"


def cap_batch_sizes(config: Config, images: int) -> tuple[Config, str]:
    """Return a config whose search proposes no batch larger than the training set, and a line on
    what was left out.

    Every larger size is the same batch of all images: trials that try it are wasted. The smallest
    choice always stays.

    Args:
        config: The experiment's.
        images: How many there are to train on.
    """
    space = dict(leaves(config.tuner.space))
    if config.tuner.strategy == "none" or _BATCH_SIZE not in space:
        return config, ""
    dimension = read_dimension(_BATCH_SIZE, space[_BATCH_SIZE])
    capped: Any = None
    if isinstance(dimension, Choices):
        fitting = [size for size in dimension.values if size <= images] or [min(dimension.values)]
        if len(fitting) < len(dimension.values):
            capped, removed = fitting, [size for size in dimension.values if size not in fitting]
            notice = f"{', '.join(map(str, removed))} left out"
    elif isinstance(dimension, Range) and dimension.low < images < dimension.high:
        capped, notice = (
            {
                **space[_BATCH_SIZE],
                "high": images,
            },
            f"searched up to {images} instead of {dimension.high}",
        )
    if capped is None:
        return config, ""
    text = (
        f"tuner.space.{_BATCH_SIZE}: {notice}; there are {images} training images, and no batch can"
        " hold more"
    )
    return configs.replace(config, {"tuner.space": {**space, _BATCH_SIZE: capped}}), text


def early_stopping_concern(config: Config) -> str:
    """Return what is wrong with early stopping under a schedule that lowers the rate to the end;
    empty if nothing."""
    patience, schedule = config.trainer.patience, config.optim.schedule
    if patience is None or schedule == "constant" or patience >= config.trainer.max_epochs:
        return ""
    return (
        f"trainer.patience={patience} with optim.schedule={schedule}: training may stop while the"
        f" learning rate is still high, before the last of {config.trainer.max_epochs} epochs,"
        " where this schedule gains most; set trainer.patience=null, or optim.schedule=constant"
    )
