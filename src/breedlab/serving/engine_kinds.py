"""What an inference engine is: to those that call one, and to those that add one.

The built-in ones are in `engines/`, a file each.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from breedlab.errors import ServingError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from breedlab.config.section import Section as Section
else:
    try:
        from breedlab.config.section import Section
    except ImportError:

        class Section:
            """An endpoint gets by without pydantic: the built-in engines have no settings, and
            plugins bring it along."""

            model_fields: ClassVar[dict[str, Any]] = {}


Compute = Callable[["torch.Tensor"], "torch.Tensor"]
EAGER, OPENVINO = "eager", "openvino"


@dataclass(frozen=True)
class Choice:
    """An engine and the precision that it computes in.

    Attributes:
        engine: `eager`, `openvino`, or the name of a plugin's.
        precision: `fp32`, `bf16` or `int8`.
    """

    engine: str
    precision: str

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"


MODULE = Choice(EAGER, "fp32")
"""The network as it was trained and tested."""


class Unusable(ServingError):
    """An engine cannot run here. Its text says why."""

    code = "BL509"


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


class EngineKind(Section):
    """An inference engine that computes by a file of its own, which travels in the archive.

    Attributes:
        precisions: The precisions that it computes in: `fp32`, `bf16` or `int8`.
        requirements: Packages that an endpoint needs for it, as lines of a requirements file.
        suffix: Of the file's name.
    """

    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    requirements: ClassVar[tuple[str, ...]] = ()
    suffix: ClassVar[str] = ".bin"

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
    def load(self, file: Path, precision: str) -> Compute:
        """Return what computes float32 numbers of uint8 images, both on the CPU. Only one call is
        made at a time."""

    def engine(self, choice: Choice, file: Path) -> Engine:
        """Return the engine of a file; by default, calls of what `load` returns, one at a time.

        Args:
            choice: Its registered name, and the precision of the file.
            file: What `export` wrote.
        """
        return _OneAtATime(choice, self.load(file, choice.precision))

    @classmethod
    def needs(cls) -> tuple[str, ...]:
        """Return the packages that an endpoint needs for a file that is exported here; by default
        `requirements`."""
        return cls.requirements


class _OneAtATime:
    """An engine of one function, which a lock protects."""

    def __init__(self, choice: Choice, compute: Compute) -> None:
        self.choice = choice
        self._compute = compute
        self._lock = threading.Lock()

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        with self._lock:
            return self._compute(images).float().cpu()

    def split(self) -> list[Compute]:
        return []
