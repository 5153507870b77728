"""The debugger's rules, by the names that Amazon SageMaker Debugger gave them. One is a class and its entry here."""

from __future__ import annotations

from breedlab.debugging.rules.activations import DeadRelu, SaturatedActivation
from breedlab.debugging.rules.base import RunRule
from breedlab.debugging.rules.classes import ClassImbalance, Confusion
from breedlab.debugging.rules.losses import LossNotDecreasing, Overfit, Overtraining
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
