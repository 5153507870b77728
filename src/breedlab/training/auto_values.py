"""What `auto` means: the transform that the weights were trained with, the machine's accelerator
and precision."""

from __future__ import annotations

import torch

from breedlab import distributed
from breedlab.config import Config
from breedlab.config.sections import Data
from breedlab.data.transforms import EvalTransform
from breedlab.errors import Unsuitable
from breedlab.hardware import multiplies_bf16
from breedlab.models.backbone import Pretraining


def evaluation_transform(data: Data, pretraining: Pretraining) -> EvalTransform:
    """Return the transform of validation, test, and serving.

    `auto` is what the weights were trained with, the resize in proportion to the crop.

    Raises:
        ConfigError: If the resize is smaller than the crop.
    """
    crop = pretraining.crop if data.image_size == "auto" else data.image_size
    if data.resize == "auto":
        resize = round(crop * pretraining.resize / pretraining.crop)
    else:
        resize = data.resize
    if resize < crop:
        raise Unsuitable(f"data.resize: got {resize}; expected at least data.image_size ({crop})")
    return EvalTransform(
        resize=resize,
        crop=crop,
        interpolation=(
            pretraining.interpolation if data.interpolation == "auto" else data.interpolation
        ),
        mean=pretraining.mean if data.mean == "auto" else _channels(data.mean),
        std=pretraining.std if data.std == "auto" else _channels(data.std),
    )


def _channels(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def choose_accelerator(accelerator: str) -> str:
    """Return `cpu` or `gpu`; `auto` is a GPU where there is one.

    Raises:
        ConfigError: If there is no GPU, or fewer than this machine's processes.
    """
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise Unsuitable(
            "trainer.accelerator: got 'gpu', but this machine has no CUDA device; expected auto"
            " or cpu"
        )
    gpus, processes = torch.cuda.device_count(), distributed.local_world()
    if accelerator != "cpu" and 0 < gpus < processes:
        raise Unsuitable(
            f"trainer.accelerator: {processes} processes on this machine, which has {gpus} GPUs;"
            " start one a GPU, or set trainer.accelerator=cpu"
        )
    return "gpu" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def choose_precision(precision: str, accelerator: str) -> str:
    """Return `fp32` or `bf16`; `auto` is bf16 where the machine multiplies it natively, since
    emulated it is slower than fp32."""
    if precision != "auto":
        return precision
    return "bf16" if has_native_bf16(accelerator) else "fp32"


def has_native_bf16(accelerator: str) -> bool:
    """Return whether an accelerator multiplies bf16 in hardware."""
    return multiplies_bf16("cuda" if accelerator == "gpu" else "cpu")


def training_precision(config: Config, accelerator: str, precision: str, *, cached: bool) -> str:
    """Return what training computes in, in trials, probe, and final training alike.

    That is the run's precision, except for a head on cached activations where
    `trainer.precision=auto` on a CPU: casting its weights in every step costs more than bf16 saves
    (5.5 ms a step against 3.4 in fp32).

    Args:
        config: The experiment's, or a trial's.
        accelerator: `cpu` or `gpu`.
        precision: The run's.
        cached: Whether the frozen part's activations are computed once.
    """
    head_alone = cached and config.model.freeze == "backbone"
    if head_alone and accelerator == "cpu" and config.trainer.precision == "auto":
        return "fp32"
    return precision
