"""A rule that says in one class of the config what it looks at; see
`config.debugger.DebuggerRule`."""

from __future__ import annotations

from collections.abc import Sequence

from breedlab.config.debugger import DebuggerRule
from breedlab.debugging.reader import TensorLog
from breedlab.debugging.rules.base import RunRule


class PlainRule(RunRule):
    """Asks the rule's `check` at each of its `steps`."""

    def __init__(self, tape: TensorLog, limits: DebuggerRule, classes: Sequence[str] = ()) -> None:
        super().__init__(tape, limits, classes)
        self.rule = limits
        words = {"name": "title", "sound": "ok_message"} | {
            name: name for name in ("mode", "needs", "meaning", "advice")
        }
        for name, attribute in words.items():
            setattr(self, name, getattr(limits, attribute))

    def steps_to_check(self) -> list[int]:
        return list(self.rule.steps(self.tape))

    def invoke_at_step(self, step: int) -> bool:
        finding = self.rule.check(self.tape, step)
        self.figures, self.found = dict(finding.metrics), list(finding.tensors)
        return finding.fired
