"""The table of a grid (`-m`): which run it calls the best."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from breedlab.pipeline.grid import GridSummary, best_rows


def row(best: float, loss: float | None, test: float, **more: Any) -> dict[str, Any]:
    return {
        "metric": "valid/top1",
        "mode": "max",
        "best": best,
        "valid/loss": loss,
        "test/top1": test,
        **more,
    }


def test_the_best_run_is_chosen_by_validation_and_never_by_test() -> None:
    assert best_rows([row(0.8, 0.5, 0.99), row(0.9, 0.7, 0.5), {"error": "failed"}]) == [1]


def test_equal_runs_rank_by_their_validation_loss() -> None:
    assert best_rows([row(0.9, 0.5, 0.8), row(0.9, 0.4, 0.7), row(0.9, None, 0.9)]) == [1]
    assert best_rows([row(0.9, 0.4, 0.8), row(0.9, 0.4, 0.7)]) == [0, 1]


def test_where_lower_is_better_the_lowest_is_the_best() -> None:
    rows = [
        {"metric": "valid/loss", "mode": "min", "best": b, "valid/loss": b, "test/top1": b}
        for b in (0.9, 0.2)
    ]
    assert best_rows(rows) == [1]


def test_runs_that_watch_different_metrics_have_no_best() -> None:
    other = {
        "metric": "valid/loss",
        "mode": "min",
        "best": 0.1,
        "valid/loss": 0.1,
        "test/top1": 1.0,
    }
    assert best_rows([row(0.9, 0.4, 0.8), other]) == []


def test_the_star_stands_beside_the_best_on_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = GridSummary()
    config = SimpleNamespace(
        hydra=SimpleNamespace(sweep=SimpleNamespace(dir=str(tmp_path / "grids" / "now")))
    )
    summary.on_multirun_start(config)
    for name, result in {
        "one": row(0.8, 0.5, 0.99, run="r1"),
        "two": row(0.9, 0.7, 0.5, run="r2"),
    }.items():
        overrides = ["experiment=quickstart", name]
        summary.on_job_end(config, SimpleNamespace(overrides=overrides, return_value=result))
    summary.on_multirun_end(config)
    out = capsys.readouterr().out
    (starred,) = [line for line in out.splitlines() if "★" in line and "Grid" not in line]
    assert "two" in starred and "0.9000" in starred
    assert "quickstart" not in out, "what all runs share tells them not apart"
    kept = json.loads((tmp_path / "grids" / "now" / "summary.json").read_text())
    assert [each["overrides"] for each in kept] == [
        "experiment=quickstart one",
        "experiment=quickstart two",
    ]
