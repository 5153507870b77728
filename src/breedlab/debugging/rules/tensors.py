"""Rules on weights, gradients and what moves the ones along the others."""

from __future__ import annotations

import math
from typing import Any

from breedlab.debugging.rules.base import RunRule, TensorRule


class VanishingGradient(TensorRule):
    name, section = "VanishingGradient", "vanishing_gradient"
    collections = ("gradients",)
    needs = "gradients"
    meaning = "Gradients die out on their way to these layers, which learn nothing."
    advice = (
        "Use ReLU instead of sigmoid or tanh, normalization, residual connections, He"
        " initialization; raise optim.lr."
    )
    sound = "Gradients reach every layer that trains."

    def bad(self, step: int) -> list[str]:
        sizes = {
            name: self.tape.reduction(name, step, "abs_mean")
            for name in self.tensors(step)
            if _is_weight(name)
        }
        sizes = {name: size for name, size in sizes.items() if math.isfinite(size)}
        if not sizes:
            return []
        largest = max(sizes.values())
        _keep_least(self.figures, "smallest_abs_mean", min(sizes.values()))
        self.figures["largest_abs_mean"] = largest
        # Where all are small, the loss is; where few are, they have vanished.
        return [
            n
            for n, s in sizes.items()
            if 0 < s < self.limits.abs_mean and s < self.limits.ratio * largest
        ]


class ExplodingTensor(TensorRule):
    name, section = "ExplodingTensor", "exploding_tensor"
    collections = (
        "losses",
        "weights",
        "biases",
        "gradients",
        "relu_activations",
        "bounded_activations",
    )
    needs = "losses, weights, gradients or activations"
    meaning = "Values grow without bound; they will overflow to NaN."
    advice = "Lower optim.lr, set trainer.gradient_clip=1.0, or warm up (optim.warmup_epochs)."
    sound = "No value grew too large."

    def bad(self, step: int) -> list[str]:
        tensors = []
        for name in self.tensors(step):
            size = self.tape.reduction(name, step, "abs_max")
            if math.isfinite(size):
                _keep_most(self.figures, "largest", size)
            if size > self.limits.abs_max and size != float("inf"):
                tensors.append(name)
        return tensors


class NanInf(TensorRule):
    name, section = "NaN/Inf", "nan_inf"
    collections = ExplodingTensor.collections
    needs = ExplodingTensor.needs
    meaning = "A tensor holds NaN values, and they spread from there to all others."
    advice = (
        "Lower optim.lr, set trainer.gradient_clip=1.0, use trainer.precision=fp32; look for broken"
        " images."
    )
    sound = "All values are finite."

    def bad(self, step: int) -> list[str]:
        recorded = [
            name for name in self.tensors(step) if self.tape.has_reduction(name, step, "abs_max")
        ]
        tensors = [
            name
            for name in recorded
            if not math.isfinite(self.tape.reduction(name, step, "abs_max"))
        ]
        self.figures["tensors_looked_at"] = max(
            len(recorded), self.figures.get("tensors_looked_at", 0)
        )
        if tensors:
            self.figures["tensors_not_finite"] = max(
                len(tensors), self.figures.get("tensors_not_finite", 0)
            )
        return tensors


class PoorWeightInitialization(RunRule):
    name, section = "PoorWeightInitialization", "poor_weight_initialization"
    needs = "weights with their shapes, saved in TRAIN at the first step"
    link = "report.html#debug"
    meaning = (
        "Weights start far from the scale that their layer's size calls for: signals vanish or"
        " explode, or all units are alike."
    )
    advice = (
        "Initialize with He's or Glorot's scheme (PyTorch's layers do), or begin with pretrained"
        " weights."
    )
    sound = "Weights begin at a sensible scale."

    def steps_to_check(self) -> list[int]:
        # The first step only: later ones have been trained.
        return [
            step
            for step in self.tape.saved("weights", "TRAIN")
            if self.tape.training_step(step) == 1
        ][:1]

    def invoke_at_step(self, step: int) -> bool:
        factors = {}
        for name in self.tape.saved("weights", "TRAIN")[step]:
            shape = self.tape.shape(name, step)
            if shape is not None and len(shape) >= 2:
                he = math.sqrt(2 / math.prod(shape[1:]))  # He et al. 2015, arXiv 1502.01852
                factors[name] = self.tape.reduction(name, step, "std") / he
        limit = self.limits.factor
        self.tensor_names = [
            name for name, factor in factors.items() if not 1 / limit <= factor <= limit
        ]
        if factors:
            self.figures = {
                "smallest_over_he": min(factors.values()),
                "largest_over_he": max(factors.values()),
            }
        return bool(self.tensor_names)


class AllZero(TensorRule):
    name, section = "AllZero", "all_zero"
    collections = ("weights", "gradients", "relu_activations", "bounded_activations")
    needs = "weights, gradients or activations"
    meaning = "A tensor is zero throughout: that part of the network is cut off, or was never set."
    advice = (
        "Look for weights initialized to zero, dead ReLUs before it, a branch that the loss does"
        " not see."
    )
    sound = "No tensor is zero throughout."

    def bad(self, step: int) -> list[str]:
        tensors = [
            name for name in self.tensors(step) if self.tape.reduction(name, step, "abs_max") == 0
        ]
        self.figures["tensors_all_zero"] = max(
            len(tensors), self.figures.get("tensors_all_zero", 0)
        )
        return tensors


class _UpdateRule(TensorRule):
    """On what a step changed of each weight, relative to it."""

    collections = ("weights",)
    needs = "weights and their updates"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._last: int | None = None

    def ratios(self, step: int) -> dict[str, float]:
        """Return the norm of each weight's update over its own, by name; call it once per step, in
        order."""
        before, self._last = self._last, step
        by_name = {name: self._ratio(name, step, before) for name in self.tensors(step)}
        return {name: ratio for name, ratio in by_name.items() if not math.isnan(ratio)}

    def _ratio(self, name: str, step: int, before: int | None) -> float:
        if self.tape.has_reduction(name, step, "update"):
            return self.tape.reduction(name, step, "update")
        # Saved whole by someone else's hook: what changed since it was last saved.
        new = self.tape.value(name, step)
        old = None if before is None else self.tape.value(name, before)
        if new is None or old is None or old.shape != new.shape:
            return math.nan
        size = float((old.astype("f8") ** 2).sum() ** 0.5)
        return float(((new.astype("f8") - old) ** 2).sum() ** 0.5) / max(size, 1e-12)


class UnchangedTensor(_UpdateRule):
    name, section = "UnchangedTensor", "unchanged_tensor"
    meaning = (
        "Weights that should train do not move at all: the optimizer does not have them, or no"
        " gradient comes."
    )
    advice = (
        "Check that the optimizer holds every unfrozen parameter, and that optim.lr is not zero"
        " for it."
    )
    sound = "Every weight that should train moves."

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._moved: set[str] = set()

    def bad(self, step: int) -> list[str]:
        ratios = self.ratios(step)
        self._moved |= {name for name, ratio in ratios.items() if ratio}
        # A weight that has moved before is at rest because training is done, or the step too small
        # for its digits.
        tensors = [name for name, ratio in ratios.items() if ratio == 0 and name not in self._moved]
        self.figures["weights_unchanged"] = max(
            len(tensors), self.figures.get("weights_unchanged", 0)
        )
        self.figures["weights"] = len(ratios)
        return tensors


class UpdateTooSmall(_UpdateRule):
    name, section = "UpdateTooSmall", "update_too_small"
    meaning = "Steps change most weights so little that training will hardly get anywhere."
    advice = (
        "Raise optim.lr, ten times at a time; with optim.layer_decay the first layers may learn too"
        " slowly."
    )
    sound = "Steps change the weights noticeably."

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._well: set[str] = set()

    def bad(self, step: int) -> list[str]:
        moved = {name: ratio for name, ratio in self.ratios(step).items() if ratio > 0}
        if not moved:
            return []
        _keep_most(self.figures, "largest_ratio", max(moved.values()))
        # A schedule ends at nothing, which is as it should be: a weight that once moved well is
        # left alone.
        self._well |= {name for name, ratio in moved.items() if ratio >= self.limits.ratio}
        slow = [name for name in moved if name not in self._well]
        return slow if 2 * len(slow) > len(moved) else []


class WeightUpdateRatio(_UpdateRule):
    name, section = "WeightUpdateRatio", "weight_update_ratio"
    meaning = (
        "Single steps change weights by as much as they are: what was learned before is"
        " overwritten."
    )
    advice = "Lower optim.lr, warm up (optim.warmup_epochs), or set trainer.gradient_clip=1.0."
    sound = "Steps change weights by a sensible share."

    def bad(self, step: int) -> list[str]:
        ratios = {name: ratio for name, ratio in self.ratios(step).items() if ratio > 0}
        if ratios:
            ordered = sorted(ratios.values())
            _keep_most(self.figures, "largest_ratio", ordered[-1])
            self.figures["last_median_ratio"] = ordered[len(ordered) // 2]
        return [name for name, ratio in ratios.items() if ratio > self.limits.ratio]


def _is_weight(name: str) -> bool:
    return name.endswith("weight")


def _keep_least(figures: dict[str, Any], key: str, value: float) -> None:
    figures[key] = min(value, figures.get(key, value))


def _keep_most(figures: dict[str, Any], key: str, value: float) -> None:
    figures[key] = max(value, figures.get(key, value))
