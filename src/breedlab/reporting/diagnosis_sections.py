"""What the report shows of how training went: verdicts of rules, profile, recorded tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from breedlab.evaluation.figures import (
    figure,
)
from breedlab.reporting.charts import debug as debug_charts
from breedlab.reporting.charts import profile as profile_charts
from breedlab.reporting.record import RunRecord
from breedlab.reporting.sections import Section, asked


def rules(run: RunRecord) -> Section:
    """Return the rules' results, fired ones first."""
    order = {"triggered": 0, "passed": 1, "not_enough_data": 2}
    results = sorted(run.verdicts, key=lambda verdict: order.get(verdict.get("verdict", ""), 3))
    rows = [
        {
            **verdict,
            "link": str(verdict.get("link", "")).removeprefix("report.html"),
            "shown": figures(verdict.get("figures", {})),
            "steps": ", ".join(map(figure, verdict.get("steps", [])[:12])),
            "more_steps": max(0, len(verdict.get("steps", [])) - 12),
            "tensors": verdict.get("tensors", [])[:6],
            "more_tensors": max(0, len(verdict.get("tensors", [])) - 6),
        }
        for verdict in results
    ]
    groups = {}
    for kind in order:
        groups[kind] = [verdict for verdict in rows if verdict.get("verdict") == kind]
    enabled = [part for part in ("debugger", "profiler") if asked(run, part) != "none"]
    return {"groups": groups, "count": len(results), "wanted": enabled}


def figures(measurements: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a result's measurements by name, as text with the units that their names end in;
    mappings and lists become one line."""
    texts = []
    for name, value in measurements.items():
        bare, unit = _unit(name)
        if isinstance(value, Mapping):
            text = ", ".join(f"{key} {_with(unit, item)}" for key, item in value.items())
        elif isinstance(value, list | tuple):
            text = ", ".join(_with(unit, item) for item in value) or "none"
        else:
            text = _with(unit, value)
        texts.append((bare.replace("_", " "), text))
    return texts


_UNITS = {"_percent": "%", "_mb_s": " MB/s", "_gb": " GB", "_ms": " ms", "_s": " s"}


def _unit(name: str) -> tuple[str, str]:
    """Return a measurement's name without its unit, and the unit as text; shares become percent."""
    if "share" in name:
        return name, "share"
    if "_percent_" in name:  # the rest of the name says which samples
        return name.replace("_percent_", "_"), "%"
    ending = next((end for end in _UNITS if name.endswith(end)), "")
    return name.removesuffix(ending), _UNITS.get(ending, "")


def _with(unit: str, value: Any) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return figure(value)
    return f"{value:.1%}" if unit == "share" else f"{figure(value)}{unit}"


def profile(run: RunRecord) -> Section:
    """Time lines and steps."""
    recording = run.profile
    return {
        "time_lines": profile_charts.time_lines(recording.system),
        "stages": [
            (name, start, end) for name, start, end in profile_charts.stages(recording.system)
        ],
        "seconds": float(recording.system.t[-1]) if len(recording.system.t) else 0.0,
        "steps": profile_charts.step_parts(recording),
        "ceiling": profile_charts.ceiling(recording),
        "slowest": float(recording.steps.total_ms.max()) if len(recording.steps.step) else 0.0,
        "shares": profile_charts.shares(recording),
        "operators": recording.operators[:25],
        "on_gpu": any(row["gpu_ms"] for row in recording.operators),
        "traces": [path.name for path in recording.traces],
        "wanted": asked(run, "profiler") != "none",
    }


def debug(run: RunRecord) -> Section:
    """Return a summary of what the debugger's hook saved."""
    tensors = run.tensors
    return {
        "losses": {mode: len(series) for mode, series in tensors.losses.items()},
        "saved": tensors.saved,
        "charts": debug_charts.reductions(tensors),
        "problem": tensors.problem,
        "wanted": asked(run, "debugger") != "none",
    }
