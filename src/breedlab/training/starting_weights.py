"""What is said of the weights that a run starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from breedlab.config.sections import Data
from breedlab.models.weights import Loaded
from breedlab.training.loaded_head import matching_head

if TYPE_CHECKING:
    from breedlab.training.context import TrainingContext

_AUTO = {
    "image_size": "crop",
    "interpolation": "interpolation",
    "mean": "mean",
    "resize": "resize",
    "std": "std",
}
"""Settings of `data` that the weights decide unless the config does."""


def describe(context: TrainingContext) -> list[str]:
    """Return lines on the network's input, and on the file of weights if there is one."""
    lines = [_describe_input(context)]
    loaded = context.backbone.loaded
    if loaded is None:
        return lines
    classifier = context.classifier(context.config)
    if matching_head(loaded, context.classes, classifier):
        return [
            *lines,
            f"weights: {loaded.path}, its head too, which tells the same classes apart",
        ]
    prefix = f" under {loaded.prefix}" if loaded.prefix else ""
    reason = _why_no_head(loaded, context.classes)
    return [*lines, f"weights: {loaded.path}{prefix}; {reason}, and the head starts fresh"]


def _describe_input(context: TrainingContext) -> str:
    used, source = context.evaluation, context.backbone.pretraining.source
    mean = ",".join(f"{value:.4g}" for value in used.mean)
    std = ",".join(f"{value:.4g}" for value in used.std)
    line = (
        f"input: resize {used.resize}, crop {used.crop}, {used.interpolation}, mean {mean}, std"
        f" {std}: {source}"
    )
    data: Data = context.config.data
    stated = context.backbone.pretraining
    # A resumed run's config has values where `auto` was.
    set_by_config = [
        f"data.{name}"
        for name, of in _AUTO.items()
        if getattr(data, name) != "auto" and getattr(used, of) != getattr(stated, of)
    ]
    if set_by_config:
        line += f", but for {', '.join(set_by_config)}"
    return line


def _why_no_head(loaded: Loaded, classes: tuple[str, ...]) -> str:
    if not loaded.card:
        if loaded.left_out or loaded.head:
            return "its last layers are left out"
        return "it has no last layers"
    theirs = loaded.card["classes"]
    reason = f"its head of {len(theirs)} classes is left out"
    if theirs == classes:
        return f"{reason}, since model.head differs"
    if len(theirs) == len(classes):
        return f"{reason}, since these are other classes"
    return reason
