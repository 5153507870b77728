"""The table at the end of a grid of runs (`-m`)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from breedlab.files import atomic_write_json


class GridSummary(Callback):
    """Collects what each run of a grid came to; prints and stores the table when the last has ended."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._grid = False
        self._new: list[Path] = []

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        self._grid = True
        folder = Path(config.hydra.sweep.dir)  # grids/<stamp> in runs
        self._new = [place for place in (folder, *folder.parents[:2]) if not place.exists()]

    def on_job_end(self, config: Any, job_return: Any, **_: Any) -> None:
        if self._grid:
            overrides = " ".join(job_return.overrides or [])
            self._rows.append({"overrides": overrides, **(job_return.return_value or {})})

    def on_multirun_end(self, config: Any, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        if all(row.keys() == {"overrides"} for row in self._rows):  # a dry run, of which Hydra has left its config
            (folder / "multirun.yaml").unlink(missing_ok=True)
            for place in self._new:
                with suppress(OSError):  # something else came into it meanwhile
                    place.rmdir()
        if not any("run" in row or "error" in row for row in self._rows):
            return
        from breedlab.reporting.console import console, table

        best = max((row.get("test/top1", -1.0) for row in self._rows), default=-1.0)
        console.print()
        console.print(
            table(
                "Grid",
                ["", "overrides", "test/top1", "test/loss", "run"],
                [
                    [
                        "★" if row.get("test/top1") == best else "",
                        row["overrides"],
                        _figure(row.get("test/top1")),
                        _figure(row.get("test/loss")),
                        row.get("run") or row.get("error", "").partition("\n")[0],
                    ]
                    for row in self._rows
                ],
            )
        )
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_json(folder / "summary.json", self._rows, indent=2)
        console.print(f"\n{folder / 'summary.json'}", markup=False)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
