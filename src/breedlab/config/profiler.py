"""The config of the profiler: what it measures, and what its rules have in common."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from breedlab.config.section import PositiveInt, Section

if TYPE_CHECKING:
    from breedlab.verdicts import Finding


class ProfilerRule(Section):
    """A rule of the profiler that is one class: its thresholds, and what it makes of a recording.

    Attributes:
        title: Its name in verdicts.
        meaning: What it usually means that it fired.
        advice: What to try then.
        ok_message: What it means that it did not fire.
    """

    title: ClassVar[str]
    meaning: ClassVar[str] = ""
    advice: ClassVar[str] = ""
    ok_message: ClassVar[str] = ""

    @abstractmethod
    def check(self, recording: Any) -> "Finding":
        """Return whether the rule fires, and what it measured.

        Args:
            recording: `recording.system` has the samples of the machine, `recording.steps` the time
                of each step; `recording.during_training(values)`, `recording.step_ms()` and their
                like raise `NotEnough` where there are too few.

        Raises:
            NotEnough: If there is too little to judge, which `breedlab.verdicts` has.
        """


class ProfilerRules(Section):
    """The thresholds of the profiler's rules: each rule's are at its name."""

    min_samples: PositiveInt = 10
    """The least number of samples, or steps, that a rule needs."""


class Profiler(Section):
    """What the profiler measures, and the thresholds of its rules."""

    level: Literal["none", "system", "full"] = "none"
    """How much is measured: nothing, machine and step times, or operator traces as well."""
    interval_ms: Annotated[int, Field(ge=50, le=60_000)] = 500
    """Milliseconds between samples of the machine's load."""
    trace_steps: list[Annotated[int, Field(ge=0)]] = Field(default_factory=lambda: [5, 6, 7])
    """The training steps to trace with `level=full`, counted from 0."""
    rules: ProfilerRules = Field(default_factory=ProfilerRules)
