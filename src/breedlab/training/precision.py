"""One precision for every forward pass of a run: trials, probe, feature pass, final training,
validation and test.

Small heads on a CPU are an exception: see `auto_values.training_precision`.
Lightning's Trainer and Fabric cast by a plugin, which we name here; what runs outside of them takes
`autocast`.
"""

from __future__ import annotations

from typing import Literal

import torch


def lightning_precision(precision: str) -> Literal["bf16-mixed", "32-true"]:
    """Return Lightning's name of `fp32` or `bf16`: weights stay fp32, bf16 is what the arithmetic
    is done in."""
    return "bf16-mixed" if precision == "bf16" else "32-true"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which a forward pass computes in `precision`, as Lightning's plugin
    does."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
