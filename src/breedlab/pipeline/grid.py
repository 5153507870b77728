"""The table at the end of a grid of runs (`-m`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from breedlab.files import atomic_write_json
from breedlab.training.objective import rank


class GridSummary(Callback):
    """Collect the result of each run of a grid; print and store the table when the last one has
    ended."""

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
            overrides = [*(job_return.overrides or [])]
            self._rows.append({"overrides": overrides, **(job_return.return_value or {})})

    def on_multirun_end(self, config: Any, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        # after a dry run, remove the config that Hydra left
        if all(row.keys() == {"overrides"} for row in self._rows):
            (folder / "multirun.yaml").unlink(missing_ok=True)
            for place in self._new:
                with suppress(OSError):  # something else was written to it meanwhile
                    place.rmdir()
        if not any("run" in row or "error" in row for row in self._rows):
            return
        from breedlab.console import console, table

        best = best_rows(self._rows)
        metrics = {row["metric"] for row in self._rows if "metric" in row}
        monitored = metrics.pop() if len(metrics) == 1 else "monitored"
        tested = "test/map" if any("test/map" in row for row in self._rows) else "test/top1"
        title = "Grid (★ best on validation)" if best else "Grid"
        differing = what_differs([row["overrides"] for row in self._rows])
        console.print()
        console.print(
            table(
                title,
                ["", "overrides", monitored, tested, "test/loss", "run"],
                [
                    [
                        "★" if index in best else "",
                        differing[index],
                        _figure(row.get("best")),
                        _figure(row.get(tested)),
                        _figure(row.get("test/loss")),
                        row.get("run") or row.get("error", "").partition("\n")[0],
                    ]
                    for index, row in enumerate(self._rows)
                ],
            )
        )
        if len(best) == 1 and (tied := _tied(self._rows, best[0])):
            console.print(
                f"{tied + 1} runs reach the same {monitored}; ★ has the lowest validation loss of"
                " them"
            )
        folder.mkdir(parents=True, exist_ok=True)
        rows = [{**row, "overrides": " ".join(row["overrides"])} for row in self._rows]
        atomic_write_json(folder / "summary.json", rows, indent=2)
        console.print(f"\n{folder / 'summary.json'}", markup=False)


def what_differs(overrides: Sequence[Sequence[str]]) -> list[str]:
    """Return each run's overrides without those that all share."""
    shared = set(overrides[0]).intersection(*overrides) if len(overrides) > 1 else set()
    return [" ".join(word for word in words if word not in shared) for words in overrides]


def best_rows(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the indices of the best rows by validation; several only if they are equal in its
    loss, too.

    The test split has no say: after picking by it, nothing is left to measure how good the pick is.
    Runs that watch different metrics cannot be compared, and none is the best.
    """
    rated = {index: row for index, row in enumerate(rows) if row.get("best") is not None}
    if len({(row["metric"], row["mode"]) for row in rated.values()}) != 1:
        return []
    ranks = {
        index: rank(row["best"], row.get("valid/loss"), row["mode"]) for index, row in rated.items()
    }
    return [index for index, place in ranks.items() if place == min(ranks.values())]


def _tied(rows: Sequence[Mapping[str, Any]], best: int) -> int:
    return len([row for row in rows if row.get("best") == rows[best]["best"]]) - 1


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
