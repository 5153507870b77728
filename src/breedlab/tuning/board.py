"""The live table of trials; in a pipe, a line a trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from rich.live import Live
from rich.table import Table

from breedlab.config import Config
from breedlab.reporting.console import console, note, table
from breedlab.training.objective import better

_SHOWN = 25
"""Rows on the screen; older ones scroll out of the table, the best always stays."""


@dataclass(frozen=True)
class Row:
    """One trial as people see it."""

    number: int
    values: Mapping[str, Any]
    state: str
    objective: float | None
    seconds: float = 0.0
    reason: str = ""


class Board:
    """Shows what each trial tries, how far it is and what came out."""

    def __init__(self, config: Config, paths: list[str]) -> None:
        self._metric, self._mode = config.monitor.metric, config.monitor.mode
        self._epochs = config.tuner.max_epochs
        self._paths = paths
        self.rows: dict[int, Row] = {}
        self.title = "Trials"
        self._live: Live | None = None

    @contextmanager
    def live(self) -> Iterator[None]:
        if not console.is_terminal:
            yield
            return
        with Live(self.table(), console=console, refresh_per_second=4) as self._live:
            yield
        self._live = None

    def started(self, number: int, values: Mapping[str, Any]) -> None:
        self.show(Row(number, values, "running", None))

    def show(self, row: Row) -> None:
        """Puts a row on the screen that is not final yet."""
        self.rows[row.number] = row
        self._refresh()

    def progressed(self, number: int, epoch: int, value: float) -> None:
        self.rows[number] = replace(self.rows[number], state=f"epoch {epoch}/{self._epochs}", objective=value)
        self._refresh()

    def finished(self, row: Row) -> None:
        self.rows[row.number] = row
        self._refresh()
        if self._live is None:
            tried = "  ".join(f"{path}={_short(value)}" for path, value in row.values.items())
            value = "" if row.objective is None else f"  {self._metric} {row.objective:.4f}"
            note(f"trial {row.number} {row.state}  {tried}{value}{f'  ({row.reason})' if row.reason else ''}")

    def best(self) -> Row | None:
        best: Row | None = None
        for row in self.rows.values():
            if row.state == "complete" and row.objective is not None:
                best = row if better(row.objective, best.objective if best else None, self._mode) else best
        return best

    def table(self) -> Table:
        best = self.best()
        rows = sorted(self.rows.values(), key=lambda row: row.number)
        shown = rows[-_SHOWN:] if best is None or best in rows[-_SHOWN:] else [best, *rows[-_SHOWN + 1 :]]
        return table(
            self.title,
            ["", "trial", *self._paths, self._metric, "state", "seconds", ""],
            [
                [
                    "★" if row is best else "",
                    str(row.number),
                    *(_short(row.values.get(path)) for path in self._paths),
                    "" if row.objective is None else f"{row.objective:.4f}",
                    row.state,
                    f"{row.seconds:.1f}" if row.seconds else "",
                    row.reason[:60],
                ]
                for row in shown
            ],
        )

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self.table())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
