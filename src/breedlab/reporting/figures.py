"""Figures in words, the same in the terminal and in the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

METRICS = {
    "top1": "top-1",
    "top5": "top-5",
    "f1": "macro F1",
    "ece": "calibration error",
    "loss": "cross-entropy",
}
"""The figures of a test with the names that people read."""


def shown_metrics(test: Mapping[str, Any]) -> dict[str, str]:
    """Those of `METRICS` that say something of a test, which may be empty: any five classes are the likeliest five."""
    known, few = test.get("metrics", {}), len(test.get("per_class", {})) <= 5
    return {name: shown for name, shown in METRICS.items() if name in known and not (few and name == "top5")}


def metric(name: str, value: float) -> str:
    """A test's figure: shares in percent, the others with three places."""
    return f"{value:.3f}" if name in ("loss", "ece") else f"{value:.1%}"


def figure(value: Any) -> str:
    """A value of a config or a table, short."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(figure(item) for item in value) + "]"
    return str(value)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, hours = round(seconds / 60), seconds / 3600
    return f"{minutes} min" if minutes < 90 else f"{hours:.1f} h"
