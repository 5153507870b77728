"""The end of a run in the terminal: metrics, the worst confusions, and where everything is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from breedlab import extras
from breedlab.commands import command
from breedlab.console import console, table
from breedlab.evaluation.figures import (
    RIGHTNESS,
    agreement,
    calibration_before,
    chance,
    interval,
    metric,
    rate,
    shown_metrics,
    speedup,
)


def show(run: Path, metrics: Mapping[str, Any]) -> None:
    """Print the metrics of a finished run and what to do next with it."""
    test, search = metrics["test"], metrics["search"]
    console.print()
    console.print(metrics_table("Test", test))
    if search:
        console.print()
        values = [[path, str(value)] for path, value in search["values"].items()]
        console.print(
            table(f"Best of the search: trial {search['trial']}", ["config path", "value"], values)
        )
    if again := (metrics.get("training") or {}).get("refit"):
        console.print(
            f"of the model refit on train and validation ({again['photos']:,} images)", markup=False
        )
    if test["worst"]:
        console.print()
        console.print(confusions_table(test))
    if test.get("multi_label"):
        console.print()
        console.print(labels_table(test))
    console.print()
    for title, text in (
        ("run", str(run)),
        ("model", str(run / "model.tar.gz")),
        ("predict", command("predict", run, "IMAGE...")),
        ("report", str(run / "report.html") if extras.has("report") else ""),
        ("review", f"tensorboard --logdir {run.parent}" if extras.has("tensorboard") else ""),
    ):
        if not text:
            continue
        console.print(f"{title:9}{text}", markup=False)


def metrics_table(title: str, test: Mapping[str, Any]) -> Table:
    """Return the metrics of an evaluation as a table."""
    rows = [
        [label, metric(name, test["metrics"][name]), interval(name, test)]
        for name, label in shown_metrics(test).items()
    ]
    if calibration := test.get("calibration"):
        title_before = f"  before scaling by temperature {calibration['temperature']:.2f}"
        row = [title_before, *calibration_before(test)]
        names = [*shown_metrics(test)]
        rows.insert(names.index("ece") + 1 if "ece" in names else len(rows), row)
    images = "1 image" if test["photos"] == 1 else f"{test['photos']:,} images"
    guess = chance(test)
    guessing = "" if guess is None else f"; guessing gives {guess:.1%}"
    return table(f"{title}, {images}{guessing}", ["metric", "value", "95% interval"], rows)


def confusions_table(test: Mapping[str, Any], most: int = 5) -> Table:
    """Return the worst confusions by name."""
    rows = [
        [w["truth"], w["taken_for"], f"{w['count']} of {w['of']}"] for w in test["worst"][:most]
    ]
    return table("Worst confusions", ["class", "taken for", "images"], rows)


def labels_table(test: Mapping[str, Any], most: int = 20) -> Table:
    """Return each label of a test with its threshold, the worst first."""
    rated = [(name, own) for name, own in test["per_class"].items() if own["ap"] is not None]
    rows = []
    for name, own in sorted(rated, key=lambda pair: pair[1]["ap"])[:most]:
        low, high = own["ap_interval"]
        rows.append(
            [
                name,
                own["photos"],
                f"{metric('map', own['ap'])} ({metric('map', low)} to {metric('map', high)})",
                f"{own['threshold']:.2f}",
                own["given"],
                rate(own["precision"], own["given"]),
                rate(own["recall"], own["photos"]),
            ]
        )
    columns = ["label", "images", "AP (95% interval)", "threshold", "given", "precision", "recall"]
    unseen = len(test["per_class"]) - len(rated)
    title = "Labels" if len(rated) <= most else f"The {most} hardest of {len(rated)} labels"
    return table(title + (f"; {unseen} without images" if unseen else ""), columns, rows)


def engines_table(export: Mapping[str, Any]) -> Table:
    """Return the export's measurements of each engine as a table."""
    sizes = list(export["candidates"][0]["milliseconds"])
    shares = {"agreement": "agrees", **RIGHTNESS}
    known = [name for name in shares if export["candidates"][0].get(name) is not None]
    module = export["candidates"][0]["milliseconds"]
    rows = []
    for candidate in export["candidates"]:
        times = [
            f"{candidate['milliseconds'][size]:.1f}" if candidate["milliseconds"] else ""
            for size in sizes
        ]
        rows.append(
            [
                f"{candidate['engine']} {candidate['precision']}",
                *times,
                speedup(candidate, module),
                *(agreement(candidate, export, name) for name in known),
                candidate["verdict"],
            ]
        )
    columns = [
        "engine",
        *(f"batch {size}" for size in sizes),
        "speedup",
        *(shares[name] for name in known),
        "",
    ]
    return table("Engines, ms per image", columns, rows)
