"""The architecture that a config describes."""

from __future__ import annotations

from breedlab.config import Config
from breedlab.data.transforms import EvalTransform
from breedlab.models.classifier import MLP, Architecture
from breedlab.models.heads import Head
from breedlab.registry import HEADS


def is_solved(config: Config) -> bool:
    """Return whether a config's head is fitted by a solver."""
    head: Head = HEADS.chosen(config.model)
    return head.solved


def architecture(
    config: Config, evaluation: EvalTransform, classes: int, tag: str = ""
) -> Architecture:
    """Return the architecture of a config's classifier.

    Args:
        config: The experiment.
        evaluation: What images go through before it.
        classes: Number of classes.
        tag: The weights of timm for which the network was built.
    """
    head = HEADS.chosen(config.model)
    return Architecture(
        name=config.model.name,
        classes=classes,
        head=() if head.one_layer else tuple(config.model.head),
        dropout=0.0 if head.solved else config.model.dropout,
        mean=evaluation.mean,
        std=evaluation.std,
        tag=tag,
        head_type=MLP if head.one_layer else config.model.head_type,
        head_settings={} if head.one_layer else head.model_dump(mode="json"),
    )
