"""A trial as people see it: a row of the table, and the line that is its row where there is no
screen.

What follows a job reads the line back: a search inside a job has no other way to tell of its
trials.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from breedlab.evaluation.statistics import fold_span, span_text

_LINE = re.compile(r"\btrial (\d+) (running|complete|pruned|failed|cut off|epoch \d+/\d+)(  .*)?$")


@dataclass(frozen=True)
class TrialLog:
    """One trial.

    Attributes:
        number: Counted from 0.
        values: What it tries, by config path.
        state: `running`, `epoch 2/5`, `complete`, `pruned`, `failed`; `cut off` where another trial
            runs it again.
        objective: The best value of the monitored metric so far, None if there is none yet.
        seconds: Its duration, 0 if it is not known.
        reason: Why it failed or was pruned, else empty.
        loss: The validation loss in the epoch of its objective, None if it is not known.
        folds: With `tuner.folds`, the monitored metric of each fold; the objective is their mean.
        span: Without, the 95% interval of the objective; None if it is not known.
    """

    number: int
    values: Mapping[str, Any]
    state: str
    objective: float | None
    seconds: float = 0.0
    reason: str = ""
    loss: float | None = None
    folds: tuple[float, ...] = ()
    span: tuple[float, float] | None = None

    def interval(self, metric: str) -> str:
        """Return the objective's 95% interval, such as `0.8312 to 0.8710`; empty if it is not
        known."""
        return fold_span(self.folds, metric) or span_text(self.span)


def short(value: Any) -> str:
    """Format a value for the table and the line."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def trial_line(row: TrialLog, metric: str) -> str:
    """Format a row as a line that `read_trial` finds in a log."""
    parts = [f"trial {row.number} {row.state}"]
    parts += [f"{path}={short(value)}" for path, value in row.values.items()]
    parts += [f"{metric} {row.objective:.4f}"] if row.objective is not None else []
    parts += [f"95% {span}"] if (span := row.interval(metric)) else []
    parts += [f"{row.seconds:.1f} s"] if row.seconds else []
    parts += [f"({' '.join(row.reason.split())})"] if row.reason else []
    return "  ".join(parts)


def read_trial(line: str) -> TrialLog | None:
    """Parse a trial's line, with its values as text; None for any other line."""
    match = _LINE.search(line.rstrip())
    if match is None:
        return None
    text, _, reason = (match[3] or "").partition("  (")
    values: dict[str, str] = {}
    objective, seconds, span = None, 0.0, None
    for part in text.split("  ")[1:]:
        if "=" in part:
            path, _, values[path] = part.partition("=")
        elif part.endswith(" s"):
            seconds = float(part.removesuffix(" s"))
        elif part.startswith("95% "):
            low, _, high = part.removeprefix("95% ").partition(" to ")
            span = float(low), float(high)
        else:
            objective = float(part.split()[-1])
    reason = reason.removesuffix(")")
    return TrialLog(int(match[1]), values, match[2], objective, seconds, reason, span=span)
