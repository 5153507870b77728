"""The curves of a training: for TensorBoard where that is installed, else as a CSV that reports
read as well."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from breedlab import extras

CURVES = "curves.csv"
"""Lines of `step,name,value`; a resumed run appends, and the last line of a step counts."""


def curve_logger(folder: Path, events: bool = True) -> Logger:
    """Return what logs a run's curves below a folder, in `final`.

    Args:
        folder: Where to.
        events: Whether as events of TensorBoard, if that is installed.
    """
    if events and extras.has("tensorboard"):
        return TensorBoardLogger(folder, name="", version="final", default_hp_metric=False)
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
