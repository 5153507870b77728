"""What a Python program wants done when a rule fires during training, besides the config's `warn`
or `stop`.

    import breedlab
    from breedlab.debugging.actions import on

    @on("Overfit", "Overtraining")
    def tell(verdict):
        print(verdict.rule, verdict.steps, verdict.figures)

    breedlab.run("experiment=quickstart", "debugger=default", callbacks=[tell])

Called once a rule and training, at the end of the epoch in which it first fires. What it raises is
printed as a warning.
"""

from __future__ import annotations

from collections.abc import Callable

import lightning

from breedlab.verdicts import Verdict

Action = Callable[[Verdict], object]


class RuleAction(lightning.Callback):
    """A function to be called when one of some rules fires, as a callback of a run.

    Args:
        rules: Their names.
        action: The function.
    """

    def __init__(self, rules: tuple[str, ...], action: Action) -> None:
        self.rules, self.action = rules, action

    def __call__(self, verdict: Verdict) -> object:
        return self.action(verdict)


def on(*rules: str) -> Callable[[Action], RuleAction]:
    """Return a decorator that makes a function a callback for these rules; without names, for all.

    Raises:
        ValueError: For a name that no rule has.
    """
    from breedlab.debugging.rules import rule_names

    names = rule_names()
    if wrong := [name for name in rules if name not in names]:
        raise ValueError(
            f"no rule is called {', '.join(wrong)}; expected some of {', '.join(names)}"
        )
    return lambda action: RuleAction(rules or tuple(names), action)


def actions_of(rule: str, trainer: lightning.Trainer) -> list[RuleAction]:
    """Return the actions among a trainer's callbacks that a rule calls."""
    callbacks: list[lightning.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [each for each in callbacks if isinstance(each, RuleAction) and rule in each.rules]
