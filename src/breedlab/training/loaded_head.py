"""What a file of weights brings besides the backbone: its head, and the run that it comes from."""

from __future__ import annotations

import torch

from breedlab.models.classifier import Classifier
from breedlab.models.weights import Loaded


def matching_head(
    loaded: Loaded | None, classes: tuple[str, ...], classifier: Classifier
) -> dict[str, torch.Tensor]:
    """Return the head in the weights' file if it has the same classes and layers; else an empty
    mapping."""
    if loaded is None or not loaded.card or loaded.card["classes"] != classes:
        return {}
    if _shapes(loaded.head) != _shapes(classifier.head.state_dict()):
        return {}
    return loaded.head


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def parent(loaded: Loaded | None) -> str | None:
    """Return the run that a file of weights says it comes from, for the lineage."""
    run = loaded.card.get("lineage", {}).get("run") if loaded else None
    return f"{loaded.path} (run {run})" if loaded and run else None
