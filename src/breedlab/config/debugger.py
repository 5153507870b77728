"""The config of the debugger: what its hook records, and the thresholds of its rules."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from breedlab.config.section import Positive, PositiveInt, Section, Share
from breedlab.registry import DEBUGGER_RULES

if TYPE_CHECKING:
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
    """How often it is saved, in training steps: 0 is never, `every` is `debugger.every`."""
    eval: Interval
    """How often it is saved, in validation steps, likewise."""
    reductions: list[Reduction]
    """Statistics to save of each tensor."""
    values: bool
    """Whether to save whole tensors."""


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

    def steps(self, recording: Any) -> Iterable[int]:
        """Return the recorded steps at which to ask, in order; by default the last of each
        epoch."""
        return [epoch.last for epoch in recording.passes(self.mode)]

    def check(self, recording: Any, step: int) -> "Finding":
        """Return whether the rule fires at a step, and what it measured.

        Args:
            recording: `recording.passes("TRAIN")` has the mean loss of each epoch,
                `recording.losses("TRAIN")` that of each step, `recording.reduction(tensor, step,
                "abs_max")` what was kept of a tensor.
            step: One of `steps`.

        Raises:
            NotEnough: If there is too little to judge yet, which `breedlab.verdicts` has.
        """
        raise NotImplementedError(f"{type(self).__name__} has no check")


class Patient(DebuggerRule):
    """A rule that fires once its condition has lasted for some saved steps or epochs."""

    patience: PositiveInt
    """How long the condition has to last: in saved steps for tensors, in epochs for validation."""


class PatientShare(Patient):
    """A rule with a largest acceptable share."""

    share: Share
    """The largest acceptable share."""


class PatientRatio(Patient):
    """A rule on the ratio of an update's norm to its weight's."""

    ratio: Positive
    """The limit of the ratio of norms, update to weight."""


@DEBUGGER_RULES.register("loss_not_decreasing")
class LossNotDecreasing(DebuggerRule):
    """The training loss hardly falls: compares the last window of steps with the first."""

    window: PositiveInt = 10
    """Steps in each window."""
    decrease: Share = 0.05
    """By which share the last window's mean loss must be lower."""


@DEBUGGER_RULES.register("overfit")
class Overfit(Patient):
    """The validation loss rises above its minimum while the training loss falls."""

    patience: PositiveInt = 3
    rise: Positive = 0.1
    """By which share the validation loss may exceed its minimum."""
    margin: Annotated[float, Field(ge=0)] = 0.1
    """By how much it must exceed its minimum, in absolute terms, for the rule to fire."""


@DEBUGGER_RULES.register("overtraining")
class Overtraining(Patient):
    """Training continues although the validation loss no longer improves."""

    patience: PositiveInt = 8
    improvement: Share = 0.001
    """By which share a validation loss must be lower to count as an improvement."""


@DEBUGGER_RULES.register("vanishing_gradient")
class VanishingGradient(Patient):
    """A weight's gradient vanishes: its mean magnitude is below both limits."""

    patience: PositiveInt = 2
    abs_mean: Positive = 1e-07
    """The smallest acceptable mean magnitude of a gradient."""
    ratio: Positive = 0.0001
    """The smallest acceptable share of the largest gradient."""


@DEBUGGER_RULES.register("exploding_tensor")
class ExplodingTensor(Patient):
    """A tensor's values explode."""

    patience: PositiveInt = 1
    abs_max: Positive = 100000.0
    """The largest acceptable magnitude."""


@DEBUGGER_RULES.register("poor_weight_initialization")
class PoorWeightInitialization(DebuggerRule):
    """A weight's standard deviation at the start is far from He's initialization for its shape."""

    factor: Annotated[float, Field(gt=1)] = 30.0
    """The largest acceptable factor between the two, either way."""


@DEBUGGER_RULES.register("dead_relu")
class DeadRelu(PatientShare):
    """Too large a share of a ReLU layer's channels is zero for every image of a batch."""

    patience: PositiveInt = 2
    share: Share = 0.9


@DEBUGGER_RULES.register("saturated_activation")
class SaturatedActivation(PatientShare):
    """Too large a share of a layer's values is at the limits of its activation function."""

    patience: PositiveInt = 2
    share: Share = 0.5


@DEBUGGER_RULES.register("all_zero")
class AllZero(Patient):
    """A tensor is all zeros."""

    patience: PositiveInt = 2


@DEBUGGER_RULES.register("nan_inf")
class NanInf(DebuggerRule):
    """A value is NaN or infinite."""


@DEBUGGER_RULES.register("unchanged_tensor")
class UnchangedTensor(Patient):
    """A trainable weight does not change."""

    patience: PositiveInt = 2


@DEBUGGER_RULES.register("update_too_small")
class UpdateTooSmall(PatientRatio):
    """The updates are too small: the ratio of the norms of update and weight is below the limit."""

    patience: PositiveInt = 2
    ratio: Positive = 1e-05


@DEBUGGER_RULES.register("class_imbalance")
class ClassImbalance(DebuggerRule):
    """The most frequent class has far more images than the rarest."""

    factor: Annotated[float, Field(gt=1)] = 10.0
    """The largest acceptable ratio of the most frequent class to the rarest."""
    labels: PositiveInt = 10
    """The least number of labels per class, on average, to judge by."""


@DEBUGGER_RULES.register("confusion")
class Confusion(PatientShare):
    """Too large a share of a class is taken for one other class."""

    patience: PositiveInt = 3
    share: Share = 0.5
    photos: PositiveInt = 5
    """The least number of a class's validation images to judge by."""


@DEBUGGER_RULES.register("weight_update_ratio")
class WeightUpdateRatio(PatientRatio):
    """The updates are too large: the ratio of the norms of update and weight is above the limit."""

    patience: PositiveInt = 1
    ratio: Positive = 10.0


class DebuggerRules(Section):
    """The thresholds of the debugger's rules."""


class Debugger(Section):
    """What the debugger records, and the thresholds of its rules."""

    level: Literal["none", "losses", "default", "full"] = "none"
    """How much is recorded: nothing, losses, statistics of tensors, or whole tensors."""
    every: PositiveInt = 50
    """Training steps between two recordings of what is expensive to record."""
    collections: Collections = Field(default_factory=Collections)
    rules: DebuggerRules = Field(default_factory=DebuggerRules)
