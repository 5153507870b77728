"""The best trials once more with other seeds, before one of them is called the best
(`tuner.confirm`).

The best of many results is partly luck. A trial's average over seeds decides, not its
luckiest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from breedlab.config import Config
from breedlab.console import console, note, table
from breedlab.files import atomic_write_json, read_json_if_whole
from breedlab.tuning.trial import Outcome

SEEDS = 2
"""How many more seeds each trial gets."""
_FILE = "confirmed.json"

Results = dict[str, dict[str, list[float]]]
"""By trial, and by seed: the objective and the validation loss."""


def recorded(run: Path) -> Results:
    """Return what was confirmed so far."""
    return read_json_if_whole(run / _FILE) or {}


def confirm(
    config: Config,
    run: Path,
    ranked: Sequence[tuple[int, Mapping[str, Any], float, float]],
    is_solved: Callable[[Mapping[str, Any]], bool],
    train: Callable[[Mapping[str, Any]], Outcome],
) -> Results:
    """Run the best trials with other seeds, as far as that is not done, and record the results.

    Args:
        config: With a search.
        run: The run directory.
        ranked: The trials from the best on: number, values, objective and validation loss.
        is_solved: Whether values give a head that is solved: any seed gives the same.
        train: Runs a trial.
    """
    results: Results = {}
    before = recorded(run)
    metric = config.monitor.metric
    for number, values, objective, loss in ranked[: config.tuner.confirm]:
        seeds = {**before.get(str(number), {}), str(config.seed): [objective, loss]}
        for seed in () if is_solved(values) else range(config.seed + 1, config.seed + 1 + SEEDS):
            if str(seed) in seeds:
                continue
            outcome = train({**values, "seed": seed})
            if outcome.state != "complete" or outcome.objective is None:
                note(f"trial {number} with seed {seed}: {outcome.reason or outcome.state}")
                continue
            seeds[str(seed)] = [
                outcome.objective,
                min(epoch["valid/loss"] for epoch in outcome.epochs),
            ]
            note(f"trial {number} with seed {seed}: {metric} {outcome.objective:.4f}")
            atomic_write_json(run / _FILE, {**before, **results, str(number): seeds})
        results[str(number)] = seeds
        atomic_write_json(run / _FILE, {**before, **results})
    return results


def means(results: Results) -> dict[int, tuple[float, float]]:
    """Return each trial's mean objective and mean validation loss over its seeds."""
    by_trial = {}
    for number, seeds in results.items():
        values, losses = zip(*seeds.values(), strict=True)
        by_trial[int(number)] = mean(values), mean(losses)
    return by_trial


def show(results: Results, metric: str) -> None:
    """Print how the best did with other seeds."""
    rows = []
    for number, (middle, _) in means(results).items():
        seeds = [value for value, _ in results[str(number)].values()]
        spread = (
            "the same with any seed" if len(seeds) == 1 else f"{min(seeds):.4f} to {max(seeds):.4f}"
        )
        rows.append([str(number), f"{middle:.4f}", str(len(seeds)), spread])
    console.print(
        table(
            "The best again with other seeds", ["trial", f"mean {metric}", "seeds", "range"], rows
        )
    )
