"""The search of a run: its best trial, and what metrics.json says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from breedlab import config as configs
from breedlab import distributed
from breedlab.config import Config
from breedlab.console import note
from breedlab.evaluation.statistics import span_text
from breedlab.pipeline import extension
from breedlab.training.context import TrainingContext
from breedlab.training.objective import better


@dataclass(frozen=True)
class Best:
    """The outcome of a search.

    Attributes:
        config: The experiment with the best trial's values.
        context: What that trains.
        metrics: What metrics.json says of the search.
        seconds_left: Of `tuner.minutes`; None without such a limit.
    """

    config: Config
    context: TrainingContext
    metrics: dict[str, Any]
    seconds_left: float | None


def search_for_best(context: TrainingContext, directory: Path) -> Best:
    """Search, or resume a search, on rank 0, and say what was best.

    Args:
        context: What trials train.
        directory: The run directory.
    """
    from breedlab.tuning import baseline
    from breedlab.tuning.importance import importances
    from breedlab.tuning.study import search

    config = context.config
    best = distributed.rank_zero_only(lambda: search(config, context, directory))
    best_config = configs.replace(config, best.values)
    suited = context.suited(best_config)
    note(
        f"best: trial {best.number}, {config.monitor.metric}"
        f" {best.objective:.4f}{_interval(best.folds, best.seeds, best.span)}{_tie(best.tied)}"
    )
    if text := distributed.rank_zero_only(
        lambda: extension.begin_training(directory, best.number, best.values)
    ):
        note(text)
    outcome: dict[str, Any] = {
        "trial": best.number,
        "values": best.values,
        "objective": best.objective,
        "tied": [*best.tied],
    }
    if best.span:
        outcome["interval"] = [*best.span]
    if best.folds:
        outcome["folds"] = [*best.folds]
    if reference := distributed.rank_zero_only(lambda: baseline.recorded(directory)):
        of_baseline = ("metric", "value", "loss", "c", "interval")
        outcome["baseline"] = {name: reference.get(name) for name in of_baseline}
        note(f"{baseline.describe(reference)}{_unbeaten(best_config, best.objective, reference)}")
    outcome["importance"] = distributed.rank_zero_only(lambda: importances(directory))
    return Best(best_config, suited, outcome, best.seconds_left)


def _interval(folds: Sequence[float], seeds: int, span: Sequence[float] | None) -> str:
    """Return what is known of how far an objective may be from the true one; else empty."""
    counts = [(len(folds), "folds"), (seeds, "seeds")]
    averaged = " and ".join(f"{count} {of}" for count, of in counts if count > 1)
    of = f", the mean of {averaged}" if averaged else ""
    return f"{of}, 95% interval {span_text(span)}" if span else of


def _unbeaten(best: Config, objective: float, baseline: Mapping[str, Any]) -> str:
    """Return how to have a search's baseline where no trial is better; else empty."""
    beaten = better(objective, baseline["value"], best.monitor.mode)
    if beaten or best.model.head_type == "logistic":
        return ""
    return "; no trial beat it: model.head_type=logistic tuner=none takes it as it is"


def _tie(tied: Sequence[int]) -> str:
    """Return a note on the trials that were as good as the best; empty if there are none."""
    if not tied:
        return ""
    names = f"trial {tied[0]}" if len(tied) == 1 else f"{len(tied)} other trials"
    return f" (as {names}; the lower validation loss decided)"
