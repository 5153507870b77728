"""The config of the debugger: what its hook records, and the thresholds of its rules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from breedlab.config.section import Positive, PositiveInt, Section, Share
from breedlab.registry import DEBUGGER_RULES

if TYPE_CHECKING:
    from breedlab.debugging.reader import TensorLog
    from breedlab.verdicts import Finding

Interval = Literal["every"] | Annotated[int, Field(ge=0)]
"""Every how many steps; 0 is never, `every` is what `debugger.every` says."""

Reduction = Literal[
    "min", "max", "mean", "std", "variance", "sum", "l1_norm", "l2_norm",
    "abs_min", "abs_max", "abs_mean", "abs_std", "abs_variance", "abs_sum",
    "update", "zeros", "dead", "saturated",
]  # fmt: skip
"""smdebug's own by the names of its JSON, and four more: what the last step changed, over the
weight's norm; the share of zeros; of channels that are zero throughout; of values at an
activation's limits."""


class TensorCollection(Section):
    """When smdebug saves a collection of tensors, and what of them."""

    train: Interval
    """Every how many training steps it is saved; 0 is never, `every` is `debugger.every`."""
    eval: Interval
    """Every how many validation steps, likewise."""
    reductions: list[Reduction]
    """What is kept of each tensor."""
    values: bool
    """Whether tensors are kept whole."""


class CustomCollection(TensorCollection):
    """Tensors by regular expressions on their names."""

    include: list[str]
    """Regular expressions on the names of tensors."""


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
        default_factory=lambda: TensorCollection(
            train=0, eval=0, reductions=["abs_max", "zeros", "dead"], values=False
        )
    )
    bounded_activations: TensorCollection = Field(
        default_factory=lambda: TensorCollection(
            train=0, eval=0, reductions=["abs_max", "saturated"], values=False
        )
    )
    custom: CustomCollection = Field(
        default_factory=lambda: CustomCollection(
            include=[], train=0, eval=0, reductions=["min", "max", "mean", "std"], values=False
        )
    )


class DebuggerRule(Section):
    """A rule of the debugger: its thresholds, and what happens when it fires during training.

    A rule is written as one class here, with `steps` and `check`, or as a class of
    `debugging.rules` that judges by the thresholds here, where it has to remember what it saw.

    Attributes:
        title: Its name in verdicts.
        mode: Whose recording it looks at, `TRAIN` or `EVAL`.
        needs: What has to be recorded for it, in words.
        meaning: What it usually means that it fired.
        advice: What to try then.
        ok_message: What it means that it did not fire.
    """

    title: ClassVar[str] = ""
    mode: ClassVar[str] = "TRAIN"
    needs: ClassVar[str] = "the losses of an epoch"
    meaning: ClassVar[str] = ""
    advice: ClassVar[str] = ""
    ok_message: ClassVar[str] = ""

    action: Literal["warn", "stop"] = "warn"
    """Whether training continues when the rule fires (`warn`) or ends (`stop`)."""

    def steps(self, recording: TensorLog) -> Iterable[int]:
        """Return the recorded steps at which to ask, in order; by default the last of each
        epoch."""
        return [epoch.last for epoch in recording.passes(self.mode)]

    def check(self, recording: TensorLog, step: int) -> Finding:
        """Return whether the rule fires at a step, and what it measured.

        Args:
            recording: `recording.passes("TRAIN")` has the mean loss of each epoch,
                `recording.losses("TRAIN")` that of each step, `recording.reduction(tensor, step,
                "abs_max")` what was kept of a tensor.
            step: One of `steps`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no check")


class Patient(DebuggerRule):
    """A rule that waits for its condition to last, in saved steps or in epochs."""

    patience: PositiveInt
    """How long the condition has to last: in saved steps for tensors, in epochs for validation."""


class PatientShare(Patient):
    """The largest sound share."""

    share: Share
    """The largest sound share."""


class PatientRatio(Patient):
    """A ratio of the update's norm to the weight's."""

    ratio: Positive
    """The limit of the update's norm over the weight's."""


@DEBUGGER_RULES.register("loss_not_decreasing")
class LossNotDecreasing(DebuggerRule):
    """By which share the mean loss of the last window of steps has to lie below the first
    window's."""

    window: PositiveInt = 10
    """Steps of the first and the last window."""
    decrease: Share = 0.05
    """The share by which the last window's mean loss has to be lower."""


@DEBUGGER_RULES.register("overfit")
class Overfit(Patient):
    """By which share, and by how much, the validation loss may lie above its minimum while training
    goes on."""

    patience: PositiveInt = 3
    rise: Positive = 0.1
    """The share by which the validation loss may lie above its minimum."""
    margin: Annotated[float, Field(ge=0)] = 0.1
    """By how much it has to lie above it in any case."""


@DEBUGGER_RULES.register("overtraining")
class Overtraining(Patient):
    """By which share a validation loss has to be lower to count as better."""

    patience: PositiveInt = 8
    improvement: Share = 0.001
    """The share by which a validation loss has to be lower to count as better."""


@DEBUGGER_RULES.register("vanishing_gradient")
class VanishingGradient(Patient):
    """The mean size of a weight's gradient, and its share of the largest, below both of which it
    has vanished."""

    patience: PositiveInt = 2
    abs_mean: Positive = 1e-07
    """The mean size of a gradient below which it may have vanished."""
    ratio: Positive = 0.0001
    """Its share of the largest gradient, below which it has."""


@DEBUGGER_RULES.register("exploding_tensor")
class ExplodingTensor(Patient):
    """The largest sound value."""

    patience: PositiveInt = 1
    abs_max: Positive = 100000.0
    """The largest sound value."""


@DEBUGGER_RULES.register("poor_weight_initialization")
class PoorWeightInitialization(DebuggerRule):
    """The largest sound factor between a weight's deviation and He's for its shape, either way."""

    factor: Annotated[float, Field(gt=1)] = 30.0
    """How far a weight's deviation may lie from He's for its shape, either way."""


@DEBUGGER_RULES.register("dead_relu")
class DeadRelu(PatientShare):
    """The share of a ReLU layer's channels that may be zero for every image of a batch."""

    patience: PositiveInt = 2
    share: Share = 0.9


@DEBUGGER_RULES.register("saturated_activation")
class SaturatedActivation(PatientShare):
    """The share of a layer's values that may stand at the activation's limits."""

    patience: PositiveInt = 2
    share: Share = 0.5


@DEBUGGER_RULES.register("all_zero")
class AllZero(Patient):
    """For how many saved steps a tensor may be zero throughout."""

    patience: PositiveInt = 2


@DEBUGGER_RULES.register("nan_inf")
class NanInf(DebuggerRule):
    """Whether a value is NaN or infinite."""


@DEBUGGER_RULES.register("unchanged_tensor")
class UnchangedTensor(Patient):
    """For how many saved steps a weight that trains may stay the same."""

    patience: PositiveInt = 2


@DEBUGGER_RULES.register("update_too_small")
class UpdateTooSmall(PatientRatio):
    """The smallest sound ratio of a step's update to its weight, by their norms."""

    patience: PositiveInt = 2
    ratio: Positive = 1e-05


@DEBUGGER_RULES.register("class_imbalance")
class ClassImbalance(DebuggerRule):
    """The largest sound factor between the most and the least frequent class, from so many labels a
    class on."""

    factor: Annotated[float, Field(gt=1)] = 10.0
    """How many times the rarest class the most frequent one may be."""
    labels: PositiveInt = 10
    """Labels of a class, on average, from which it is judged."""


@DEBUGGER_RULES.register("confusion")
class Confusion(PatientShare):
    """The share of a class of at least so many photos that may be taken for one other class."""

    patience: PositiveInt = 3
    share: Share = 0.5
    photos: PositiveInt = 5
    """Images of a class in validation, from which it is judged."""


@DEBUGGER_RULES.register("weight_update_ratio")
class WeightUpdateRatio(PatientRatio):
    """The largest sound ratio of a step's update to its weight."""

    patience: PositiveInt = 1
    ratio: Positive = 10.0


class DebuggerRules(Section):
    """The thresholds of the debugger's rules."""


class Debugger(Section):
    """What the debugger's hook records, and from when on its rules speak up."""

    level: Literal["none", "losses", "default", "full"] = "none"
    """How much is recorded: nothing, losses, tensors' statistics, or whole tensors."""
    every: PositiveInt = 50
    """Training steps between two savings of what is costly."""
    collections: Collections = Field(default_factory=Collections)
    rules: DebuggerRules = Field(default_factory=DebuggerRules)
