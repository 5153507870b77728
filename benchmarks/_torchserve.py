"""A TorchServe handler around a model of ours: TorchServe copies this file, and runs it in its own
environment.

As TorchServe's own ImageClassifier does it: a batch's images one after the other, by Pillow and
torchvision.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

_FOLDER = Path(os.environ["BREEDLAB_MODEL"])
sys.path[:0] = [str(_FOLDER / "code"), os.environ["BREEDLAB_BENCHMARKS"]]
_loaded: list[Any] = []


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[Any] | None:
    """A batch of requests, an image each; scores of each."""
    import torch
    from _peers import usual_image

    from breedlab.serving.model import Model

    if not _loaded:
        torch.set_num_threads(
            int(Path(context.system_properties["model_dir"], "threads").read_text())
        )
        model = Model(_FOLDER)
        _loaded.extend(
            (model, model.prepare if os.environ["BREEDLAB_DECODER"] == "ours" else usual_image())
        )
    if data is None:
        return None
    model, prepare = _loaded
    images = [prepare(bytes(row.get("body") or row["data"])) for row in data]
    found: list[Any] = model.scores(torch.stack(images)).tolist()
    return found
