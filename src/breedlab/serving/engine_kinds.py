"""What an exported model can compute with."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from breedlab.config.section import Section
from breedlab.registry import ENGINES

if TYPE_CHECKING:
    import torch
    from torch import nn

    from breedlab.serving.engines import Choice, Compute


class EngineKind(Section):
    """An inference engine.

    Attributes:
        precisions: The precisions that it computes in: `fp32`, `bf16` or `int8`.
        requirements: Packages that an endpoint needs for it, as lines of a requirements file.
    """

    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    requirements: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def export(self, network: nn.Module, images: torch.Tensor, file: Path, precision: str) -> None:
        """Write the file from which another machine can load the network. What it raises excludes
        the engine.

        Args:
            network: On the CPU, in evaluation mode: from uint8 images (n, 3, side, side) to logits
                (n, classes); behind those may come the features that tell images of none of the
                classes.
            images: Training images, to trace or calibrate with.
            file: Where to; it travels in the archive.
            precision: One of `precisions`.
        """

    @abstractmethod
    def load(self, file: Path, precision: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what computes float32 numbers of uint8 images, both on the CPU. Only one call is
        made at a time."""


@ENGINES.register("eager")
class EagerKind(EngineKind):
    """PyTorch itself, on the CPU or a GPU. It needs no file but the weights."""

    precisions = ("fp32", "bf16")

    def export(self, network: nn.Module, images: torch.Tensor, file: Path, precision: str) -> None:
        raise NotImplementedError("serving.engines.Eager computes with the module as it is")

    def load(self, file: Path, precision: str) -> Callable[[torch.Tensor], torch.Tensor]:
        raise NotImplementedError("serving.engines.Eager computes with the module as it is")


@ENGINES.register("openvino")
class OpenVinoKind(EngineKind):
    """OpenVINO on the CPU, several times as fast there as PyTorch."""

    precisions = ("fp32", "bf16", "int8")

    def export(self, network: nn.Module, images: torch.Tensor, file: Path, precision: str) -> None:
        from breedlab.serving import openvino_export

        graph = openvino_export.convert(network, images.shape[-1])
        converted = (
            openvino_export.quantize(graph, list(images), lambda count, total: None)
            if precision == "int8"
            else graph
        )
        openvino_export.write_graph(converted, file, halves=precision == "bf16")

    def load(self, file: Path, precision: str) -> Callable[[torch.Tensor], torch.Tensor]:
        from breedlab.serving.engines import OpenVino

        return OpenVino(file, precision).scores


class AddedEngine:
    """A registered engine as the server calls it.

    Args:
        choice: Which it is, and in what it computes.
        file: What `export` wrote.
        settings: The engine's own, if it has any.

    Raises:
        Unusable: If it is not registered here, or does not take the file.
    """

    def __init__(self, choice: Choice, file: Path, settings: Mapping[str, object]) -> None:
        from breedlab.errors import ConfigError
        from breedlab.serving.engines import Unusable

        self.choice = choice
        self._lock = threading.Lock()
        try:
            self._compute = ENGINES.get(choice.engine)(**settings).load(file, choice.precision)
        except ConfigError as error:
            raise Unusable(
                f"{choice.engine} is the engine of a plugin that is not imported here; name it:"
                " plugins=[my_package]"
            ) from error
        except Exception as error:  # whatever the plugin's library raises
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise Unusable(f"{choice.engine} does not take it ({reason})") from error

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        with self._lock:
            scores: torch.Tensor = self._compute(images)
            return scores.float().cpu()

    def split(self) -> list[Compute]:
        return []
