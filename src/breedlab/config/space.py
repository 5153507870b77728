"""The search space: config paths and what each may be, read from `tuner.space`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

from breedlab.config.components import section_of
from breedlab.config.schema import schema

_RANGE_KEYS = {"low", "high", "log", "step"}
_LEAF_KEYS = _RANGE_KEYS | {"choices"}

VIEWS = ("data.augment", "cache.views")
"""The augmented views of each image that a head trains on."""
PAIRED = (("model.name", "model.weights"), ("data.image_size", "data.resize"), VIEWS)
"""What decides the features that `tuner.strategy=auto` compares. The two lists of a pair go
together, place by place."""


@dataclass(frozen=True)
class Choices:
    """A finite list of values, in the order given."""

    values: tuple[Any, ...]

    def probes(self) -> tuple[Any, ...]:
        """Return values that the field must accept for the whole dimension to be valid."""
        return self.values


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, both included; integers if both ends are.

    `read_dimension` gives the ends the type of the field, however they were typed.
    """

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @property
    def integer(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def probes(self) -> tuple[Any, ...]:
        """Return values that the field must accept for the whole dimension to be valid."""
        return (self.low, self.high)


Dimension = Choices | Range
Space = dict[str, Dimension]


class SpaceError(ValueError):
    """A dimension that means nothing. `path` is its config path."""

    def __init__(self, path: str, value: Any, expected: str) -> None:
        super().__init__(f"{path}: got {value!r}; expected {expected}")
        self.path, self.value, self.expected = path, value, expected


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every (config path, description) in `tuner.space`, whether its keys are nested or
    dotted."""
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and not (value.keys() & _LEAF_KEYS):
            yield from leaves(value, f"{path}.")
        elif value is not None:  # null takes an inherited path out of the search
            yield path, value


def read_dimension(path: str, description: Any) -> Dimension:
    """Convert one description into a dimension.

    Args:
        path: The config path that is searched.
        description: A list of choices, `{choices: [...]}` or `{low:, high:, log:, step:}`.

    Raises:
        SpaceError: If it is none of these or its numbers contradict each other.
    """
    if isinstance(description, Mapping) and set(description) == {"choices"}:
        description = description["choices"]
    if isinstance(description, list | tuple):
        if not description:
            raise SpaceError(path, description, "at least one value")
        # where two networks may have weights of one name
        paired = any(path in pair for pair in PAIRED)
        if len({repr(value) for value in description}) < len(description) and not paired:
            raise SpaceError(path, description, "each value once")
        return Choices(tuple(tuple(v) if isinstance(v, list) else v for v in description))
    if (
        not isinstance(description, Mapping)
        or not {"low", "high"} <= set(description) <= _RANGE_KEYS
    ):
        raise SpaceError(
            path,
            description,
            "a list of choices, or {low: ..., high: ..., log: true|false, step: ...}",
        )
    low, high, log, step = (
        description["low"],
        description["high"],
        description.get("log", False),
        description.get("step"),
    )
    for name, value in (("low", low), ("high", high), ("step", step)):
        if name == "step" and value is None:
            continue
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise SpaceError(f"{path}.{name}", value, "a number")
    if not low < high:
        raise SpaceError(path, dict(description), "low to be less than high")
    if not isinstance(log, bool):
        raise SpaceError(f"{path}.log", log, "true or false")
    if log and low <= 0:
        raise SpaceError(f"{path}.low", low, "a number greater than 0, since log is true")
    kinds = _kinds(path)
    if int in kinds and float not in kinds and isinstance(step, float) and not step.is_integer():
        raise SpaceError(f"{path}.step", step, f"a whole number, since {path} is")
    if step is not None and (step <= 0 or log):
        raise SpaceError(f"{path}.step", step, "a number greater than 0, and log to be false")
    if step is not None and step > high - low:
        raise SpaceError(
            f"{path}.step", step, f"at most {high - low:g}, or low is all that is tried"
        )
    low, high = _as_field(kinds, low), _as_field(kinds, high)
    return Range(low, high, log, None if step is None else _as_field(kinds, step))


def _as_field(kinds: set[type], number: int | float) -> int | float:
    """Return a number of the type that its field has: `mixup` from 0 to 1 takes 0.5, too."""
    if float in kinds:
        return float(number)
    # One that is not whole stays as it is: the field refuses it with its own message.
    return int(number) if int in kinds and float(number).is_integer() else number


def _kinds(path: str) -> set[type]:
    """Return the types that the field at a config path takes, none where there is no such field."""
    annotation: Any = schema()
    for name in path.split("."):
        fields = getattr(annotation, "model_fields", {})
        if name not in fields:
            return set()
        field = fields[name].annotation
        annotation = section_of(field) or field
    return set(_flat(annotation))


def _flat(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for inner in get_args(annotation):
        yield from _flat(inner)


def grid_points(space: Space) -> list[dict[str, Any]]:
    """Return every combination of a space that consists of choices only, the last path varying
    fastest."""
    axes = [dimension.values for dimension in space.values() if isinstance(dimension, Choices)]
    assert len(axes) == len(space), "a grid has choices only; the rules refuse anything else"
    return [dict(zip(space, values, strict=True)) for values in product(*axes)]
