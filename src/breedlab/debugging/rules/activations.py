"""Rules on what activation functions put out."""

from __future__ import annotations

import math

from breedlab.debugging.rules.base import TensorRule


class DeadRelu(TensorRule):
    name, section = "DeadRelu", "dead_relu"
    collections = ("relu_activations",)
    needs = "outputs of ReLU layers"
    meaning = (
        "Most channels of a ReLU layer are zero for every image: they pass nothing on and no longer"
        " learn."
    )
    advice = (
        "Lower optim.lr, look at biases far below zero, use another activation or He"
        " initialization."
    )
    sound = "ReLU layers have enough channels alive."

    def bad(self, step: int) -> list[str]:
        return _above(self, step, "dead", "largest_dead_share")


class SaturatedActivation(TensorRule):
    name, section = "SaturatedActivation", "saturated_activation"
    collections = ("bounded_activations",)
    needs = "outputs of bounded activations (tanh, sigmoid, ReLU6, ...)"
    meaning = "An activation's outputs are saturated, where its slope is zero: no gradient passes."
    advice = (
        "Use ReLU or GELU, normalize before the activation, lower optim.lr or the weights' initial"
        " scale."
    )
    sound = "Activations stay within their limits."

    def bad(self, step: int) -> list[str]:
        return _above(self, step, "saturated", "largest_saturated_share")

    def missing(self) -> str:
        # Saved whole by someone else's hook, their limits are not known.
        return super().missing() or (
            "" if self.figures else f"needs the reduction 'saturated' of {self.needs}"
        )


def _above(rule: TensorRule, step: int, reduction: str, figure: str) -> list[str]:
    shares = {name: rule.tape.reduction(name, step, reduction) for name in rule.tensors(step)}
    shares = {name: share for name, share in shares.items() if not math.isnan(share)}
    if shares:
        rule.figures[figure] = max(rule.figures.get(figure, 0.0), *shares.values())
    return [name for name, share in shares.items() if share > rule.limits.share]
