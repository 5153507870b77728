"""What the debugger recorded, as far as a report shows it: losses, and one value of some tensors
of each kind."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from breedlab.files import atomic_write_json

Series = list[tuple[float, float]]
"""Values by step: how many training steps had been done, and the value."""

FIGURES = {
    "gradients": ("abs_mean", "mean magnitude of gradients"),
    "weights": ("update", "a step's update over the weight's norm"),
    "relu_activations": ("dead", "dead channels of rectifiers"),
    "bounded_activations": ("saturated", "saturated share of bounded activations"),
}
"""The reduction that is drawn for each of smdebug's collections, and its name in the chart."""

_TENSORS = 24
_STEPS = 60


@dataclass(frozen=True)
class Tensors:
    """What is read of a run's `debug/`.

    Attributes:
        losses: The loss of each saved step by mode.
        saved: By collection, how many tensors and at how many steps of the training they were
            saved.
        figures: By collection and tensor, one reduction over the steps.
        problem: Why nothing could be read, or empty.
    """

    losses: dict[str, Series] = field(default_factory=dict)
    saved: dict[str, tuple[int, int]] = field(default_factory=dict)
    figures: dict[str, dict[str, Series]] = field(default_factory=dict)
    problem: str = ""


_KEPT = "report.json"


def read_tensors(run: Path) -> Tensors:
    """Read a run's recording; return an empty one for a run without one, or if smdebug cannot read
    it."""
    if not (run / "debug").is_dir():
        return Tensors()
    try:
        return _kept(run) or _read(run)
    except Exception as error:  # smdebug's many; a report is worth having without this part
        return Tensors(problem=" ".join(str(error).split()) or repr(error))


def keep(run: Path, tape: Any) -> None:
    """Write the part of a recording that a report shows next to it: importing smdebug and PyTorch
    to open the recording takes seconds.

    Args:
        run: The run directory.
        tape: Its recording, read to its end.
    """
    tree = {"of": _extent(run), **asdict(_shown(tape))}
    atomic_write_json(run / "debug" / _KEPT, tree)


def _kept(run: Path) -> Tensors | None:
    """Return what `keep` wrote; None if it cannot be read, or more has been recorded since."""
    try:
        content = json.loads((run / "debug" / _KEPT).read_text("utf-8"))
        if content.pop("of") != _extent(run):
            return None
        losses = {mode: _series(series) for mode, series in content["losses"].items()}
        saved = {name: (tensors, steps) for name, (tensors, steps) in content["saved"].items()}
        figures = {}
        for collection, by_name in content["figures"].items():
            figures[collection] = {name: _series(series) for name, series in by_name.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Tensors(losses, saved, figures)


def _series(pairs: list[list[Any]]) -> Series:
    return [(int(step), float(value)) for step, value in pairs]


def _extent(run: Path) -> dict[str, int]:
    """Return how many steps each registration has saved."""
    from breedlab.debugging.reader import registrations

    folders = map(Path, registrations(run))
    return {folder.name: len(list(folder.glob("index/*/*.json"))) for folder in folders}


def _read(run: Path) -> Tensors:
    from breedlab.debugging.reader import NothingRecorded, TensorLog, opened

    try:
        return _shown(TensorLog(opened(run)))
    except NothingRecorded:
        return Tensors()


def _shown(tape: Any) -> Tensors:
    from breedlab.debugging.reader import loss_series

    losses: dict[str, Series] = {mode: [*loss_series(tape, mode)] for mode in ("TRAIN", "EVAL")}
    saved, figures = {}, {}
    for collection in FIGURES:
        by_step = tape.saved(collection, "TRAIN")
        names = sorted({name for tensors in by_step.values() for name in tensors})
        if names:
            saved[collection] = (len(names), len(by_step))
            figures[collection] = _figures(tape, collection, names, list(by_step))
    return Tensors({mode: series for mode, series in losses.items() if series}, saved, figures)


def _figures(tape: Any, collection: str, names: list[str], steps: list[int]) -> dict[str, Series]:
    reduction, _ = FIGURES[collection]
    at = [(step, tape.training_step(step)) for step in _spread(steps, _STEPS)]
    series_of = {}
    for name in _spread(names, _TENSORS):
        series = [
            (there, tape.reduction(name, step, reduction))
            for step, there in at
            if name in tape.saved(collection, "TRAIN")[step]
        ]
        if finite := [(there, value) for there, value in series if math.isfinite(value)]:
            series_of[name] = finite
    return series_of


def _spread(items: list[Any], most: int) -> list[Any]:
    """Return at most this many items, evenly spread, including the first and the last."""
    if len(items) <= most:
        return items
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]
