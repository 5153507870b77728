"""The curves of a training: for TensorBoard where that is installed, else as a CSV that reports
read as well."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from breedlab import extras
from breedlab.evaluation.figures import rate_ends
from breedlab.evaluation.metrics import is_rate
from breedlab.registry import METRICS
from breedlab.training.objective import interval_names

CURVES = "curves.csv"
"""Lines of `step,name,value`; a resumed run appends, and the last line of a step counts."""


def epoch_intervals(figures: Mapping[str, float], images: int) -> dict[str, float]:
    """Return the ends of the 95% intervals of an epoch's rates on validation, as scalars beside
    them: `interval/top1_low` and `interval/top1_high` of `valid/top1`.

    Args:
        figures: By name; those that are not such rates have none.
        images: Of validation.
    """
    scalars: dict[str, float] = {}
    for name, value in figures.items():
        if ends := rate_ends(name, value, images):
            scalars |= zip(interval_names(name), ends, strict=True)
    return scalars


def add_interval_charts(writer: Any, names: Iterable[str]) -> None:
    """Have TensorBoard draw rates on validation with their intervals as bands, in its tab Custom
    Scalars.

    Args:
        writer: Of the events.
        names: Of scalars; those without an interval are left out.
    """
    charts = {
        METRICS.get(short).title: ["Margin", [name, *interval_names(name)]]
        for name in names
        if is_rate(short := name.removeprefix("valid/"))
    }
    if charts:
        writer.add_custom_scalars({"validation, with 95% intervals": charts})


class EventCurves(TensorBoardLogger):
    """Lightning's logger, with charts of those metrics that have intervals."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="", version="final", default_hp_metric=False)
        self._has_charts = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if not self._has_charts and any(name.startswith("interval/") for name in metrics):
            add_interval_charts(self.experiment, metrics)
            self._has_charts = True
        super().log_metrics(metrics, step)


def curve_logger(folder: Path, events: bool = True) -> Logger:
    """Return what logs a run's curves below a folder, in `final`.

    Args:
        folder: Where to.
        events: Whether as events of TensorBoard, if that is installed.
    """
    if events and extras.has("tensorboard"):
        return EventCurves(folder)
    return CsvCurves(folder / "final" / CURVES)


class CsvCurves(Logger):
    """Append each metric to a CSV.

    Args:
        file: The CSV.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return self._file.parent.name

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: a run has its config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows((step or 0, name, value) for name, value in metrics.items())
