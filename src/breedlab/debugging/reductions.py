"""What is kept of a tensor instead of the tensor: smdebug's reductions, and four that its rules
lacked.

`zeros` is the share of zeros, `dead` the share of channels that are zero for every image of the
batch, `saturated` the share of values at an activation's limits, and `update` the norm of what a
step changed over the weight's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

OWN = ("update", "zeros", "dead", "saturated")

Kind = tuple[str, bool]
"""smdebug's key of a reduction: its name, and whether of absolute values."""

# Where a bounded activation's slope is almost zero, below and above.
BOUNDS: dict[type[nn.Module], tuple[float, float]] = {
    nn.Tanh: (-0.99, 0.99),
    nn.Sigmoid: (0.01, 0.99),
    nn.Hardsigmoid: (0.0, 1.0),
    nn.Softsign: (-0.99, 0.99),
}
RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Threshold)


def bounds_of(module: nn.Module) -> tuple[float, float] | None:
    """Return the values at and beyond which an activation is saturated; None if it is not
    bounded."""
    # a Hardtanh by descent; its lower limit is what makes it a rectifier
    if isinstance(module, nn.ReLU6):
        return float("-inf"), 6.0
    if isinstance(module, nn.Hardtanh):
        return float(module.min_val), float(module.max_val)
    return next((bounds for kind, bounds in BOUNDS.items() if isinstance(module, kind)), None)


def parse(name: str) -> Kind:
    """Convert a config's name, which is smdebug's JSON name, to smdebug's key: `abs_l2_norm` to
    (`l2`, True)."""
    absolute = name.startswith("abs_")
    return name.removeprefix("abs_").removesuffix("_norm"), absolute


def reduce(
    tensor: torch.Tensor, kinds: Sequence[Kind], bounds: tuple[float, float] | None = None
) -> torch.Tensor:
    """Return all reductions of a tensor, (kinds,), left on its device: one transfer instead of
    many.

    Args:
        tensor: Of any shape, not empty; activations are (images, channels, ...).
        kinds: Which reductions.
        bounds: An activation's limits, for `saturated`.
    """
    values = tensor.detach().float()
    return torch.stack([_reduced(values, name, absolute, bounds) for name, absolute in kinds])


def own_of(values: npt.NDArray[Any], name: str) -> npt.NDArray[Any] | None:
    """Return one of our reductions of a tensor that was saved whole; None where the tensor is not
    enough for it."""
    if name == "zeros":
        return np.asarray((values == 0).mean())
    if name == "dead":
        channels = (
            np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)
            if values.ndim > 1
            else values[:, None]
        )
        return np.asarray((channels == 0).all(1).mean())
    return None


def _reduced(
    values: torch.Tensor, name: str, absolute: bool, bounds: tuple[float, float] | None
) -> torch.Tensor:
    if absolute and name == "max":
        # No temporary as large as the tensor; a NaN in it comes out as one, as from abs().max().
        low, high = torch.aminmax(values)
        return torch.maximum(-low, high)
    if absolute and name == "mean":
        mean: torch.Tensor = torch.linalg.vector_norm(values, 1) / values.numel()
        return mean
    if absolute and name not in ("l1", "l2"):
        values = values.abs()
    match name:
        case "l1" | "l2":
            norm: torch.Tensor = torch.linalg.vector_norm(values, int(name[1]))
            return norm
        case "std" | "variance":
            return (values.std if name == "std" else values.var)(
                correction=1 if values.numel() > 1 else 0
            )
        case "zeros":
            return 1 - torch.count_nonzero(values) / values.numel()
        case "dead":
            others = tuple(axis for axis in range(values.ndim) if axis != 1)
            alive = torch.count_nonzero(values, others) if others else torch.count_nonzero(values)
            return (alive == 0).float().mean()
        case "saturated":
            least, most = bounds or (float("-inf"), float("inf"))
            return ((values <= least) | (values >= most)).float().mean()
    plain: torch.Tensor = getattr(values, name)()
    return plain
