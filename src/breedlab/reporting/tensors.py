"""What the debugger recorded, as far as a report shows it: losses, and one figure of some tensors of each kind."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Series = list[tuple[int, float]]
"""Figures by step: how many steps of training had been done, and the value."""

FIGURES = {
    "gradients": ("abs_mean", "mean magnitude of gradients"),
    "weights": ("update", "a step's update over the weight's norm"),
    "relu_activations": ("dead", "dead channels of rectifiers"),
    "bounded_activations": ("saturated", "saturated share of bounded activations"),
}
"""By smdebug's collection the reduction that is drawn, and its name for people."""

_TENSORS = 24
_STEPS = 60


@dataclass(frozen=True)
class Tensors:
    """What is read of a run's `debug/`.

    Attributes:
        losses: The loss of each saved step by mode.
        saved: By collection, how many tensors and at how many steps of the training they were saved.
        figures: By collection and tensor, one reduction over the steps.
        problem: Why nothing could be read, or empty.
    """

    losses: dict[str, Series] = field(default_factory=dict)
    saved: dict[str, tuple[int, int]] = field(default_factory=dict)
    figures: dict[str, dict[str, Series]] = field(default_factory=dict)
    problem: str = ""


def read_tensors(run: Path) -> Tensors:
    """Reads a run's recording; a run without one gives an empty one, and so does one that smdebug cannot read."""
    if not (run / "debug").is_dir():
        return Tensors()
    try:
        return _read(run)
    except Exception as error:  # smdebug's many; a report is worth having without this part
        return Tensors(problem=" ".join(str(error).split()) or repr(error))


def _read(run: Path) -> Tensors:
    from breedlab.debugging.reading import NothingRecorded, Tape, opened

    try:
        tape = Tape(opened(run))
    except NothingRecorded:
        return Tensors()
    losses = {mode: [(entry.at, entry.loss) for entry in tape.losses(mode)] for mode in ("TRAIN", "EVAL")}
    saved, figures = {}, {}
    for collection in FIGURES:
        by_step = tape.saved(collection, "TRAIN")
        names = sorted({name for found in by_step.values() for name in found})
        if names:
            saved[collection] = (len(names), len(by_step))
            figures[collection] = _figures(tape, collection, names, list(by_step))
    return Tensors({mode: series for mode, series in losses.items() if series}, saved, figures)


def _figures(tape: Any, collection: str, names: list[str], steps: list[int]) -> dict[str, Series]:
    reduction, _ = FIGURES[collection]
    at = [(step, tape.training_step(step)) for step in _spread(steps, _STEPS)]
    found = {}
    for name in _spread(names, _TENSORS):
        series = [
            (there, tape.reduction(name, step, reduction))
            for step, there in at
            if name in tape.saved(collection, "TRAIN")[step]
        ]
        if known := [(there, value) for there, value in series if math.isfinite(value)]:
            found[name] = known
    return found


def _spread(items: list[Any], most: int) -> list[Any]:
    """At most so many, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]
