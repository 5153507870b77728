"""The candidates of `tuner.strategy=auto`: what decides the features, and what is tried on the same
features."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from breedlab.config.space import PAIRED, VIEWS, Choices, Space
from breedlab.registry import HEADS

HEAD = "model.head_type"
PASSES_WITH_HEADS = 2
"""This number of the best passes over the images get all heads."""

Values = dict[str, Any]


def count(space: Space) -> int:
    """Return how many candidates there are at most."""
    each = len([*heads(space)])
    features = len([*passes(space)]) + len(views(space)) - 1
    return features + min(features, PASSES_WITH_HEADS) * (each - 1)


def passes(space: Space) -> Iterator[Values]:
    """Yield backbones and image sizes, from cheap to expensive: by their position in the lists."""
    axes = [axis for pair in PAIRED if pair != VIEWS and (axis := _together(space, pair))]
    ranges = [range(len(axis)) for axis in axes]
    for places in sorted(product(*ranges), key=lambda places: (sum(places), places)):
        yield {
            path: value
            for axis, at in zip(axes, places, strict=True)
            for path, value in axis[at].items()
        }


def views(space: Space) -> list[Values]:
    """Return which augmented views there may be of each image: first those of all passes, then what
    the best pass also gets. Nothing is varied where there is a single, empty one."""
    return _together(space, VIEWS) or [{}]


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


def _together(space: Space, pair: tuple[str, str]) -> list[Values]:
    """Return what two lists are together, place by place; one of them alone; or nothing."""
    lists = {path: _choices(space, path) for path in pair if path in space}
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def _choices(space: Space, path: str) -> list[Any]:
    dimension = space[path]
    assert isinstance(dimension, Choices), "the rules refuse anything else"
    return [list(value) if isinstance(value, tuple) else value for value in dimension.values]
