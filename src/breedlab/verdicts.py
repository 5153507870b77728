"""What a rule of the profiler or the debugger found, and the file that such findings are kept
in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from breedlab.files import atomic_write_json
from breedlab.names import counted

PASSED, TRIGGERED, NOT_ENOUGH = "passed", "triggered", "not_enough_data"


@dataclass(frozen=True)
class Verdict:
    """What a rule found.

    Attributes:
        rule: Its name.
        verdict: `passed`, `triggered` or `not_enough_data`.
        figures: What it looked at, by a name with its unit.
        meaning: What that usually means, or why there was not enough to judge.
        advice: What to try; empty where nothing is wrong.
        mode: `TRAIN` or `EVAL`: when what it looked at was recorded.
        steps: The training's steps at which it fired.
        tensors: The tensors that made it fire.
        link: The plot of the report that shows it.
    """

    rule: str
    verdict: str
    figures: Mapping[str, Any]
    meaning: str
    advice: str = ""
    mode: str = "TRAIN"
    steps: list[int] = field(default_factory=list)
    tensors: list[str] = field(default_factory=list)
    link: str = "report.html#profile"


@dataclass(frozen=True)
class Finding:
    """What a rule of one class found.

    Attributes:
        fired: Whether its condition holds.
        metrics: What it looked at, by a name with its unit.
        tensors: The tensors that made it fire.
        steps: The training's steps at which it fired, where a profiler rule knows them.
        meaning: Of a profiler rule, what it means this time, where its own words do not say it all.
    """

    fired: bool
    metrics: Mapping[str, Any] = field(default_factory=dict)
    tensors: Sequence[str] = ()
    steps: Sequence[int] = ()
    meaning: str = ""


class NotEnough(Exception):
    """There is too little to judge; says what is missing."""


def write_verdicts(path: Path, verdicts: Sequence[Verdict]) -> None:
    atomic_write_json(path, [asdict(verdict) for verdict in verdicts], indent=1)


def triggered(verdicts: Sequence[Verdict]) -> str:
    """Return how many rules fired and which, as text."""
    fired = [verdict.rule for verdict in verdicts if verdict.verdict == TRIGGERED]
    count = f"{counted(len(fired), 'rule')} triggered"
    return f"{count}: {', '.join(fired)}" if fired else count
