"""The config of the debugger: what its hook records, and the thresholds of its rules."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from breedlab.config.section import Positive, PositiveInt, Section, Share

Interval = Literal["every"] | Annotated[int, Field(ge=0)]
"""Every how many steps; 0 is never, `every` is what `debugger.every` says."""

Reduction = Literal[
    "min", "max", "mean", "std", "variance", "sum", "l1_norm", "l2_norm",
    "abs_min", "abs_max", "abs_mean", "abs_std", "abs_variance", "abs_sum",
    "update", "zeros", "dead", "saturated",
]  # fmt: skip
"""smdebug's own by the names of its JSON, and four more: what the last step changed, over the weight's norm; the share
of zeros; of channels that are zero throughout; of values at an activation's limits."""


class TensorCollection(Section):
    """When smdebug saves a collection of tensors, and what of them."""

    train: Interval
    eval: Interval
    reductions: list[Reduction]
    values: bool


class CustomCollection(TensorCollection):
    """Tensors by regular expressions on their names."""

    include: list[str]


class Collections(Section):
    """smdebug's collections."""

    losses: TensorCollection
    labels: TensorCollection
    predictions: TensorCollection
    weights: TensorCollection
    biases: TensorCollection
    gradients: TensorCollection
    relu_activations: TensorCollection
    bounded_activations: TensorCollection
    custom: CustomCollection


class DebuggerRule(Section):
    """What happens when a rule fires during training."""

    action: Literal["warn", "stop"]


class Patient(DebuggerRule):
    """A rule that waits for its condition to last, in saved steps or in epochs."""

    patience: PositiveInt


class LossNotDecreasing(DebuggerRule):
    """By which share the mean loss of the last window of steps has to lie below the first window's."""

    window: PositiveInt
    decrease: Share


class Overfit(Patient):
    """By which share, and by how much, the validation loss may lie above its minimum while training goes on."""

    rise: Positive
    margin: Annotated[float, Field(ge=0)]


class Overtraining(Patient):
    """By which share a validation loss has to be lower to count as better."""

    improvement: Share


class VanishingGradient(Patient):
    """The mean size of a weight's gradient, and its share of the largest, below both of which it has vanished."""

    abs_mean: Positive
    ratio: Positive


class ExplodingTensor(Patient):
    """The largest sound value."""

    abs_max: Positive


class PoorWeightInitialization(DebuggerRule):
    """The largest sound factor between a weight's deviation and He's for its shape, either way."""

    factor: Annotated[float, Field(gt=1)]


class PatientShare(Patient):
    """The largest sound share."""

    share: Share


class PatientRatio(Patient):
    """A ratio of the update's norm to the weight's."""

    ratio: Positive


class ClassImbalance(DebuggerRule):
    """The largest sound factor between the most and the least frequent class, from so many labels a class on."""

    factor: Annotated[float, Field(gt=1)]
    labels: PositiveInt


class ConfusionLimits(PatientShare):
    """The share of a class of at least so many photos that may be taken for one other class."""

    photos: PositiveInt


class DebuggerRules(Section):
    """The thresholds of the debugger's rules."""

    loss_not_decreasing: LossNotDecreasing
    overfit: Overfit
    overtraining: Overtraining
    vanishing_gradient: VanishingGradient
    exploding_tensor: ExplodingTensor
    poor_weight_initialization: PoorWeightInitialization
    dead_relu: PatientShare
    saturated_activation: PatientShare
    all_zero: Patient
    nan_inf: DebuggerRule
    unchanged_tensor: Patient
    update_too_small: PatientRatio
    class_imbalance: ClassImbalance
    confusion: ConfusionLimits
    weight_update_ratio: PatientRatio


class Debugger(Section):
    """What the debugger's hook records, and from when on its rules speak up."""

    level: Literal["none", "losses", "default", "full"]
    every: PositiveInt
    collections: Collections
    rules: DebuggerRules
