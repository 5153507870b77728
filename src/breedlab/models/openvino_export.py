"""From a PyTorch module to OpenVINO's graph."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def convert(network: nn.Module, side: int) -> Any:
    """Return OpenVINO's graph of a module in evaluation mode that takes uint8 images (n, 3, side,
    side)."""
    with quiet():
        import openvino

        # Two images: traced with one, some networks take the one for a constant.
        example = torch.zeros(2, 3, side, side, dtype=torch.uint8)
        graph = openvino.convert_model(network, example_input=example)
        graph.reshape([-1, 3, side, side])
    return graph


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the tools' own progress bars and messages, and their telemetry.

    OpenVINO's converter and NNCF send usage data unless the package that does so is missing.
    """
    import rich

    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    before = logging.root.manager.disable
    # NNCF logs its progress, and its import warns that it finds no CUDA compiler
    logging.disable(logging.WARNING)
    rich.reconfigure(quiet=True)  # the console that NNCF draws on; ours is another
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        rich.reconfigure()
        logging.disable(before)
