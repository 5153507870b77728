"""Time lines of the machine, and where the training's steps spent their time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np

from breedlab.profiling.reading import Figures, Recording, System
from breedlab.reporting.charts.theme import GRID, SERIES, Spec, data, finish, legend, short

_POINTS = 240
"""Samples that a time line can show; more are averaged, with their least and most as a band."""

_COLUMNS = 80
"""Columns of the steps' chart; more steps are averaged."""


def time_lines(system: System) -> dict[str, Spec]:
    """Return one chart per recorded quantity, by title."""
    if not len(system.t):
        return {}
    cpu = {f"core {number}": system.cpu[:, number] for number in range(system.cpu.shape[1])}
    if len(cpu) > 4:
        cpu = {
            "busiest core": system.cpu.max(1),
            "mean": system.cpu.mean(1),
            "idlest core": system.cpu.min(1),
        }
    gpus = range(system.gpu.shape[1])
    charts = {
        "CPU": _lines(system, cpu, "percent", [0, 100]),
        "Memory": _lines(
            system, {"machine": system.memory_gb, "this run": system.process_memory_gb}, "GB"
        ),
        "GPU": _lines(system, {f"GPU {n}": system.gpu[:, n] for n in gpus}, "percent", [0, 100]),
        "GPU memory": _lines(system, {f"GPU {n}": system.gpu_memory_gb[:, n] for n in gpus}, "GB"),
        "Disk": _lines(
            system, {"read": system.disk_read_mb_s, "written": system.disk_write_mb_s}, "MB/s"
        ),
        "Network": _lines(system, {"in": system.net_in_mb_s, "out": system.net_out_mb_s}, "MB/s"),
    }
    return {title: chart for title, chart in charts.items() if chart is not None}


def stages(system: System) -> list[tuple[str, float, float]]:
    """Return each stage of the run with the seconds at which it began and ended."""
    spans: list[tuple[str, float, float]] = []
    for at, name in zip(system.t.tolist(), system.stage, strict=True):
        if spans and spans[-1][0] == name:
            spans[-1] = (name, spans[-1][1], at)
        else:
            spans.append((name, spans[-1][2] if spans else 0.0, at))
    return [(name or "start", start, end) for name, start, end in spans]


def _lines(
    system: System, series: Mapping[str, Figures], unit: str, domain: list[float] | None = None
) -> Spec | None:
    if not series:
        return None
    parts = np.array_split(np.arange(len(system.t)), min(_POINTS, len(system.t)))
    rows = [
        {
            "t": short(float(system.t[part].mean())),
            "value": short(float(values[part].mean())),
            "low": short(float(values[part].min())),
            "high": short(float(values[part].max())),
            "which": name,
        }
        for name, values in series.items()
        for part in parts
    ]
    scale = alt.Scale(domain=domain) if domain else alt.Scale(zero=True)
    seconds = float(system.t[-1])
    x = alt.X(
        "t:Q",
        title="seconds of the run",
        scale=alt.Scale(domain=[0, seconds], nice=False),
        axis=alt.Axis(grid=False, tickCount=8),
    )
    y = alt.Y("value:Q", title=unit, scale=scale, axis=alt.Axis(tickCount=4))
    color = alt.Color(
        "which:N",
        scale=alt.Scale(domain=list(series), range=SERIES),
        legend=legend(list(series)) if len(series) > 1 else None,
    )
    base = alt.Chart(data(rows)).encode(x=x, color=color)
    layers: list[Any] = []
    starts = [{"t": short(start)} for _, start, _ in stages(system)[1:]]
    if starts:
        layers.append(
            alt.Chart(data(starts)).mark_rule(color=GRID, strokeWidth=1.5).encode(x=alt.X("t:Q"))
        )
    if len(system.t) > _POINTS:
        layers.append(
            base.mark_area(opacity=0.18, line=False).encode(
                y=alt.Y("low:Q", title=unit), y2=alt.Y2("high:Q")
            )
        )
    tooltip = [
        alt.Tooltip("which:N", title="which"),
        alt.Tooltip("t:Q", title="second", format=",.0f"),
        alt.Tooltip("value:Q", title=unit, format=",.4~g"),
    ]
    layers.append(base.mark_line(strokeWidth=1.5, clip=True).encode(y=y, tooltip=tooltip))
    return finish(
        alt.layer(*layers), 120, f"{', '.join(series)} in {unit} over {seconds:.0f} seconds"
    )


def columns(recording: Recording) -> list[Figures]:
    """Return the indices of neighboring steps that share a column of the steps' chart."""
    count = len(recording.steps.step)
    return np.array_split(np.arange(count), min(_COLUMNS, count)) if count else []


def ceiling(recording: Recording) -> float | None:
    """Return the milliseconds above which columns are cut off, if a few would dwarf all others;
    else None."""
    heights = np.array([recording.steps.total_ms[group].mean() for group in columns(recording)])
    if len(heights) < 10:
        return None
    usual = float(np.percentile(heights, 90))
    return 2 * usual if heights.max() > 4 * usual else None


def step_parts(recording: Recording) -> Spec | None:
    """Chart the milliseconds of each step by part, in columns of neighboring steps."""
    steps, groups = recording.steps, columns(recording)
    if not groups:
        return None
    top = ceiling(recording)
    names = [name for name, values in steps.parts.items() if values.sum() > 0]
    rows = [
        {
            "from": int(steps.step[group[0]]) - 1,
            "to": int(steps.step[group[-1]]),
            "part": name,
            "ms": short(float(steps.parts[name][group].mean())),
            "at": order,
        }
        for order, name in enumerate(names)
        for group in groups
    ]
    chart = (
        alt.Chart(data(rows))
        .mark_bar(clip=True)
        .encode(
            x=alt.X(
                "from:Q",
                bin="binned",
                title="steps",
                scale=alt.Scale(domain=[rows[0]["from"], rows[-1]["to"]], nice=False),
                axis=alt.Axis(tickMinStep=1, grid=False),
            ),
            x2=alt.X2("to:Q"),
            y=alt.Y(
                "ms:Q",
                title="ms a step",
                stack="zero",
                axis=alt.Axis(tickCount=5),
                scale=alt.Scale(domain=[0, top]) if top else alt.Scale(),
            ),
            color=alt.Color(
                "part:N", scale=alt.Scale(domain=names, range=SERIES), legend=legend(names)
            ),
            order=alt.Order("at:Q"),
            tooltip=[
                alt.Tooltip("part:N", title="part"),
                alt.Tooltip("to:Q", title="step", format=",.0f"),
                alt.Tooltip("ms:Q", title="ms", format=",.3~g"),
            ],
        )
    )
    return finish(chart, 220, f"milliseconds by part of {len(steps.step)} steps")


def shares(recording: Recording) -> list[dict[str, Any]]:
    """Return the seconds of training by part, inside and outside steps."""
    inside, outside = recording.framework.get("inside", {}), recording.framework.get("outside", {})
    total = sum(inside.values()) + sum(outside.values())
    return [
        {
            "part": part,
            "inside": float(inside.get(part, 0.0)),
            "outside": float(outside.get(part, 0.0)),
            "share": (inside.get(part, 0.0) + outside.get(part, 0.0)) / total,
        }
        for part in inside
        if total
    ]
