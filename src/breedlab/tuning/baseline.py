"""What a search has to beat: logistic regression on the features that its trials share."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from breedlab import config as configs
from breedlab.config import Config
from breedlab.config.data_rules import PLAIN_VIEWS
from breedlab.console import note
from breedlab.evaluation.figures import with_span
from breedlab.evaluation.statistics import fold_ends
from breedlab.files import atomic_write_json, read_json_if_whole
from breedlab.training import folds
from breedlab.training.context import TrainingContext

_FILE = "baseline.json"


def measured(config: Config, context: TrainingContext, run: Path) -> dict[str, Any] | None:
    """Return the baseline of a search, solved once and recorded in its run; None where features are
    not cached.

    Args:
        config: With a search space.
        context: Shared by all trials.
        run: The run directory.
    """
    baseline = recorded(run)
    if baseline is None:
        baseline = _solved(config, context)
        if baseline is None:
            return None
        atomic_write_json(run / _FILE, baseline, indent=2)
    note(
        f"{describe(baseline)} in {baseline['seconds']:.1f} s (C={baseline['c']:g}); the search"
        " has to beat it"
    )
    return baseline


def recorded(run: Path) -> dict[str, Any] | None:
    """Return the baseline that a run's search had; None if it had none."""
    baseline: dict[str, Any] | None = read_json_if_whole(run / _FILE, needs=("metric", "value"))
    return baseline


def describe(baseline: dict[str, Any]) -> str:
    """Return a baseline as text."""
    metric = baseline["metric"].removeprefix("valid/")
    text = with_span(metric, baseline["value"], baseline.get("interval"))
    of = f", mean of {len(baseline['folds'])} folds" if baseline.get("folds") else ""
    return f"logistic regression on the same features: {baseline['metric']} {text}{of}"


def _solved(config: Config, context: TrainingContext) -> dict[str, Any] | None:
    plain = {
        "model.head_type": "logistic",
        "optim.loss": "cross_entropy",
        "optim.label_smoothing": 0.0,
        **PLAIN_VIEWS,
        "tuner.strategy": "none",
    }
    if config.model.freeze != "backbone" or config.cache.mode == "off":
        return None
    one = configs.replace(config, plain)
    started = time.monotonic()
    classifier = context.classifier(one)
    if context.activations(classifier, one) is None:
        return None
    seconds = time.monotonic() - started
    metric = config.monitor.metric
    if config.tuner.folds > 1:
        started = time.monotonic()
        c, epoch = folds.solve(context, one, folds.folds_of(context, one))
        return {
            "metric": metric,
            "value": epoch.valid[metric],
            "loss": epoch.valid["valid/loss"],
            "pass_seconds": round(seconds, 2),
            "c": c,
            "seconds": round(time.monotonic() - started, 2),
            "folds": [*epoch.folds],
            "interval": fold_ends(epoch.folds, metric),
        }
    solution = context.solve(classifier, one)
    return {
        "metric": metric,
        "value": solution.valid[metric],
        "loss": solution.valid["valid/loss"],
        "pass_seconds": round(seconds, 2),
        "interval": solution.scores.interval(solution.valid[metric]),
        **solution.as_dict(),
    }
