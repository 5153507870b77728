"""`breedlab debug`: what a run's training did, by the debugger's rules."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from breedlab import extras
from breedlab.cli.parser import Parser
from breedlab.errors import NotARun
from breedlab.verdicts import TRIGGERED, Verdict

if TYPE_CHECKING:
    from breedlab.config.debugger import DebuggerRules

_EXIT_CODES = """\
exit codes:
  0  no rule was triggered
  1  at least one was
  2  nothing to check: no run there, or its training was not recorded"""


def main(argv: list[str]) -> int:
    """Judge a recorded run and print what each rule found.

    Raises:
        NotARun: If it is not a run directory.
        NothingRecorded: If there is nothing to judge.
    """
    words = command_parser().parse_args(argv)
    run: str = words.run.rstrip("/")
    if not run.startswith("s3://") and not any(
        Path(run, name).exists() for name in ("config.yaml", "debug")
    ):
        raise NotARun(
            f"{run}: is not a run directory; expected one such as runs/latest, or an s3:// path"
        )

    extras.require("debugger", "checking a run")
    from breedlab.console import progress
    from breedlab.debugging.rule_runner import headline, judge_run

    with progress("checking the recording", aside=True):
        tape, verdicts = judge_run(run, recorded_limits(run))
    if words.json:
        print(json.dumps([asdict(verdict) for verdict in verdicts], indent=2))
    else:
        show(verdicts)
        print(f"\n{headline(tape, verdicts)}")
    return 1 if any(verdict.verdict == TRIGGERED for verdict in verdicts) else 0


def command_parser() -> Parser:
    """Return what reads the command's args."""
    parser = Parser(
        "debug",
        "RUN [--json]",
        description=(
            "Apply the rules to the tensors that the debugger recorded (debugger=losses, default,"
            " or full)."
        ),
        examples=("runs/latest", "s3://bucket/jobs/NAME --json"),
        notes=_EXIT_CODES,
    )
    parser.add_argument("run", metavar="RUN", help="a run directory, or an s3:// path to one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def recorded_limits(run: Path | str) -> DebuggerRules:
    """Return the thresholds in a run's config; the defaults where there is none, as in a folder of
    foreign tensors.

    A rule that is newer than the run has its defaults; all others keep what the run was started
    with.

    Raises:
        ConfigError: If the run's config is damaged, or a newer breedlab wrote it.
    """
    from breedlab.config.debugger import DebuggerRules
    from breedlab.pipeline.rundir import recorded_config

    if not Path(run, "config.yaml").is_file():
        return DebuggerRules()
    return recorded_config(Path(run)).debugger.rules


def show(verdicts: Sequence[Verdict]) -> None:
    """Print a table of all rules, and what the triggered ones mean and what to try."""
    from breedlab.console import console, table

    rows = [
        [verdict.rule, verdict.verdict.replace("_", " "), verdict.mode, _figures(verdict)]
        for verdict in verdicts
    ]
    console.print(table("Rules", ["rule", "verdict", "mode", "figures"], rows))
    for verdict in verdicts:
        if verdict.verdict == TRIGGERED:
            console.print(
                f"\n{verdict.rule}, step {_few(verdict.steps)}: {_few(verdict.tensors)}",
                markup=False,
            )
            console.print(
                f"  {verdict.meaning}\n  {verdict.advice}\n  see {verdict.link}", markup=False
            )


def _figures(verdict: Verdict) -> str:
    if not verdict.figures:
        return verdict.meaning
    return ", ".join(f"{name} {_short(value)}" for name, value in verdict.figures.items())


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return _few(value) if isinstance(value, list) else str(value)


def _few(items: Sequence[object], most: int = 5) -> str:
    if not items:
        return "none"
    return ", ".join(map(str, items[:most])) + (
        f" and {len(items) - most} more" if len(items) > most else ""
    )
