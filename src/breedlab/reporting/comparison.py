"""Compare several runs: differences in their configs, their curves, and their metrics."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from breedlab.config.space import leaves
from breedlab.evaluation.figures import (
    duration,
    figure,
    interval,
    metric,
    rate_interval,
    shown_metrics,
)
from breedlab.evaluation.metrics import titles as metric_titles
from breedlab.evaluation.statistics import span_text
from breedlab.reporting.charts import training as training_charts
from breedlab.reporting.paired_runs import clear_winner, paired
from breedlab.reporting.record import RunRecord
from breedlab.reporting.sections import asked, flat, what

CONTENTS = {
    "summary": "Summary",
    "config": "Config",
    "curves": "Curves",
    "search": "Search",
    "classes": "Classes",
    "rules": "Rules",
    "profile": "Profile",
    "model": "Models",
}

NOT_FINISHED = "not finished"
"""What is shown for a run that has not reached a result."""


def compare(runs: Sequence[RunRecord], paths: Sequence[Path], out: Path) -> dict[str, Any]:
    """Return the contents of the comparison page.

    Args:
        runs: At least two.
        paths: As the user called them, for the commands.
        out: Where the page will be, for the links to each run's own report.
    """
    names = titles(runs)
    return {
        "names": names,
        "runs": [
            {
                "name": name,
                "what": what(run),
                "path": str(path),
                "link": _link(run.path / "report.html", out),
                "seconds": (
                    duration(run.metrics["seconds"]) if "seconds" in run.metrics else NOT_FINISHED
                ),
            }
            for name, run, path in zip(names, runs, paths, strict=True)
        ],
        "figures": figures(runs),
        "paired": paired(runs, names),
        "same_data": _all_same(
            [(run.lineage.get("data") or {}).get("fingerprint") for run in runs]
        ),
        "differences": differences(runs),
        "charts_of": {name: training_charts.compared(runs, names, name) for name in _curves(runs)},
        "searched": searched(runs),
        "classes": classes(runs),
        "rules": verdicts(runs),
        "profile": profile(runs),
        "wanted": {part: _any_asked(runs, part) for part in ("debugger", "profiler")},
    }


def _any_asked(runs: Sequence[RunRecord], part: str) -> bool:
    return any(asked(run, part) != "none" for run in runs)


def _curves(runs: Sequence[RunRecord]) -> list[str]:
    """Return which curves are compared."""
    if any(run.multi_label for run in runs):
        return ["valid/map", "valid/loss", "train/exact", "train/loss"]
    return ["valid/top1", "valid/loss", "train/top1", "train/loss"]


def titles(runs: Sequence[RunRecord]) -> list[str]:
    """Return short names, each unique: only the stamp if the experiment is the same."""
    same = _all_same([run.path.parent for run in runs])
    names = [run.path.name if same else run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _metric_cell(run: RunRecord, name: str, value: float | None) -> str:
    """Return a run's metric with its interval; for a run without it, why it is missing."""
    if value is None:
        return "" if run.test else NOT_FINISHED
    span = interval(name, run.test)
    text = metric(name, value)
    return f"{text} ({span})" if span else text


def figures(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return a row for each metric of the test. Only a top-1 that is better than every other's by a
    test is marked."""
    rows = []
    winner = clear_winner(runs)
    for name, title in metric_titles().items():
        values = [
            run.test["metrics"][name] if name in shown_metrics(run.test) else None for run in runs
        ]
        if any(value is not None for value in values):
            cells = []
            for index, (run, value) in enumerate(zip(runs, values, strict=True)):
                is_best = name in ("top1", "exact") and index == winner
                cells.append((_metric_cell(run, name, value), is_best))
            rows.append({"name": title, "cells": cells})
    images = [figure(run.test["photos"]) if run.test else NOT_FINISHED for run in runs]
    epochs = [
        figure((run.metrics.get("training") or {}).get("epochs", NOT_FINISHED)) for run in runs
    ]
    for title, texts in (("test images", images), ("epochs", epochs)):
        rows.append({"name": title, "cells": [(text, False) for text in texts]})
    return rows


def differences(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Return the config paths whose values differ between runs; values found by a search replace
    the given ones."""
    configs = [{**flat(run.config), **_found(run)} for run in runs]
    rows = []
    for path in sorted({path for config in configs for path in config}):
        values = [config.get(path, "") for config in configs]
        if not _all_same(values):
            rows.append((path, _shorter(values)))
    return rows


def _found(run: RunRecord) -> dict[str, str]:
    """Return the values that a run's search found by config path, or that it is not finished."""
    if _search_is_open(run):
        return {path: NOT_FINISHED for path, _ in leaves(run.config["tuner"].get("space") or {})}
    return flat((run.metrics.get("search") or {}).get("values") or {})


def _search_is_open(run: RunRecord) -> bool:
    """Return whether a run searches and has not finished."""
    return not run.metrics and asked(run, "tuner", "strategy") != "none"


def _shorter(values: list[str]) -> list[str]:
    """Shorten values that a search drew to four digits, if they remain distinct."""
    short = [
        f"{float(text):.4g}" if re.fullmatch(r"-?\d*\.\d{5,}(e-?\d+)?", text) else text
        for text in values
    ]
    return short if len(set(short)) == len(set(values)) else values


def searched(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return a summary of each search."""
    rows = []
    for run in runs:
        best = run.metrics.get("search") or {}
        objective = best.get("objective")
        if objective is not None:
            span = span_text(best.get("interval"))
            text = f"{objective:.4f} ({span})" if span else f"{objective:.4f}"
        else:
            text = NOT_FINISHED if _search_is_open(run) else ""
        rows.append(
            {
                "strategy": (run.config.get("tuner") or {}).get("strategy", ""),
                "trials": len(run.trials),
                "best": text,
                "values": ", ".join(
                    f"{path}={figure(value)}" for path, value in (best.get("values") or {}).items()
                ),
            }
        )
    return rows


def classes(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return the recall of each class in each run, largest difference first."""
    per_class = [run.test.get("per_class", {}) for run in runs]
    rows = []
    for name in dict.fromkeys(name for of_run in per_class for name in of_run):
        recalls = [_recall(of_run[name]) if name in of_run else None for of_run in per_class]
        there = [recall for recall in recalls if recall is not None]
        rows.append(
            {
                "name": name,
                "recalls": recalls,
                "spans": [
                    "" if recall is None else rate_interval(recall, of_run[name]["photos"])
                    for recall, of_run in zip(recalls, per_class, strict=True)
                ],
                "spread": float(np.ptp(there)) if len(there) > 1 else None,
            }
        )
    return sorted(rows, key=lambda row: (-(row["spread"] or 0), row["name"]))


def _recall(own: Mapping[str, Any]) -> float | None:
    """Return a class's recall; None if no test image is of it."""
    if not own["photos"]:
        return None
    return float(own["recall"] if "recall" in own else own["top1"])


def verdicts(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Return each rule's result in each run."""
    results: dict[str, list[str]] = {}
    for index, run in enumerate(runs):
        for verdict in run.verdicts:
            row = results.setdefault(verdict["rule"], [""] * len(runs))
            row[index] = verdict["verdict"]
    return list(results.items())


def profile(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Return the headline results of each recording."""
    rows: dict[str, list[str]] = {
        "CPU, mean": [],
        "GPU, mean": [],
        "memory of the run, most": [],
        "a step, median": [],
    }
    for run in runs:
        system, steps = run.profile.system, run.profile.steps.total_ms
        rows["CPU, mean"].append(f"{system.cpu.mean():.0f}%" if system.cpu.size else "")
        rows["GPU, mean"].append(f"{system.gpu.mean():.0f}%" if system.gpu.size else "")
        rows["memory of the run, most"].append(
            f"{system.process_memory_gb.max():.1f} GB" if len(system.t) else ""
        )
        rows["a step, median"].append(f"{np.median(steps):.3g} ms" if len(steps) else "")
    return [(name, texts) for name, texts in rows.items() if any(texts)]


def _all_same(values: Sequence[Any]) -> bool:
    return all(value == values[0] for value in values)


def _link(report: Path, out: Path) -> str | None:
    """Return a relative link from the page to another report, if there is one."""
    return os.path.relpath(report, out.resolve().parent) if report.is_file() else None
