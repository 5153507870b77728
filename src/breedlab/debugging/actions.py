"""What a Python program wants done when a rule fires during training, beside the config's `warn` or
`stop`.

    from breedlab.debugging.actions import on

    @on("Overfit", "Overtraining")
    def tell(verdict):
        print(verdict.rule, verdict.steps, verdict.figures)

Called once a rule and training, at the end of the epoch in which it first fires. What it raises is
told as a warning.
"""

from __future__ import annotations

from collections.abc import Callable

from breedlab.verdicts import Verdict

Action = Callable[[Verdict], object]

_actions: dict[str, list[Action]] = {}


def on(*rules: str) -> Callable[[Action], Action]:
    """Has a function called when one of these rules fires; without names, when any does.

    Raises:
        ValueError: For a name that no rule has.
    """
    from breedlab.debugging.rules import rule_names

    known = rule_names()
    if wrong := [name for name in rules if name not in known]:
        raise ValueError(
            f"no rule is called {', '.join(wrong)}; expected some of {', '.join(known)}"
        )

    def register(action: Action) -> Action:
        for name in rules or known:
            _actions.setdefault(name, []).append(action)
        return action

    return register


def off(action: Action) -> None:
    """Has a function called no more."""
    for actions in _actions.values():
        while action in actions:
            actions.remove(action)


def actions_of(rule: str) -> tuple[Action, ...]:
    return tuple(_actions.get(rule, ()))
