"""A rule of ours on smdebug's `Rule`: judged at the steps that concern it, and able to say what it
found."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from breedlab.config.debugger import DebuggerRule
from breedlab.debugging import smdebug_compat  # noqa: F401  before smdebug
from breedlab.debugging.reader import TensorLog
from breedlab.verdicts import NOT_ENOUGH, PASSED, TRIGGERED, NotEnough, Verdict

from smdebug.exceptions import (  # isort: skip
    RuleEvaluationConditionMet,
    StepUnavailable,
    TensorUnavailable,
    TensorUnavailableForStep,
)
from smdebug.rules import Rule  # isort: skip

ABSENT = (StepUnavailable, TensorUnavailable, TensorUnavailableForStep)
"""What smdebug raises of a step or tensor that was not recorded."""

_MOST = 100
"""Steps or tensors named in a verdict."""


class RunRule(Rule):  # type: ignore[misc]
    """What all rules have in common.

    A subclass says in `steps_to_check` at which of smdebug's steps it wants to be asked, and in
    `invoke_at_step` whether its condition holds there; it leaves the tensors in `tensor_names` and
    what it measured in `figures`.

    Args:
        tape: The recording.
        limits: The rule's section of the config.
        classes: The class names by label, where they are known.

    Attributes:
        name: As in the issue of verdicts.
        mode: Whose recordings it needs.
        needs: What it needs, as text.
        link: The plot that shows it.
        meaning: What it usually means that it fired.
        advice: What to try then.
        sound: What it means that it did not fire.
        latest: Whether only the last judgment counts, for what a later step may fix.
    """

    name: ClassVar[str]
    section: ClassVar[str]
    mode: ClassVar[str] = "TRAIN"
    needs: ClassVar[str]
    link: ClassVar[str] = "report.html#debug"
    meaning: ClassVar[str]
    advice: ClassVar[str]
    sound: ClassVar[str]
    latest: ClassVar[bool] = False

    def __init__(self, tape: TensorLog, limits: Any, classes: Sequence[str] = ()) -> None:
        super().__init__(tape.trial, action_str="")
        self.tape, self.limits, self.classes = tape, limits, classes
        self.figures: dict[str, Any] = {}
        self.tensor_names: list[str] = []
        self.fired: dict[int, list[str]] = {}
        self.judged: list[int] = []

    @abstractmethod
    def steps_to_check(self) -> Iterable[int]:
        """Return smdebug's global steps at which to check the rule, in order."""

    @abstractmethod
    def invoke_at_step(self, step: int) -> bool:
        """Return whether the condition holds at a step."""

    def missing(self) -> str:
        """Return what is missing to apply the rule; empty if nothing is."""
        return "" if self.judged else f"needs {self.needs}"

    def catch_up(self) -> None:
        """Check the steps that have not been checked yet."""
        last = self.judged[-1] if self.judged else -1
        for step in [step for step in self.steps_to_check() if step > last]:
            try:
                self.invoke(step)
            except RuleEvaluationConditionMet:
                self.fired[step] = list(self.tensor_names)
            except (*ABSENT, NotEnough):
                continue
            self.judged.append(step)

    def verdict(self) -> Verdict:
        """Return the result over all steps checked so far."""
        if missing := self.missing():
            return Verdict(self.name, NOT_ENOUGH, {}, missing, mode=self.mode, link=self.link)
        fired = self.fired
        if self.latest:
            fired = {step: names for step, names in fired.items() if step == self.judged[-1]}
        if not fired:
            return Verdict(
                self.name,
                PASSED,
                _rounded(self.figures),
                self.sound,
                mode=self.mode,
                link=self.link,
            )
        names = dict.fromkeys(name for tensors in fired.values() for name in tensors)
        steps = dict.fromkeys(
            self.tape.training_step(step) for step in (self.fired if self.latest else fired)
        )
        return Verdict(
            self.name,
            TRIGGERED,
            _rounded(self.figures),
            self.meaning,
            self.advice,
            self.mode,
            list(steps)[:_MOST],
            list(names)[:_MOST],
            self.link,
        )


class TensorRule(RunRule):
    """A rule that looks at each tensor of some collections, and fires when one is bad for some
    saved steps in a row."""

    limits: Any
    collections: ClassVar[tuple[str, ...]]

    def __init__(self, tape: TensorLog, limits: DebuggerRule, classes: Sequence[str] = ()) -> None:
        super().__init__(tape, limits, classes)
        self.patience = int(getattr(limits, "patience", 1))
        self._streaks: dict[str, int] = {}

    def steps_to_check(self) -> list[int]:
        steps: set[int] = set()
        for collection in self.collections:
            steps.update(self.tape.saved(collection, self.mode))
        return sorted(steps)

    def tensors(self, step: int) -> list[str]:
        """Return the tensors to check."""
        return [
            name for c in self.collections for name in self.tape.saved(c, self.mode).get(step, ())
        ]

    @abstractmethod
    def bad(self, step: int) -> list[str]:
        """Return the tensors in which the condition holds."""

    def invoke_at_step(self, step: int) -> bool:
        bad = set(self.bad(step))
        self._streaks = {
            name: self._streaks.get(name, 0) + 1 if name in bad else 0
            for name in self.tensors(step)
        }
        self.tensor_names = [
            name for name, streak in self._streaks.items() if streak >= self.patience
        ]
        return bool(self.tensor_names)

    def missing(self) -> str:
        if len(self.judged) >= self.patience:
            return ""
        saved = f"; {len(self.judged)} saved" if self.judged else ""
        return f"needs {self.needs} in {self.mode}, in at least {self.patience} saved steps{saved}"


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    """Round to six digits; numbers that JSON does not have become text."""

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.6g}") if math.isfinite(value) else str(value)
        return [plain(item) for item in value] if isinstance(value, list) else value

    return {name: plain(value) for name, value in figures.items()}
