"""The candidates of `tuner.strategy=auto`: what decides the features, and what is tried on the same
features."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from breedlab.config.space import PAIRED, Choices, Space
from breedlab.registry import HEADS

HEAD = "model.head_type"
PASSES_WITH_HEADS = 2
"""This number of the best passes over the images get all heads."""

Values = dict[str, Any]


def count(space: Space) -> int:
    """Return how many candidates there are at most."""
    each, images = len([*heads(space)]), len([*passes(space)])
    return images + min(images, PASSES_WITH_HEADS) * (each - 1)


def passes(space: Space) -> Iterator[Values]:
    """Yield what decides the features, from cheap to expensive: by its position in the lists."""
    axes: list[list[Values]] = []
    for pair in PAIRED:
        lists = {path: _choices(space, path) for path in pair if path in space}
        if lists:
            axes.append(
                [
                    dict(zip(lists, values, strict=True))
                    for values in zip(*lists.values(), strict=True)
                ]
            )
    ranges = [range(len(axis)) for axis in axes]
    for places in sorted(product(*ranges), key=lambda places: (sum(places), places)):
        yield {
            path: value
            for axis, at in zip(axes, places, strict=True)
            for path, value in axis[at].items()
        }


def heads(space: Space) -> Iterator[Values]:
    """Yield what is tried on the same features. A head that is solved has no use for the settings
    of training."""
    paired = {path for pair in PAIRED for path in pair}
    others = {path: _choices(space, path) for path in space if path not in paired and path != HEAD}
    settings = [dict(zip(others, values, strict=True)) for values in product(*others.values())]
    for index, setting in enumerate(settings):
        for head in _choices(space, HEAD) if HEAD in space else [None]:
            if head is None:
                yield setting
            elif index == 0 or not HEADS.get(head).solved:
                yield {HEAD: head, **setting}


def _choices(space: Space, path: str) -> list[Any]:
    dimension = space[path]
    assert isinstance(dimension, Choices), "the rules refuse anything else"
    return [list(value) if isinstance(value, tuple) else value for value in dimension.values]
