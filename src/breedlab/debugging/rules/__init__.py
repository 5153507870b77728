"""The debugger's rules, by the names that Amazon SageMaker Debugger gave them; docs/plugins.md has
one of your own."""

from __future__ import annotations

from collections.abc import Sequence

from breedlab.config.section import Section
from breedlab.debugging.reader import TensorLog
from breedlab.debugging.rules.activations import DeadRelu, SaturatedActivation
from breedlab.debugging.rules.base import RunRule
from breedlab.debugging.rules.classes import ClassImbalance, Confusion
from breedlab.debugging.rules.losses import LossNotDecreasing, Overfit, Overtraining
from breedlab.debugging.rules.plain import PlainRule
from breedlab.debugging.rules.tensors import (
    AllZero,
    ExplodingTensor,
    NanInf,
    PoorWeightInitialization,
    UnchangedTensor,
    UpdateTooSmall,
    VanishingGradient,
    WeightUpdateRatio,
)
from breedlab.registry import DEBUGGER_RULES

RULES: tuple[type[RunRule], ...] = (
    LossNotDecreasing,
    Overfit,
    Overtraining,
    VanishingGradient,
    ExplodingTensor,
    PoorWeightInitialization,
    DeadRelu,
    SaturatedActivation,
    AllZero,
    NanInf,
    UnchangedTensor,
    UpdateTooSmall,
    ClassImbalance,
    Confusion,
    WeightUpdateRatio,
)


def rules_over(tape: TensorLog, limits: Section, classes: Sequence[str] = ()) -> list[RunRule]:
    """Return every registered rule over a recording, with its thresholds.

    Args:
        tape: The recording.
        limits: The `debugger.rules` of a config.
        classes: The class names by label, where they are known.
    """
    judges = {rule.section: rule for rule in RULES}
    return [
        judges.get(name, PlainRule)(tape, DEBUGGER_RULES.made(name, limits), classes)
        for name in DEBUGGER_RULES.names()
    ]


def rule_names() -> list[str]:
    """Return the names of all rules as verdicts have them."""
    judges = {rule.section: rule.name for rule in RULES}
    return [judges.get(name, rule.title) for name, rule in DEBUGGER_RULES.items()]
