"""A run directory read back, typed, for the report. What a run has not written is empty."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from breedlab import extras
from breedlab.config.environment import text_with_values
from breedlab.config.migrations import upgrade
from breedlab.config.plugins import load_plugins
from breedlab.config.yaml_folders import parsed
from breedlab.console import warn
from breedlab.debugging.tensors import Series, Tensors, read_tensors
from breedlab.errors import NotARun
from breedlab.files import why_no_folder
from breedlab.profiling.reading import Recording
from breedlab.profiling.reading import read as read_profile


@dataclass(frozen=True)
class RunRecord:
    """One run.

    Attributes:
        path: Its directory.
        config, overrides, lineage, splits, metrics: The files of those names.
        predictions: Of each test image, or empty: `photos` (paths below the data's root), `labels`,
            `predicted`, `probabilities`, and `losses`, which older versions did not record; of a
            multi-label run lists in each, and `thresholds` instead of `losses`.
        trials: The search, in order.
        confirmed: Its best trials with other seeds: by trial, and by seed, objective, loss, and
            interval.
        curves: Metrics of each epoch by name, such as `valid/loss`, over the steps that had been
            done.
        tensors: The debugger's recording.
        profile: The profiler's recording.
        verdicts: Of the debugger's rules and then the profiler's.
    """

    path: Path
    config: dict[str, Any]
    overrides: list[str]
    lineage: dict[str, Any]
    splits: dict[str, Any]
    metrics: dict[str, Any]
    predictions: dict[str, Any]
    trials: list[dict[str, Any]]
    curves: dict[str, Series]
    tensors: Tensors
    profile: Recording
    verdicts: list[dict[str, Any]]
    confirmed: dict[str, dict[str, list[Any]]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Experiment and stamp."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def classes(self) -> list[str]:
        return list(self.splits.get("classes", []))

    @property
    def multi_label(self) -> bool:
        """Whether its images may have several labels, or none."""
        return bool((self.config.get("data") or {}).get("multi_label"))

    @property
    def validated(self) -> int:
        """The number of its validation images."""
        return len((self.splits.get("photos") or {}).get("valid", []))

    @property
    def folds(self) -> int:
        """The number of folds that its trials were judged by; 0 for its validation images."""
        return max((len(trial.get("folds") or []) for trial in self.trials), default=0)

    @property
    def test(self) -> dict[str, Any]:
        """The metrics of the test split, or an empty mapping."""
        return dict(self.metrics.get("test") or {})

    @cached_property
    def image_root(self) -> Path | None:
        """The folder of the images; None if they are no longer there."""
        roots = [self.lineage.get("data", {}).get("root"), self.splits.get("root")]
        first = [image for images in self.splits.get("photos", {}).values() for image in images[:1]]
        for text in roots:
            root = _with_values(text)
            if root and first and (Path(root) / first[0]).is_file():
                return Path(root)
        return None

    @property
    def photo_root(self) -> Path | None:
        """The old name of `image_root`, for report sections of plugins, until the next release."""
        warnings.warn(
            "photo_root is now image_root; the old name goes with the next release",
            FutureWarning,
            2,
        )
        return self.image_root


def read_run(path: Path, metrics: Mapping[str, Any] | None = None) -> RunRecord:
    """Read a run directory.

    Args:
        path: The directory, or a link to it.
        metrics: What metrics.json is going to hold, while the run is about to end.

    Raises:
        ConfigError: If it is not a run directory.
    """
    run = run_directory(path)
    trials = [_json(file, {}) for file in run.glob("trials/*/trial.json")]
    config = upgrade(_yaml(run / "config.yaml", {}), "run", str(run / "config.yaml"))
    if not all(isinstance(config.get(part), dict) for part in ("monitor", "tuner")):
        raise NotARun(
            f"{run / 'config.yaml'} is damaged; expected the config that the run was started with,"
            " without which it cannot be reported"
        )
    for problem in load_plugins(config.get("plugins")):
        warn(f"{problem.path}: {problem.message}; the report omits what it adds")
    return RunRecord(
        path=run,
        config=config,
        overrides=_yaml(run / "overrides.yaml", []),
        lineage=_json(run / "lineage.json", {}),
        splits=_json(run / "splits.json", {}),
        metrics=dict(metrics) if metrics is not None else _json(run / "metrics.json", {}),
        predictions=_json(run / "predictions.json", {}),
        trials=sorted(
            (trial for trial in trials if isinstance(trial.get("number"), int)),
            key=lambda trial: int(trial["number"]),
        ),
        curves=read_curves(run / "tensorboard" / "final"),
        tensors=read_tensors(run),
        profile=read_profile(run),
        verdicts=[
            *_json(run / "debug" / "verdicts.json", []),
            *_json(run / "profile" / "verdicts.json", []),
        ],
        confirmed=_json(run / "confirmed.json", {}),
    )


def run_directory(path: Path) -> Path:
    """Return a run directory, links followed.

    Raises:
        ConfigError: If it is not a run directory.
    """
    run = path.resolve()
    if not (run / "config.yaml").is_file():
        state = "has no config.yaml" if path.is_dir() else why_no_folder(path)
        raise NotARun(f"{path} {state}; expected a run directory such as runs/<experiment>/<stamp>")
    return run


def read_curves(folder: Path) -> dict[str, Series]:
    """Return the scalars of each epoch that training logged; if a resumed run repeated an epoch,
    the last."""
    if not folder.is_dir():
        return {}
    curves = _csv_curves(folder / "curves.csv")
    if not extras.has("tensorboard"):
        return curves
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # One picture is kept, though none is needed: to this library 0 means all.
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1})
    events.Reload()
    names = [tag for tag in events.Tags()["scalars"] if tag.startswith(("train/", "valid/"))]
    # Lightning counts the steps from 0.
    for name in names:
        logged = {event.step + 1: event.value for event in events.Scalars(name)}
        curves[name] = sorted({**dict(curves.get(name, [])), **logged}.items())
    return curves


def _csv_curves(file: Path) -> dict[str, Series]:
    """Return the curves that a run without TensorBoard logged; see `training.curves`."""
    curves: dict[str, dict[int, float]] = {}
    try:
        lines = list(csv.reader(file.read_text("utf-8").splitlines()))
    except (OSError, UnicodeDecodeError):
        return {}
    # a kill may have cut the last
    for step, name, value in (line for line in lines if len(line) == 3):
        if name.startswith(("train/", "valid/")) and value:
            curves.setdefault(name, {})[int(step) + 1] = float(value)
    return {name: sorted(values.items()) for name, values in curves.items()}


def _with_values(text: str | None) -> str | None:
    """Return the path of the images; None if an environment variable in it is not set."""
    try:
        return text and text_with_values(text)
    except KeyError:
        return None


def _json(path: Path, otherwise: Any) -> Any:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return otherwise
    return content if isinstance(content, type(otherwise)) else otherwise


def _yaml(path: Path, otherwise: Any) -> Any:
    try:
        content = parsed(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return otherwise
    return content if isinstance(content, type(otherwise)) else otherwise
