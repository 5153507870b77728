"""The best trials once more with other seeds, before one of them is called the best
(`tuner.confirm`).

The best of many results is partly luck. A trial's average over seeds decides, not its
luckiest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from breedlab.config import Config
from breedlab.console import console, note, table
from breedlab.evaluation.statistics import seeds_interval, span_text
from breedlab.files import atomic_write_json, read_json_if_whole
from breedlab.tuning.trial import Outcome

SEEDS = 2
"""How many more seeds each trial gets."""
_FILE = "confirmed.json"

Results = dict[str, dict[str, list[Any]]]
"""By trial, and by seed: the objective, the validation loss, and the objective's 95% interval,
which may be None, and which older versions did not record."""


@dataclass(frozen=True)
class Objective:
    """What a trial came to.

    Attributes:
        value: The monitored metric.
        loss: The validation loss.
        span: The metric's 95% interval; None if it is not known.
    """

    value: float
    loss: float
    span: tuple[float, float] | None


def recorded(run: Path) -> Results:
    """Return what was confirmed so far."""
    return read_json_if_whole(run / _FILE) or {}


def confirm(
    config: Config,
    run: Path,
    ranked: Sequence[tuple[int, Mapping[str, Any], Objective]],
    is_solved: Callable[[Mapping[str, Any]], bool],
    train: Callable[[Mapping[str, Any]], Outcome],
) -> Results:
    """Run the best trials with other seeds, as far as that is not done, and record the results.

    Args:
        config: With a search.
        run: The run directory.
        ranked: The trials from the best on: number, values, and objective.
        is_solved: Whether values give a head that is solved: any seed gives the same.
        train: Runs a trial.
    """
    results: Results = {}
    before = recorded(run)
    metric = config.monitor.metric
    for number, values, first in ranked[: config.tuner.confirm]:
        own = [first.value, first.loss, first.span]
        seeds = {**before.get(str(number), {}), str(config.seed): own}
        for seed in () if is_solved(values) else range(config.seed + 1, config.seed + 1 + SEEDS):
            if str(seed) in seeds:
                continue
            outcome = train({**values, "seed": seed})
            if outcome.state != "complete" or outcome.objective is None:
                note(f"trial {number} with seed {seed}: {outcome.reason or outcome.state}")
                continue
            interval = outcome.span(metric)
            loss = min(epoch["valid/loss"] for epoch in outcome.epochs)
            seeds[str(seed)] = [outcome.objective, loss, interval]
            span = f"  95% {span_text(interval)}" if interval else ""
            note(f"trial {number} with seed {seed}: {metric} {outcome.objective:.4f}{span}")
            atomic_write_json(run / _FILE, {**before, **results, str(number): seeds})
        results[str(number)] = seeds
        atomic_write_json(run / _FILE, {**before, **results})
    return results


def means(results: Results) -> dict[int, Objective]:
    """Return each trial's mean over its seeds."""
    by_trial = {}
    for number, seeds in results.items():
        value, loss = (mean(seed[place] for seed in seeds.values()) for place in (0, 1))
        by_trial[int(number)] = Objective(value, loss, seeds_interval(seeds.values()))
    return by_trial


def show(results: Results, metric: str) -> None:
    """Print how the best did with other seeds."""
    rows = []
    for number, average in means(results).items():
        seeds = [seed[0] for seed in results[str(number)].values()]
        spread = (
            "the same with any seed" if len(seeds) == 1 else f"{min(seeds):.4f} to {max(seeds):.4f}"
        )
        span = span_text(average.span)
        rows.append([str(number), f"{average.value:.4f}", span, str(len(seeds)), spread])
    columns = ["trial", f"mean {metric}", "95% interval", "seeds", "range"]
    console.print(table("The best again with other seeds", columns, rows))
