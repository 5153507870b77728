"""PyTorch itself, which computes with the archive's weights and needs no other file."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar

from breedlab.hardware import multiplies_bf16
from breedlab.registry import ENGINES
from breedlab.serving.engine_kinds import EAGER, Choice, Compute, Section

if TYPE_CHECKING:
    import torch
    from torch import nn

_log = logging.getLogger(__name__)


@ENGINES.register(EAGER)
class Eager(Section):
    """PyTorch, on the CPU or a GPU. It needs no file but the weights."""

    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16")


class EagerEngine:
    """A network on its device. bf16 is autocast: weights cast outright are slow for small batches.

    Args:
        network: In evaluation mode.
        device: Where it is.
        precision: `fp32` or `bf16`; where bf16 would only be emulated, it is fp32, with a warning.
    """

    def __init__(self, network: nn.Module, device: torch.device, precision: str) -> None:
        if precision == "bf16" and not multiplies_bf16(device.type):
            _log.warning(
                "this machine has no native bf16, which would only be slower; PyTorch computes in"
                " fp32"
            )
            precision = "fp32"
        self.choice = Choice(EAGER, precision)
        self._network, self._device = network, device

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        import torch

        bf16 = torch.autocast(
            self._device.type, torch.bfloat16, enabled=self.choice.precision == "bf16"
        )
        with torch.inference_mode(), bf16:
            logits: torch.Tensor = self._network(images.to(self._device))
            return logits.float().cpu()

    def split(self) -> list[Compute]:
        return []  # torch's threads belong to the caller: if many call, each has one
