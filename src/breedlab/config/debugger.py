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

    losses: TensorCollection = Field(
        default_factory=lambda: TensorCollection(train=1, eval=1, reductions=[], values=True)
    )
    labels: TensorCollection = Field(
        default_factory=lambda: TensorCollection(train=0, eval=0, reductions=[], values=True)
    )
    predictions: TensorCollection = Field(
        default_factory=lambda: TensorCollection(train=0, eval=0, reductions=[], values=True)
    )
    weights: TensorCollection = Field(
        default_factory=lambda: TensorCollection(
            train=0, eval=0, reductions=["std", "l2_norm", "abs_max", "update"], values=False
        )
    )
    biases: TensorCollection = Field(
        default_factory=lambda: TensorCollection(
            train=0, eval=0, reductions=["std", "l2_norm", "abs_max"], values=False
        )
    )
    gradients: TensorCollection = Field(
        default_factory=lambda: TensorCollection(
            train=0, eval=0, reductions=["abs_mean", "abs_max", "l2_norm"], values=False
        )
    )
    relu_activations: TensorCollection = Field(
        default_factory=lambda: TensorCollection(train=0, eval=0, reductions=["abs_max", "zeros", "dead"], values=False)
    )
    bounded_activations: TensorCollection = Field(
        default_factory=lambda: TensorCollection(train=0, eval=0, reductions=["abs_max", "saturated"], values=False)
    )
    custom: CustomCollection = Field(
        default_factory=lambda: CustomCollection(
            include=[], train=0, eval=0, reductions=["min", "max", "mean", "std"], values=False
        )
    )


class DebuggerRule(Section):
    """What happens when a rule fires during training."""

    action: Literal["warn", "stop"] = "warn"


class Patient(DebuggerRule):
    """A rule that waits for its condition to last, in saved steps or in epochs."""

    patience: PositiveInt


class LossNotDecreasing(DebuggerRule):
    """By which share the mean loss of the last window of steps has to lie below the first window's."""

    window: PositiveInt = 10
    decrease: Share = 0.05


class Overfit(Patient):
    """By which share, and by how much, the validation loss may lie above its minimum while training goes on."""

    patience: PositiveInt = 3
    rise: Positive = 0.1
    margin: Annotated[float, Field(ge=0)] = 0.1


class Overtraining(Patient):
    """By which share a validation loss has to be lower to count as better."""

    patience: PositiveInt = 8
    improvement: Share = 0.001


class VanishingGradient(Patient):
    """The mean size of a weight's gradient, and its share of the largest, below both of which it has vanished."""

    patience: PositiveInt = 2
    abs_mean: Positive = 1e-07
    ratio: Positive = 0.0001


class ExplodingTensor(Patient):
    """The largest sound value."""

    patience: PositiveInt = 1
    abs_max: Positive = 100000.0


class PoorWeightInitialization(DebuggerRule):
    """The largest sound factor between a weight's deviation and He's for its shape, either way."""

    factor: Annotated[float, Field(gt=1)] = 30.0


class PatientShare(Patient):
    """The largest sound share."""

    share: Share


class PatientRatio(Patient):
    """A ratio of the update's norm to the weight's."""

    ratio: Positive


class ClassImbalance(DebuggerRule):
    """The largest sound factor between the most and the least frequent class, from so many labels a class on."""

    factor: Annotated[float, Field(gt=1)] = 10.0
    labels: PositiveInt = 10


class ConfusionLimits(PatientShare):
    """The share of a class of at least so many photos that may be taken for one other class."""

    patience: PositiveInt = 3
    share: Share = 0.5
    photos: PositiveInt = 5


class DebuggerRules(Section):
    """The thresholds of the debugger's rules."""

    loss_not_decreasing: LossNotDecreasing = Field(default_factory=LossNotDecreasing)
    overfit: Overfit = Field(default_factory=Overfit)
    overtraining: Overtraining = Field(default_factory=Overtraining)
    vanishing_gradient: VanishingGradient = Field(default_factory=VanishingGradient)
    exploding_tensor: ExplodingTensor = Field(default_factory=ExplodingTensor)
    poor_weight_initialization: PoorWeightInitialization = Field(default_factory=PoorWeightInitialization)
    dead_relu: PatientShare = Field(default_factory=lambda: PatientShare(share=0.9, patience=2))
    saturated_activation: PatientShare = Field(default_factory=lambda: PatientShare(share=0.5, patience=2))
    all_zero: Patient = Field(default_factory=lambda: Patient(patience=2))
    nan_inf: DebuggerRule = Field(default_factory=DebuggerRule)
    unchanged_tensor: Patient = Field(default_factory=lambda: Patient(patience=2))
    update_too_small: PatientRatio = Field(default_factory=lambda: PatientRatio(ratio=1e-05, patience=2))
    class_imbalance: ClassImbalance = Field(default_factory=ClassImbalance)
    confusion: ConfusionLimits = Field(default_factory=ConfusionLimits)
    weight_update_ratio: PatientRatio = Field(default_factory=lambda: PatientRatio(ratio=10.0, patience=1))


class Debugger(Section):
    """What the debugger's hook records, and from when on its rules speak up."""

    level: Literal["none", "losses", "default", "full"] = "none"
    every: PositiveInt = 50
    collections: Collections = Field(default_factory=Collections)
    rules: DebuggerRules = Field(default_factory=DebuggerRules)
