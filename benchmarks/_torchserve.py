"""A TorchServe handler around a model of ours: TorchServe copies this file, and runs it in its own environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

_FOLDER = Path(os.environ["BREEDLAB_MODEL"])
sys.path.insert(0, str(_FOLDER / "code"))
_loaded: list[Any] = []


def handle(data: list[dict[str, Any]] | None, _context: Any) -> list[Any] | None:
    """A batch of requests, a photo each; scores of each."""
    import torch

    from breedlab.serving.handler import Model

    if not _loaded:
        _loaded.append(Model(_FOLDER))
    if data is None:
        return None
    model = _loaded[0]
    photos = [model.prepare(bytes(row.get("body") or row["data"])) for row in data]
    found: list[Any] = model.scores(torch.stack(photos)).tolist()
    return found
