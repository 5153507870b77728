"""The search: every trial, what the good ones have in common, which path mattered."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from breedlab.config.space import (
    Choices,
    Dimension,
    Range,
    Space,
    SpaceError,
    leaves,
    read_dimension,
)
from breedlab.evaluation.figures import figure
from breedlab.reporting.charts.theme import (
    ACCENT,
    BAD,
    GRID,
    INK,
    PANEL,
    SCALE,
    SERIES,
    SOFT,
    Spec,
    data,
    finish,
    form,
    legend,
    short,
)
from breedlab.reporting.record import RunRecord
from breedlab.reporting.search_facts import ranked, trial_interval

_LINES = 300
"""The most trials that are drawn as lines: the best ones."""


def space_of(run: RunRecord) -> Space:
    """Return the space that the run's config names; what cannot be read is left out."""
    space: Space = {}
    for path, description in leaves((run.config.get("tuner") or {}).get("space") or {}):
        try:
            space[path] = read_dimension(path, description)
        except SpaceError:
            continue
    return space


def history(run: RunRecord) -> Spec | None:
    """Chart the objective of each trial in order, and the best so far."""
    best_first = ranked(run)
    if not best_first:
        return None
    better = max if run.config["monitor"]["mode"] == "max" else min
    rows, steps, best = [], [], None
    metric = run.config["monitor"]["metric"]
    for trial in sorted(best_first, key=lambda trial: int(trial["number"])):
        values = ", ".join(f"{path}={figure(value)}" for path, value in trial["values"].items())
        rows.append(
            {
                "trial": trial["number"],
                "value": short(trial["objective"]),
                "state": trial["state"],
                "values": values,
                "interval": trial_interval(run, trial),
            }
        )
        if trial["state"] == "complete":
            best = trial["objective"] if best is None else better(best, trial["objective"])
            steps.append({"trial": trial["number"], "value": short(best)})
    y = alt.Y(
        "value:Q",
        title=metric,
        scale=alt.Scale(zero=False),
        axis=alt.Axis(tickCount=5, format=form(metric)),
    )
    x = alt.X(
        "trial:Q",
        title="trial",
        axis=alt.Axis(tickMinStep=1),
        scale=alt.Scale(nice=False, padding=8),
    )
    line = (
        alt.Chart(data(steps)).mark_line(interpolate="step-after", color=SERIES[1]).encode(x=x, y=y)
    )
    dots = (
        alt.Chart(data(rows))
        .mark_circle(size=60, opacity=0.9)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "state:N",
                scale=alt.Scale(
                    domain=["complete", "pruned", "failed"], range=[SERIES[0], SOFT, BAD]
                ),
            ),
            tooltip=[
                alt.Tooltip("trial:Q", title="trial", format=",.0f"),
                alt.Tooltip("value:Q", title=metric, format=".4f"),
                alt.Tooltip("interval:N", title="95% interval"),
                alt.Tooltip("state:N", title="state"),
                alt.Tooltip("values:N", title="values"),
            ],
        )
    )
    return finish(
        alt.layer(line, dots),
        220,
        f"{metric} of {len(rows)} trials in order, and the best until then",
    )


def parallel(run: RunRecord) -> Spec | None:
    """Chart parallel coordinates: one line per trial, one axis per searched path, colored by the
    objective."""
    trials = ranked(run)[:_LINES]
    space = space_of(run)
    if len(trials) < 2 or not space:
        return None
    metric = run.config["monitor"]["metric"]
    objectives = [float(trial["objective"]) for trial in trials]
    axes: dict[str, Dimension] = {**space, metric: Range(min(objectives), max(objectives))}
    # With many axes there is room only for the last part of a path.
    names = {path: path.rpartition(".")[2] if len(axes) > 4 else path for path in axes}
    rows, labels = [], []
    for order, trial in enumerate(trials):
        values = {**trial["values"], metric: trial["objective"]}
        for place, (path, dimension) in enumerate(axes.items()):
            if path in values:
                rows.append(
                    {
                        "trial": trial["number"],
                        "rank": order,
                        "axis": path,
                        "place": place,
                        "at": short(position(values[path], dimension)),
                        "objective": short(trial["objective"]),
                        "value": figure(values[path]),
                    }
                )
    for path, dimension in axes.items():
        labels += [{"axis": path, "at": at, "text": text} for at, text in _ticks(dimension)]
    best = trials[0]["number"]
    x = alt.X(
        "axis:N",
        title=None,
        scale=alt.Scale(type="point", padding=0.3, domain=list(names)),
        axis=alt.Axis(
            orient="top",
            domain=False,
            ticks=False,
            labelAngle=0,
            labelFontSize=11,
            labelColor=INK,
            labelPadding=10,
            labelLimit=150,
            labelOverlap=False,
            labelExpr=f"{json.dumps(names)}[datum.value]",
        ),
    )
    y = alt.Y("at:Q", axis=None, scale=alt.Scale(domain=[0, 1], padding=6))
    rules = (
        alt.Chart(data([{"axis": path} for path in axes]))
        .mark_rule(color=GRID, strokeWidth=2)
        .encode(x=x)
    )
    ends = [min(objectives), max(objectives)]
    sign = 1 if run.config["monitor"]["mode"] == "max" else -1
    lines = (
        alt.Chart(data(rows))
        .mark_line(strokeWidth=1.6)
        .encode(
            x=x,
            y=y,
            detail=alt.Detail("trial:N"),
            color=alt.Color(
                "objective:Q",
                scale=alt.Scale(type="quantize", domain=ends, range=SCALE[::sign]),
                legend=alt.Legend(
                    title=metric,
                    direction="horizontal",
                    format=".3~g",
                    type="symbol",
                    symbolType="square",
                ),
            ),
            order=alt.Order("place:Q"),
            tooltip=[
                alt.Tooltip("trial:Q", title="trial", format=",.0f"),
                alt.Tooltip("axis:N", title="path"),
                alt.Tooltip("value:N", title="value"),
                alt.Tooltip("objective:Q", title=metric, format=".4f"),
            ],
        )
    )
    thick = lines.transform_filter(alt.datum.trial == best).mark_line(strokeWidth=5)
    texts = alt.Chart(data(labels)).encode(x=x, y=y, text=alt.Text("text:N"))
    style: dict[str, Any] = {"align": "left", "dx": 6, "fontSize": 11}
    halo = texts.mark_text(stroke=PANEL, strokeWidth=4, strokeJoin="round", **style)
    what = (
        f"{len(trials)} trials through {len(axes)} axes; the best, trial {best}, is the thick line"
    )
    return finish(
        alt.layer(rules, lines, thick, halo, texts.mark_text(color=INK, **style)), 300, what
    )


def position(value: Any, dimension: Dimension) -> float:
    """Return where a value is on its axis, 0 to 1."""
    if isinstance(dimension, Choices):
        figures = [figure(choice) for choice in dimension.values]
        number = figure(value)
        if len(figures) < 2:
            return 0.5
        index = figures.index(number) if number in figures else 0
        return index / (len(figures) - 1)
    low, high, at = float(dimension.low), float(dimension.high), float(value)
    if high <= low:
        return 0.5
    if dimension.log:
        low, high, at = math.log(low), math.log(high), math.log(max(at, 1e-300))
    return min(1.0, max(0.0, (at - low) / (high - low)))


def _ticks(dimension: Dimension) -> list[tuple[float, str]]:
    if isinstance(dimension, Choices):
        values = dimension.values
        # Where choices would overlap, only the ends are labeled.
        ticks = values if len(values) <= 16 else (values[0], values[-1])
        return [(position(value, dimension), figure(value)) for value in ticks]
    low, high = float(dimension.low), float(dimension.high)
    if high <= low:
        return [(0.5, figure(low))]
    middle = math.sqrt(low * high) if dimension.log else (low + high) / 2
    return [(position(value, dimension), figure(float(value))) for value in (low, middle, high)]


def importance(shares: Mapping[str, float]) -> Spec | None:
    """Chart the importance of each path for the objective."""
    if not shares:
        return None
    rows = [{"path": path, "share": short(float(share))} for path, share in shares.items()]
    chart = (
        alt.Chart(data(rows))
        .mark_bar(color=ACCENT, cornerRadiusEnd=3)
        .encode(
            x=alt.X("share:Q", title="importance", axis=alt.Axis(format=".0%", tickCount=5)),
            y=alt.Y(
                "path:N",
                title=None,
                sort=list(shares),
                axis=alt.Axis(labelColor=INK, ticks=False, domain=False),
            ),
            tooltip=[
                alt.Tooltip("path:N", title="path"),
                alt.Tooltip("share:Q", title="importance", format=".1%"),
            ],
        )
    )
    return finish(chart, 34 + 26 * len(rows), "importance of each searched path")


def best_and_worst(run: RunRecord) -> Spec | None:
    """Chart the monitored metric by epoch of the best and the worst trial that was completed."""
    complete = [trial for trial in ranked(run) if trial["state"] == "complete"]
    metric = (run.config.get("monitor") or {}).get("metric", "")
    if len(complete) < 2:
        return None
    trials = {
        f"best: trial {complete[0]['number']}": complete[0],
        f"worst: trial {complete[-1]['number']}": complete[-1],
    }
    rows = [
        {"epoch": number + 1, "value": short(float(epoch[metric])), "which": name}
        for name, trial in trials.items()
        for number, epoch in enumerate(trial["epochs"])
        if metric in epoch
    ]
    if not rows:
        return None
    chart = (
        alt.Chart(data(rows))
        .mark_line(point=alt.OverlayMarkDef(size=40))
        .encode(
            x=alt.X(
                "epoch:Q",
                title="epoch",
                axis=alt.Axis(tickMinStep=1, format="d"),
                scale=alt.Scale(zero=False),
            ),
            y=alt.Y(
                "value:Q",
                title=metric,
                scale=alt.Scale(zero=False),
                axis=alt.Axis(tickCount=5, format=form(metric)),
            ),
            color=alt.Color(
                "which:N",
                scale=alt.Scale(domain=list(trials), range=[SERIES[0], SERIES[1]]),
                legend=legend(list(trials)),
            ),
            tooltip=[
                alt.Tooltip("which:N", title="which"),
                alt.Tooltip("epoch:Q", title="epoch"),
                alt.Tooltip("value:Q", title=metric, format=".4f"),
            ],
        )
    )
    return finish(chart, 220, f"{metric} by epoch of the best and the worst trial")


def shown_values(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the paths for which any trial has a value."""
    return list(dict.fromkeys(path for trial in trials for path in trial.get("values", {})))
