"""The best trial of a search."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from breedlab.config import Config, search_space
from breedlab.config.space import Space
from breedlab.errors import TrainingError
from breedlab.evaluation.statistics import fold_ends
from breedlab.training.objective import rank
from breedlab.tuning import confirm as confirmation
from breedlab.tuning import store
from breedlab.tuning.proposals import decode
from breedlab.tuning.reopen import open_study
from breedlab.tuning.store import was_cut_off


@dataclass(frozen=True)
class Best:
    """The trial that won.

    Attributes:
        number: Counted from 0.
        values: By config path.
        objective: Its best value of the monitored metric.
        tied: The other trials that reached the same objective; the validation loss decided between
            them.
        folds: With `tuner.folds`, what it has on each, with the run's seed.
        seeds: How many the objective is the mean of.
        span: The 95% interval of the objective; None if it is not known.
        seconds_left: What the search left of `tuner.minutes`; None without such a limit.
    """

    number: int
    values: dict[str, Any]
    objective: float
    tied: tuple[int, ...] = ()
    folds: tuple[float, ...] = ()
    seeds: int = 1
    span: tuple[float, float] | None = None
    seconds_left: float | None = None


def best_so_far(config: Config, run: Path) -> Best:
    """Return the best of a search's trials that have ended.

    Raises:
        TrainingError: If none was completed.
    """
    return best_of(open_study(config, run), config, run, search_space(config))


def complete_trials(study: optuna.Study) -> dict[int, FrozenTrial]:
    """Return the trials that have an objective, by number."""
    return {
        t.number: t for t in study.trials if t.state == TrialState.COMPLETE and t.value is not None
    }


def best_of(study: optuna.Study, config: Config, run: Path, space: Space) -> Best:
    """Return the best of a study's trials.

    Raises:
        TrainingError: If none was completed.
    """
    complete = complete_trials(study)
    if not complete:
        reasons = {t.user_attrs.get("reason", "") for t in study.trials if not was_cut_off(t)} - {
            ""
        }
        raise TrainingError(
            "no trial of the search was completed:\n"
            + "\n".join(f"  {reason}" for reason in sorted(reasons))
        )
    objectives = {
        number: float(trial.value) for number, trial in complete.items() if trial.value is not None
    }
    mode = config.monitor.mode
    confirmed = confirmation.recorded(run)
    means = {n: mean for n, mean in confirmation.means(confirmed).items() if n in complete}
    metric = config.monitor.metric
    if means and config.tuner.confirm:
        best = min(means, key=lambda n: (rank(means[n].value, means[n].loss, mode), n))
        folds = store.folds(run, best)
        return Best(
            best,
            decode(complete[best].params, space),
            means[best].value,
            folds=folds,
            seeds=len(confirmed[str(best)]),
            span=means[best].span or fold_ends(folds, metric),
        )
    best = min(
        objectives, key=lambda n: (rank(objectives[n], store.valid_loss(config, run, n), mode), n)
    )
    tied = tuple(n for n in objectives if n != best and objectives[n] == objectives[best])
    values = decode(complete[best].params, space)
    folds = store.folds(run, best)
    span = store.objective_interval(run, best, metric)
    return Best(best, values, objectives[best], tied, folds, span=span)
