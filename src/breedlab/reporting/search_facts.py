"""What the report says of a search besides its charts: intervals over folds, and the best once more
with other seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any


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
