"""What the charts share: colors, heights, and how a chart becomes a plain mapping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
from altair.utils.schemapi import debug_mode

from breedlab.evaluation.metrics import is_percent

Spec = dict[str, Any]
"""A Vega-Lite chart."""

INK, SOFT, GRID, ACCENT, GOOD, BAD, PANEL = (
    f"var(--{name})" for name in ("ink", "soft", "grid", "accent", "good", "bad", "panel")
)
SERIES = [f"var(--c{number})" for number in range(1, 9)]
"""Colors for unordered values, distinct in light and dark mode."""

SCALE = [f"var(--s{number})" for number in range(1, 6)]
"""Colors for ordered values, lowest first."""

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


def config() -> Spec:
    """Return Vega-Lite's config, which a page has once."""
    text = {
        "labelColor": SOFT,
        "titleColor": SOFT,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": 500,
    }
    return {
        "font": _FONT,
        "background": "transparent",
        "padding": 4,
        "view": {"stroke": None},
        "axis": {
            **text,
            "gridColor": GRID,
            "domainColor": GRID,
            "tickColor": GRID,
            "labelLimit": 190,
        },
        "axisX": {"labelFlush": True, "labelOverlap": "parity", "labelSeparation": 6},
        "legend": {
            **text,
            "orient": "top",
            "title": None,
            "symbolSize": 90,
            "offset": 4,
            "labelLimit": 260,
            "symbolOpacity": 1,
        },
        "text": {"color": INK, "fontSize": 11},
        "line": {"strokeWidth": 2},
    }


def finish(chart: Any, height: int, description: str) -> Spec:
    """Return a chart as wide as its container; the description is for screen readers."""
    chart = chart.properties(width="container", height=height, description=description)
    # Checking each chart against the schema takes as long as all the rest; the tests do it.
    spec: Spec = chart.to_dict(validate=False)
    for key in ("config", "$schema"):  # the page's own, once
        spec.pop(key, None)
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    spec["datasets"] = {}
    for part in (spec, *spec.get("layer", [])):
        if "data" in part:
            table = part["data"]["values"].rows
            part["data"] = {"name": _stored(table, spec["datasets"])}
    return spec


def _stored(values: list[Any], datasets: dict[str, list[Any]]) -> str:
    """Store a chart's data table and return its name: data that several layers share is written
    once."""
    stored = next((name for name, table in datasets.items() if table == values), None)
    name = stored or f"table{len(datasets) + 1}"
    datasets[name] = values
    return name


def legend(labels: Sequence[str]) -> alt.Legend:
    """Return a legend above the chart, in as many columns as there is room for."""
    each = 34 + 7 * max((len(label) for label in labels), default=0)
    # Not by the chart's width, which the legend's own size changes; it is in the expression so that
    # Vega evaluates it again when the width changes.
    return alt.Legend(
        columns=alt.ExprRef(f"max(1, floor((containerSize()[0] - 50 + 0 * width) / {each}))")
    )


def form(metric: str) -> str:
    """Return an axis's number format: rates in percent, losses as they are."""
    return ".0%" if is_percent(metric) else "~g"


@dataclass(frozen=True)
class _Table:
    """Rows that Altair passes on as they are: it would copy each cell with every layer and property
    of a chart, and check each row against the schema, which accepts any."""

    rows: list[dict[str, Any]]


def data(rows: Sequence[dict[str, Any]]) -> alt.Data:
    with debug_mode(False):
        return alt.Data(values=_Table(list(rows)))  # type: ignore[no-untyped-call]


def short(value: Any, digits: int = 4) -> Any:
    """Round a value to the digits that a chart can show; None for infinity and NaN, which JSON does
    not have."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value
