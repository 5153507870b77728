"""What the report says of a search besides its charts: its trials in order and their intervals, the
best once more with other seeds, and what fine-tuning gained after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from breedlab.evaluation.figures import objective_interval, with_span
from breedlab.evaluation.paired import told
from breedlab.evaluation.statistics import fold_span, seeds_interval, span_text
from breedlab.reporting.record import RunRecord
from breedlab.training.objective import best_loss, rank


def ranked(run: RunRecord) -> list[dict[str, Any]]:
    """Return the trials that have an objective: first the one that other seeds decided for, then
    complete ones, and of each kind the best first. Of equal ones the one that was trained leads,
    then the lower validation loss decides, as in the search."""
    taken = (run.metrics.get("search") or {}).get("trial")
    monitor = run.config.get("monitor") or {}
    metric, mode = monitor.get("metric", ""), monitor.get("mode", "max")
    trials = [trial for trial in run.trials if isinstance(trial.get("objective"), int | float)]

    def key(trial: Mapping[str, Any]) -> tuple[Any, ...]:
        loss = best_loss(trial.get("epochs") or (), metric, mode)
        objective, loss_rank = rank(trial["objective"], loss, mode)
        other = trial["number"] != taken
        incomplete = trial["state"] != "complete"
        decided = bool(run.confirmed) and other
        return (decided, incomplete, objective, other, loss_rank, trial["number"])

    return sorted(trials, key=key)


def confirmations(
    results: Mapping[str, Mapping[str, Sequence[Any]]], best: int | None
) -> list[dict[str, Any]]:
    """Return a row for each of the trials that ran again with other seeds (`confirmed.json`).

    Args:
        results: By trial, and by seed: the objective, the validation loss, and the interval of the
            objective.
        best: The trial that was taken.
    """
    rows = []
    for number, seeds in results.items():
        values = [seed[0] for seed in seeds.values()]
        rows.append(
            {
                "number": int(number),
                "mean": mean(values),
                "interval": span_text(seeds_interval(seeds.values())),
                "seeds": len(values),
                "span": (
                    "the same with any seed"
                    if len(values) == 1
                    else f"{min(values):.4f} to {max(values):.4f}"
                ),
                "is_best": int(number) == best,
            }
        )
    return rows


def trial_interval(run: RunRecord, trial: Mapping[str, Any]) -> str:
    """Return the 95% interval of a trial's objective, such as `0.8312 to 0.8710`; empty where an
    older version recorded none, and it is not a rate.

    Args:
        run: The search's.
        trial: Its record.
    """
    metric = (run.config.get("monitor") or {}).get("metric", "objective")
    recorded = fold_span(trial.get("folds") or (), metric) or span_text(trial.get("interval"))
    if recorded or trial.get("objective") is None:
        return recorded
    return objective_interval(metric, trial["objective"], run.validated)


def baseline_interval(run: RunRecord) -> str:
    """Return the same of what the search had to beat; empty if it had nothing to."""
    baseline = (run.metrics.get("search") or {}).get("baseline") or {}
    recorded = span_text(baseline.get("interval"))
    # an older version recorded no folds of it
    if recorded or not baseline or run.folds > 1:
        return recorded
    return objective_interval(baseline["metric"], baseline["value"], run.validated)


def fine_tuning_in_words(metric: str, fine_tuning: Mapping[str, Any], best: float) -> str:
    """Return what fine-tuning gained, as far as it is recorded.

    Args:
        metric: The monitored one.
        fine_tuning: What metrics.json says of it.
        best: That of the kept network.
    """
    before = with_span(metric, fine_tuning["before"], fine_tuning.get("before_interval"))
    after = with_span(metric, best, fine_tuning.get("best_interval"))
    text = f"{metric} {before} before, {after} after"
    if not (test := told(fine_tuning.get("compared") or {}, "validation images")):
        return text
    return f"{text}: {test}; these images also chose what is kept"
