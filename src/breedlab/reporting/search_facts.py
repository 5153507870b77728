"""What the report says of a search besides its charts: intervals of its trials, and the best once
more with other seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from breedlab.evaluation.statistics import fold_span, wilson
from breedlab.registry import METRICS


def confirmations(
    results: Mapping[str, Mapping[str, Sequence[float]]], best: int | None
) -> list[dict[str, Any]]:
    """Return a row for each of the trials that ran again with other seeds (`confirmed.json`).

    Args:
        results: By trial, and by seed: the objective and the validation loss.
        best: The trial that was taken.
    """
    rows = []
    for number, seeds in results.items():
        values = [value for value, _ in seeds.values()]
        rows.append(
            {
                "number": int(number),
                "mean": mean(values),
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


def objective_interval(
    metric: str, objective: float | None, images: int, folds: Sequence[float] = ()
) -> str:
    """Return the 95% interval of a trial's objective: over folds, or Wilson's of a rate on
    validation, such as `0.8312 to 0.8710`; else empty.

    Args:
        metric: The monitored one, such as `valid/top1`.
        objective: Its value.
        images: The number of validation images.
        folds: The values of each fold.
    """
    if folds:
        return fold_span(folds, metric)
    name = metric.removeprefix("valid/")
    if objective is None or not images or name not in METRICS.names() or not METRICS.get(name).rate:
        return ""
    low, high = wilson(objective * images, images)
    return f"{low:.4f} to {high:.4f}"
