"""The rules over a run's recording: after each epoch while it trains, and as a whole afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from breedlab.config.debugger import DebuggerRules
from breedlab.console import note, warn
from breedlab.debugging.reader import NothingRecorded, TensorLog, class_names, opened
from breedlab.verdicts import TRIGGERED, Verdict, triggered, write_verdicts


def judge(tape: TensorLog, limits: DebuggerRules, classes: Sequence[str] = ()) -> list[Verdict]:
    """Return every rule's verdict, the built-in ones first.

    Args:
        tape: The recording.
        limits: The thresholds.
        classes: The class names by label, where they are known.
    """
    from breedlab.debugging.rules import rules_over

    verdicts = []
    for rule in rules_over(tape, limits, classes):
        rule.catch_up()
        verdicts.append(rule.verdict())
    return verdicts


def judge_run(run: Path | str, limits: DebuggerRules) -> tuple[TensorLog, list[Verdict]]:
    """Return a run's recording, and every rule's verdict.

    Args:
        run: A run directory, or an s3:// path to one.
        limits: The thresholds.

    Raises:
        NothingRecorded: If there is no recording.
    """
    tape = TensorLog(opened(run))
    return tape, judge(tape, limits, class_names(run))


def conclude(run: Path, limits: DebuggerRules) -> None:
    """Apply the rules to a run and print a one-line summary; a failure stops nothing.

    Writes `debug/verdicts.json`, and next to it what a report shows of the recording.
    """
    from breedlab.debugging.tensors import keep

    try:
        tape, verdicts = judge_run(run, limits)
        write_verdicts(run / "debug" / "verdicts.json", verdicts)
        keep(run, tape)
        note(headline(tape, verdicts))
    except NothingRecorded:
        note("debug: nothing recorded")
    except Exception as error:
        warn(
            "the recording could not be judged:"
            f" {' '.join(str(error).split()) or type(error).__name__}"
        )


def headline(tape: TensorLog, verdicts: Sequence[Verdict]) -> str:
    """Return a one-line summary of the recording."""
    counts = [f"{len(tape.losses(mode)):,} losses in {name}" for mode, name in _MODES]
    return f"debug: {', '.join(counts)}; {triggered(verdicts)}"


_MODES = (("TRAIN", "training"), ("EVAL", "validation"))


class RuleRunner:
    """The rules over a recording that still grows.

    Args:
        run: The run directory.
        limits: The thresholds.
    """

    def __init__(self, run: Path, limits: DebuggerRules) -> None:
        from breedlab.debugging.rules import rules_over

        self.tape, classes = TensorLog(opened(run)), class_names(run)
        self.rules = rules_over(self.tape, limits, classes)
        self.reported_rules: set[str] = set()

    def look(self) -> list[Verdict]:
        """Return the results of rules that fired for the first time since the last call."""
        self.tape.refresh()
        triggers = []
        for rule in self.rules:
            if rule.name not in self.reported_rules:
                rule.catch_up()
                verdict = rule.verdict()
                if verdict.verdict == TRIGGERED:
                    self.reported_rules.add(rule.name)
                    triggers.append(verdict)
        return triggers

    def action(self, verdict: Verdict) -> str:
        """Return the configured action: `warn` or `stop`."""
        return next(str(rule.limits.action) for rule in self.rules if rule.name == verdict.rule)
