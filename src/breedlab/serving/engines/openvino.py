"""OpenVINO on the CPU. Its file is a graph, an .xml with the weights in a .bin next to it; each
machine compiles that for itself when it loads it."""

from __future__ import annotations

import logging
import math
import threading
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breedlab.errors import MissingExtra
from breedlab.models import openvino_core
from breedlab.registry import ENGINES
from breedlab.serving.engine_kinds import OPENVINO, Choice, Compute, EngineKind, Unusable

if TYPE_CHECKING:
    import torch
    from torch import nn

_MOST_APART = 8
"""Each part holds the activations of a batch; on machines with more cores, each part takes
several."""
_LARGEST_LAYER = 500_000_000
"""Numbers of one layer's output for one image; the first convolution of a ResNet has 67 million at
2,048 pixels."""
_log = logging.getLogger(__name__)


@ENGINES.register(OPENVINO)
class OpenVino(EngineKind):
    """OpenVINO on the CPU, several times as fast there as PyTorch."""

    precisions = ("fp32", "bf16", "int8")
    suffix = ".xml"

    _converted: tuple[nn.Module, Any] | None = None

    def export(self, network: nn.Module, images: torch.Tensor, file: Path, precision: str) -> None:
        from breedlab.console import progress
        from breedlab.serving import openvino_export

        graph = self.graph(network, images.shape[-1])
        if precision == "int8":
            with progress("calibrating int8 on training images") as report:
                graph = openvino_export.quantize(graph, list(images), report)
        openvino_export.write_graph(graph, file, halves=precision == "bf16")

    def graph(self, network: nn.Module, side: int) -> Any:
        """Return the graph of a network in fp32; it is made once for all precisions."""
        from breedlab.console import progress
        from breedlab.serving import openvino_export

        if self._converted is None or self._converted[0] is not network:
            with progress("converting the network for OpenVINO"):
                self._converted = network, openvino_export.convert(network, side)
        return self._converted[1]

    def load(self, file: Path, precision: str) -> Compute:
        return OpenVinoEngine(file, precision).scores

    def engine(self, choice: Choice, file: Path) -> OpenVinoEngine:
        return OpenVinoEngine(file, choice.precision)

    @classmethod
    def needs(cls) -> tuple[str, ...]:
        return (f"openvino=={version('openvino')}",)


class OpenVinoEngine:
    """A compiled graph, on OpenVINO's own threads, as many as torch would take.

    Args:
        file: The graph, an .xml with its .bin next to it.
        precision: What the file was made for; where bf16 would only be emulated, it computes in
            fp32, with a warning.

    Raises:
        Unusable: If OpenVINO is not installed, or does not take the file.
    """

    def __init__(self, file: Path, precision: str) -> None:
        import torch

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
    import torch

    (logits,) = request.infer([images.contiguous().numpy()], share_inputs=True).values()
    return torch.from_numpy(logits)


def _first_line(error: Exception) -> str:
    """Return the last line of an OpenVINO error: the others are places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:160] if lines else type(error).__name__
