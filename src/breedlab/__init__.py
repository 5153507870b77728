"""breedlab: from a folder of labeled images to a live endpoint, from one config.

What is in `__all__` is the public API; everything else may change without notice. Importing it is
cheap: PyTorch is loaded when something is trained or asked.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from breedlab.moved import keep_old_names
from breedlab.version import __version__ as __version__

if TYPE_CHECKING:
    from breedlab.api import Model, Prediction, Run, load, run
    from breedlab.cli.launch import configure
    from breedlab.config import Config
    from breedlab.errors import BreedlabError

__all__ = [
    "BreedlabError",
    "Config",
    "Model",
    "Prediction",
    "Run",
    "__version__",
    "configure",
    "load",
    "run",
]

_HOMES = {
    "BreedlabError": "breedlab.errors",
    "Config": "breedlab.config",
    "Model": "breedlab.api",
    "Prediction": "breedlab.api",
    "Run": "breedlab.api",
    "configure": "breedlab.cli.launch",
    "load": "breedlab.api",
    "run": "breedlab.api",
}


keep_old_names()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'breedlab' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
