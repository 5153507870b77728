"""What computes a model's scores: PyTorch itself, or OpenVINO where the archive carries a file for
it.

A file of OpenVINO's is a graph and its weights; each machine compiles it for itself when it loads
it.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from breedlab.errors import MissingExtra, ServingError
from breedlab.hardware import multiplies_bf16
from breedlab.models import openvino_core
from breedlab.serving.answers import Answers

Compute = Callable[[torch.Tensor], torch.Tensor]
EAGER, OPENVINO = "eager", "openvino"
_MOST_APART = 8
"""Each part holds the activations of a batch; on machines with more cores, each part takes
several."""
_LARGEST_LAYER = 500_000_000
"""Numbers of one layer's output for one image; the first convolution of a ResNet has 67 million at
2,048 pixels."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """An engine and the precision that it computes in.

    Attributes:
        engine: `eager` or `openvino`.
        precision: `fp32`, `bf16` or `int8`.
    """

    engine: str
    precision: str

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"


MODULE = Choice(EAGER, "fp32")
"""The network as it was trained and tested."""


class Engine(Protocol):
    """What computes scores; safe to call from several threads.

    Attributes:
        choice: What it is.
    """

    choice: Choice

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        """Return float32 logits (n, classes) on the CPU of uint8 images (n, 3, side, side),
        computed on all cores; if the archive detects unknown images, their features follow."""
        ...

    def split(self) -> list[Compute]:
        """Return one function like `scores` for each part of the cores, for one call at a time; may
        be empty."""
        ...


def mirrored(compute: Compute) -> Compute:
    """Return a function that averages the scores of images and of their mirror images
    (`serving.flip_tta`)."""
    return lambda images: (compute(images) + compute(images.flip(-1))) / 2


def calibrated(compute: Compute, answers: Answers) -> Compute:
    """Return a function that makes an engine's numbers what `answers` are made of: calibrated
    scores (n, classes), plus a column of distances with `unknown`; for a multi-label model, the
    probability of each label."""

    def scores(images: torch.Tensor) -> torch.Tensor:
        numbers = compute(images)
        scores = numbers[:, : answers.classes] / answers.temperature
        if answers.thresholds is not None:
            scores = scores.sigmoid()
        if answers.unknown is None:
            return scores
        distances = answers.unknown.novelty.distance(numbers[:, answers.classes :])
        return torch.cat([scores, distances[:, None]], 1)

    return scores


class WrappedEngine:
    """An engine with something done around each of its functions.

    Args:
        engine: What computes.
        around: Returns a function in place of one of the engine's, as `mirrored` does.
    """

    def __init__(self, engine: Engine, around: Callable[[Compute], Compute]) -> None:
        self.choice = engine.choice
        self._engine, self._around = engine, around
        self._scores = around(engine.scores)

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        return self._scores(images)

    def split(self) -> list[Compute]:
        return [self._around(compute) for compute in self._engine.split()]


class Unusable(ServingError):
    """An engine cannot run here. Its text says why."""

    code = "BL509"


class Eager:
    """PyTorch, on the CPU or a GPU. bf16 is autocast: weights cast outright are slow for small
    batches."""

    def __init__(self, network: nn.Module, device: torch.device, precision: str) -> None:
        if precision == "bf16" and not multiplies_bf16(device.type):
            _log.warning(
                "this machine has no native bf16, which would only be slower; PyTorch computes in"
                " fp32"
            )
            precision = "fp32"
        self.choice = Choice(EAGER, precision)
        self._network, self._device = network, device

    @torch.inference_mode()
    def scores(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(
            self._device.type, torch.bfloat16, enabled=self.choice.precision == "bf16"
        ):
            logits: torch.Tensor = self._network(images.to(self._device))
        return logits.float().cpu()

    def split(self) -> list[Compute]:
        return []  # torch's threads belong to the caller: if many call, each has one


class OpenVino:
    """OpenVINO on the CPU, on its own threads, as many as torch would take.

    Args:
        file: The graph, an .xml with its .bin next to it.
        precision: What the file was made for.

    Raises:
        Unusable: If OpenVINO is not installed, or does not take the file.
    """

    def __init__(self, file: Path, precision: str) -> None:
        try:
            core = openvino_core.core()
            if precision == "bf16" and not openvino_core.computes_bf16():
                _log.warning("this machine has no native bf16; OpenVINO computes in fp32")
                precision = "fp32"
            self._threads = torch.get_num_threads()
            self.choice = Choice(OPENVINO, precision)
            # Any number of images; compiled for one number it was no faster.
            self._graph = core.read_model(str(file))
            _refuse_huge_layers(self._graph)
            (self._request,) = self._requests(1)
        except ImportError as error:
            raise Unusable("openvino is not installed", code=MissingExtra.code) from error
        except Exception as error:  # OpenVINO raises bare RuntimeErrors for any fault
            raise Unusable(f"OpenVINO does not take it ({_first_line(error)})") from error
        self._lock = threading.Lock()

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        with self._lock:  # a request holds one computation
            return _infer(self._request, images)

    def split(self) -> list[Compute]:
        return [
            partial(_infer, request) for request in self._requests(min(self._threads, _MOST_APART))
        ]

    def _requests(self, count: int) -> list[Any]:
        """Return that many parallel requests, which share the threads."""
        settings = openvino_core.settings(self.choice.precision, self._threads, count)
        compiled = openvino_core.core().compile_model(self._graph, "CPU", settings)
        return [compiled.create_infer_request() for _ in range(count)]


def _refuse_huge_layers(graph: Any) -> None:
    """Raise ValueError if a layer gives more numbers for one image than any network's: even a graph
    of a kilobyte could."""
    for node in graph.get_ordered_ops():
        for output in node.outputs():
            shape = output.get_partial_shape()
            sizes = shape if shape.rank.is_static else []
            lengths = [1 if size.is_dynamic else size.get_length() for size in sizes]
            if math.prod(lengths) > _LARGEST_LAYER:
                raise ValueError(
                    f"its layer {node.get_friendly_name()[:60]!r} gives {math.prod(lengths):,}"
                    " numbers"
                )


def _infer(request: Any, images: torch.Tensor) -> torch.Tensor:
    (logits,) = request.infer([images.contiguous().numpy()], share_inputs=True).values()
    return torch.from_numpy(logits)


def probe(side: int) -> torch.Tensor:
    """Return a reproducible image (1, 3, side, side): waves in three directions, in integers."""
    place = 1024 * torch.arange(side) // side
    rows, columns = place[:, None], place[None, :]
    waves = torch.stack([2 * rows + columns, rows + 3 * columns, 5 * rows - 2 * columns]) % 510
    return (waves - 255).abs().to(torch.uint8)[None]


def _first_line(error: Exception) -> str:
    """Return the last line of an OpenVINO error: the others are places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:160] if lines else type(error).__name__
