"""What cached activations depend on besides the images: the frozen part's numbers, its behavior,
the code."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import nn

from breedlab.models.classifier import Classifier
from breedlab.version import PACKAGE, __version__

_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "simplejpeg")
_OWN_CODE = (
    "data/decode.py",
    "data/gray_scale.py",
    "data/transforms.py",
    "models/boundary.py",
    "models/classifier.py",
    "models/openvino_export.py",
    "training/feature_engines.py",
)
_PLAIN = (bool, int, float, str, bytes, type(None))
_OF_THE_MOMENT = ("training",)


def network_digest(classifier: Classifier) -> str:
    """Return a digest of every frozen tensor, and of everything else in the frozen modules:
    classes, settings, attributes.

    Two networks with the same tensors may compute different things: GoogLeNet's `transform_input`,
    a BatchNorm's `eps`, a convolution's padding are in no state dict.
    """
    digest = hashlib.blake2b(
        repr((classifier.architecture.name, classifier.architecture.tag)).encode()
    )
    for name, tensor in sorted(classifier.frozen_tensors().items()):
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for name, module in sorted(classifier.frozen_modules().items()):
        digest.update(repr((name, behavior(module))).encode())
    return digest.hexdigest()[:32]


def behavior(module: nn.Module) -> list[str]:
    """Return the non-tensor state that determines what a module computes, in a stable order."""
    kind = type(module)
    attributes = {name: value for name, value in vars(module).items() if name not in _OF_THE_MOMENT}
    state = (
        f"{name}={text}"
        for name, value in sorted(attributes.items())
        if (text := _text(value)) is not None
    )
    return [f"{kind.__module__}.{kind.__qualname__}", module.extra_repr(), *state]


@functools.cache
def code_versions() -> dict[str, str]:
    """Return the versions of the libraries that decode images and compute, and a hash of our code
    that does."""
    versions = {"breedlab": __version__}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    code = b"".join((PACKAGE / name).read_bytes() for name in _OWN_CODE)
    return {**versions, "code": hashlib.sha256(code).hexdigest()[:16]}


def _text(value: Any) -> str | None:
    """Return plain data or a function as text; None for anything else, such as tensors and
    submodules."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, tuple | list):
        parts = [_text(part) for part in value]
        return None if None in parts else f"({', '.join(map(str, parts))})"
    if isinstance(value, Mapping):
        pairs = [(repr(key), _text(part)) for key, part in value.items() if isinstance(key, _PLAIN)]
        return (
            None
            if len(pairs) < len(value) or any(part is None for _, part in pairs)
            else repr(sorted(pairs))
        )
    if isinstance(value, functools.partial):
        parts = [_text(value.func), _text(value.args), _text(value.keywords)]
        return None if None in parts else f"partial({parts})"
    name = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{name}" if callable(value) and isinstance(name, str) else None
