"""The live table of trials; in a pipe, a line when a trial starts, one when it ends, and some on
its way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from rich.live import Live
from rich.table import Table

from breedlab.config import Config
from breedlab.console import console, note, table
from breedlab.training.objective import rank
from breedlab.tuning.trial_log import TrialLog, short, trial_line

LINE_SECONDS = 5.0
"""Seconds between two lines of a running trial: epochs of a cached backbone take milliseconds."""

_SHOWN = 25
"""Rows on the screen; older ones scroll out of the table, the best always stays."""


class TrialTable:
    """A table of what each trial tries, its progress, and its result."""

    def __init__(self, config: Config, paths: list[str]) -> None:
        self._metric, self._mode = config.monitor.metric, config.monitor.mode
        self._epochs, self._folds = config.tuner.max_epochs, config.tuner.folds
        self._paths = paths
        self.rows: dict[int, TrialLog] = {}
        self._title = "Trials"
        self._live: Live | None = None
        self._told: dict[int, float] = {}

    @contextmanager
    def live(self) -> Iterator[None]:
        if not console.is_terminal:
            yield
            return
        with Live(self.table(), console=console, refresh_per_second=4) as self._live:
            yield
        self._live = None

    @property
    def is_live(self) -> bool:
        """Whether there is a table on the screen."""
        return self._live is not None

    def head(self, title: str) -> None:
        """Set the table's title."""
        self._title = title
        self._refresh()

    def started(self, number: int, values: Mapping[str, Any]) -> None:
        row = TrialLog(number, values, "running", None)
        self.show(row)
        self._tell(row)

    def show(self, row: TrialLog) -> None:
        """Show a row that is not final yet."""
        self.rows[row.number] = row
        self._refresh()

    def progressed(self, number: int, epoch: int, value: float) -> None:
        row = replace(self.rows[number], state=f"epoch {epoch}/{self._epochs}", objective=value)
        self.show(row)
        if time.monotonic() - self._told[number] >= LINE_SECONDS:
            self._tell(row)

    def finished(self, row: TrialLog) -> None:
        self.show(row)
        self._tell(row)

    def ended(self) -> int:
        """Return how many trials have ended."""
        return sum(row.state in ("complete", "pruned", "failed") for row in self.rows.values())

    def best(self) -> TrialLog | None:
        """Return the best of the trials that are complete; equal ones rank by their validation
        loss."""
        ranked = [
            (rank(row.objective, row.loss, self._mode), row.number)
            for row in self.rows.values()
            if row.state == "complete" and row.objective is not None
        ]
        return self.rows[min(ranked)[1]] if ranked else None

    def table(self) -> Table:
        best = self.best()
        rows = sorted(self.rows.values(), key=lambda row: row.number)
        newest = rows[-_SHOWN:]
        if best is not None and best not in newest:
            newest = [best, *newest[1:]]
        spans = any(row.interval(self._metric) for row in newest)
        columns = ["", "trial", *self._paths, *self._figures(spans), "state", "seconds", ""]
        return table(self._title, columns, [self._cells(row, best, spans) for row in newest])

    def _cells(self, row: TrialLog, best: TrialLog | None, spans: bool) -> list[str]:
        cells = ["★" if row is best else "", str(row.number)]
        cells += [short(row.values.get(path)) for path in self._paths]
        cells.append("" if row.objective is None else f"{row.objective:.4f}")
        if spans:
            cells.append(row.interval(self._metric))
        seconds = f"{row.seconds:.1f}" if row.seconds else ""
        return [*cells, row.state, seconds, row.reason[:60]]

    def _figures(self, spans: bool) -> list[str]:
        of_folds = f"mean {self._metric}, {self._folds} folds"
        figures = [of_folds if self._folds > 1 else self._metric]
        return [*figures, "95% interval"] if spans else figures

    def _tell(self, row: TrialLog) -> None:
        self._told[row.number] = time.monotonic()
        if self._live is None:
            note(trial_line(row, self._metric))

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self.table())
