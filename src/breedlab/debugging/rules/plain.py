"""A rule that says in one class of the config what it looks at; see
`config.debugger.DebuggerRule`."""

from __future__ import annotations

from collections.abc import Sequence

from breedlab.config.debugger import DebuggerRule
from breedlab.debugging.reader import TensorLog
from breedlab.debugging.rules.base import ABSENT, RunRule
from breedlab.errors import named
from breedlab.verdicts import NotEnough


class PlainRule(RunRule):
    """An adapter that calls a rule's `check` at each of its `steps`."""

    def __init__(self, tape: TensorLog, limits: DebuggerRule, classes: Sequence[str] = ()) -> None:
        super().__init__(tape, limits, classes)
        self.rule = limits
        words = {"name": "title", "sound": "ok_message"} | {
            name: name for name in ("mode", "needs", "meaning", "advice")
        }
        for name, attribute in words.items():
            setattr(self, name, getattr(limits, attribute))

        self.failure = self.lacking = ""

    def steps_to_check(self) -> list[int]:
        try:
            return list(self.rule.steps(self.tape))
        except NotEnough as missing:
            self.lacking = str(missing)
            return []
        except Exception as error:  # a plugin's rule may fail; the others still run
            self.failure = f"the rule failed ({named(error)})"
            return []

    def missing(self) -> str:
        if self.failure or self.judged:
            return self.failure
        return self.lacking or super().missing()

    def invoke_at_step(self, step: int) -> bool:
        try:
            finding = self.rule.check(self.tape, step)
        except NotEnough as missing:
            self.lacking = str(missing)
            raise
        except ABSENT:
            raise
        except Exception as error:  # as above
            self.failure = f"the rule failed ({named(error)})"
            return False
        self.figures, self.tensor_names = dict(finding.metrics), list(finding.tensors)
        return finding.fired
