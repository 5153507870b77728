"""The one line by which a search, here or on SageMaker, reads how well training goes."""

from __future__ import annotations

import re

OBJECTIVE_REGEX = r"objective ([A-Za-z0-9_/]+)=([-+]?[0-9.]+(?:e[-+]?[0-9]+)?);"
"""Finds what `objective_line` prints: the metric's name and its value, signs and exponents included."""


def objective_line(metric: str, best: float) -> str:
    """The line printed each epoch.

    Args:
        metric: The monitored metric, such as `valid/top1`.
        best: Its best value so far.
    """
    return f"objective {metric}={best:.6g};"


def read_objective(line: str) -> tuple[str, float] | None:
    """What an objective line says, or None for any other line."""
    match = re.search(OBJECTIVE_REGEX, line)
    return (match[1], float(match[2])) if match else None


def better(value: float, best: float | None, mode: str) -> bool:
    """Whether `value` beats the best so far under `monitor.mode`."""
    return best is None or (value > best if mode == "max" else value < best)
