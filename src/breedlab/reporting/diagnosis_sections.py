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
    """The verdicts, what fired first."""
    order = {"triggered": 0, "passed": 1, "not_enough_data": 2}
    found = sorted(run.verdicts, key=lambda verdict: order.get(verdict.get("verdict", ""), 3))
    shown = [
        {
            **verdict,
            "link": str(verdict.get("link", "")).removeprefix("report.html"),
            "shown": figures(verdict.get("figures", {})),
            "steps": ", ".join(map(figure, verdict.get("steps", [])[:12])),
            "more_steps": max(0, len(verdict.get("steps", [])) - 12),
            "tensors": verdict.get("tensors", [])[:6],
            "more_tensors": max(0, len(verdict.get("tensors", [])) - 6),
        }
        for verdict in found
    ]
    groups = {
        kind: [verdict for verdict in shown if verdict.get("verdict") == kind] for kind in order
    }
    wanted = [part for part in ("debugger", "profiler") if asked(run, part) != "none"]
    return {"groups": groups, "count": len(found), "wanted": wanted}


def figures(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a result's measurements in the units that end their names; mappings and lists become
    one line."""
    texts = []
    for name, value in found.items():
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
    """A figure's name without its unit, and the unit as people write it; shares are told in
    percent."""
    if "share" in name:
        return name, "share"
    if "_percent_" in name:  # what follows says of which samples
        return name.replace("_percent_", "_"), "%"
    ending = next((end for end in _UNITS if name.endswith(end)), "")
    return name.removesuffix(ending), _UNITS.get(ending, "")


def _with(unit: str, value: Any) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return figure(value)
    return f"{value:.1%}" if unit == "share" else f"{figure(value)}{unit}"


def profile(run: RunRecord) -> Section:
    """Time lines and steps."""
    found = run.profile
    return {
        "time_lines": profile_charts.time_lines(found.system),
        "stages": [(name, start, end) for name, start, end in profile_charts.stages(found.system)],
        "seconds": float(found.system.t[-1]) if len(found.system.t) else 0.0,
        "steps": profile_charts.step_parts(found),
        "ceiling": profile_charts.ceiling(found),
        "slowest": float(found.steps.total_ms.max()) if len(found.steps.step) else 0.0,
        "shares": profile_charts.shares(found),
        "operators": found.operators[:25],
        "on_gpu": any(row["gpu_ms"] for row in found.operators),
        "traces": [path.name for path in found.traces],
        "wanted": asked(run, "profiler") != "none",
    }


def debug(run: RunRecord) -> Section:
    """What the debugger's hook saved."""
    tensors = run.tensors
    return {
        "losses": {mode: len(series) for mode, series in tensors.losses.items()},
        "saved": tensors.saved,
        "charts": debug_charts.reductions(tensors),
        "problem": tensors.problem,
        "wanted": asked(run, "debugger") != "none",
    }
