"""What each trial tries: a function of the seed, the trial's place in the search and the trials
before it."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from breedlab.config import Config
from breedlab.config.sections import Tuner
from breedlab.config.space import Choices, Dimension, Range, Space, grid_points
from breedlab.data.batches import mixed_seed
from breedlab.training.objective import rank
from breedlab.tuning import auto


def propose(
    config: Config, space: Space, before: Sequence[FrozenTrial], visible: int
) -> dict[str, Any]:
    """Return what the next trial tries, by config path, as Optuna stores it.

    Nothing but the arguments decides: a search that was stopped proposes what it would have
    proposed unbroken.

    Args:
        config: With a search space.
        space: Its dimensions.
        before: The trials before this one, in the order of their proposals.
        visible: How many of them, from the first, have results that count; the others are taken to
            be running.
    """
    number = len(before)
    if config.tuner.strategy == "grid":
        return {path: encode(value) for path, value in grid_points(space)[number].items()}
    if config.tuner.strategy == "auto":
        candidate = auto.candidate(space, tried(config, space, before), math.inf, 0)
        assert candidate is not None, "asked for no more than there are"
        return encoded(candidate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            study_name=config.name,
            direction=direction(config),
            sampler=_sampler(config, number),
            pruner=pruner(config.tuner),
        )
        if config.tuner.strategy != "random":  # this sampler does not look at other trials
            for index, trial in enumerate(before):
                study.add_trial(
                    trial if index < visible and trial.state.is_finished() else _running(trial)
                )
        return dict(study.ask(distributions(space, before)).params)


def tried(config: Config, space: Space, before: Sequence[FrozenTrial]) -> list[auto.Tried]:
    """Return the trials so far as an `auto` search looks at them."""
    candidates = []
    for trial in before:
        objective = trial.value if trial.state == TrialState.COMPLETE else None
        order = (
            None
            if objective is None
            else rank(objective, trial.user_attrs.get("loss"), config.monitor.mode)
        )
        state = "failed" if trial.state == TrialState.FAIL else trial.state.name.lower()
        values = decode(trial.user_attrs.get("proposal", trial.params), space)
        candidates.append(auto.Tried(values, state, order, trial.user_attrs.get("seconds", 0.0)))
    return candidates


def encoded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as Optuna stores them."""
    return {path: encode(value) for path, value in values.items()}


def visible(config: Config, count: int) -> int:
    """Return how many of the trials before this one have results that count, no matter which have
    ended by now.

    Args:
        config: With a search space.
        count: How many trials there are before it.
    """
    if (
        config.tuner.parallel > 1
        and config.tuner.strategy == "bayesian"
        and pruner(config.tuner) is None
    ):
        # Which trials have ended by now is chance. These must have ended, so that the same values
        # are proposed every time.
        return max(0, count - config.tuner.parallel + 1)
    return count


def distributions(space: Space, before: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
    """Return the space in Optuna's terms; in those of existing trials if there are any, since
    Optuna accepts no others."""
    stored = {path: value for trial in before for path, value in trial.distributions.items()}
    return {path: distribution(dimension) for path, dimension in space.items()} | stored


def _sampler(config: Config, number: int) -> optuna.samplers.BaseSampler:
    # A fresh one for every proposal: a sampler's own generator would depend on how often it was
    # asked.
    seed = mixed_seed(config.seed, number) % 2**32
    if config.tuner.strategy == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=max(4, (config.tuner.trials or 0) // 4),
        constant_liar=config.tuner.parallel > 1,
    )


def _running(trial: FrozenTrial) -> FrozenTrial:
    return create_trial(
        state=TrialState.RUNNING, params=trial.params, distributions=trial.distributions
    )


def pruner(tuner: Tuner) -> optuna.pruners.BasePruner | None:
    """Return what decides between epochs which trials end early; None where nothing does."""
    if tuner.strategy == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=tuner.max_epochs)
    return optuna.pruners.MedianPruner() if tuner.early_stopping else None


def direction(config: Config) -> Literal["maximize", "minimize"]:
    """Return the study's direction in Optuna's words."""
    return "maximize" if config.monitor.mode == "max" else "minimize"


def encode(value: Any) -> Any:
    """Return a choice as Optuna stores it: a scalar as it is, a list as JSON."""
    return json.dumps(list(value)) if isinstance(value, list | tuple) else value


def decode(params: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """Return what Optuna stored, as the config takes it."""
    values = {}
    for path, stored in params.items():
        dimension = space[path]
        is_known = (
            {repr(encode(v)): v for v in dimension.values} if isinstance(dimension, Choices) else {}
        )
        value = is_known.get(repr(stored), stored)
        values[path] = list(value) if isinstance(value, tuple) else value
    return values


def distribution(dimension: Dimension) -> BaseDistribution:
    """Return a dimension in Optuna's terms."""
    if isinstance(dimension, Choices):
        return CategoricalDistribution(
            [*dict.fromkeys(encode(value) for value in dimension.values)]
        )
    assert isinstance(dimension, Range)
    if dimension.integer:
        return IntDistribution(
            int(dimension.low), int(dimension.high), dimension.log, int(dimension.step or 1)
        )
    return FloatDistribution(
        float(dimension.low), float(dimension.high), dimension.log, dimension.step
    )
