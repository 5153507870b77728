"""The one line by which a search, here or on SageMaker, reads how well training goes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from breedlab.evaluation.metrics import end_names

if TYPE_CHECKING:
    from breedlab.config.sections import Data

FIGURES = ("train/loss", "valid/loss", "valid/top1")
"""What is printed of every epoch besides the objective."""
LABEL_FIGURES = ("train/loss", "valid/loss", "valid/map")
"""The same with `data.multi_label`."""


def figures_of(data: Data) -> tuple[str, ...]:
    """Return what is printed of every epoch of a config's training, besides the objective."""
    return LABEL_FIGURES if data.multi_label else FIGURES


_ANY = r"[-+]?[0-9.]+(?:e[-+]?[0-9]+)?"
_NUMBER = f"({_ANY})"

OBJECTIVE_REGEX = r"objective ([A-Za-z0-9_/]+)=" + _NUMBER + ";"
"""Matches what `objective_line` returns: the metric's name and its value, signs and exponents
included."""


def objective_line(metric: str, best: float) -> str:
    """Return the end of each epoch's line, from which SageMaker reads the objective.

    Args:
        metric: The monitored metric, such as `valid/top1`.
        best: Its best value so far.
    """
    return f"objective {metric}={best:.6g};"


def epoch_line(
    epoch: int, epochs: int, figures: Mapping[str, float], metric: str, best: float
) -> str:
    """Format an epoch's line: its metrics, and the objective so far.

    Args:
        epoch: Counted from 1.
        epochs: How many there are.
        figures: By name; those of `FIGURES`, or `LABEL_FIGURES`, are printed.
        metric: The monitored metric.
        best: Its best value so far.
    """
    printed = LABEL_FIGURES if LABEL_FIGURES[-1] in figures else FIGURES
    text = "  ".join(f"{name} {figures[name]:.4f}" for name in printed)
    return f"epoch {epoch}/{epochs}  {text}  {objective_line(metric, best)}"


def objective_regex(metric: str) -> str:
    """Return a regex for one metric's objective lines; its only group is the value, as SageMaker
    needs it."""
    return f"objective {re.escape(metric)}={_NUMBER};"


def interval_regexes(metric: str) -> tuple[str, str]:
    """Return regexes for the ends of the 95% interval of the objective that a training ended with,
    in lines such as `kept epoch 3, valid/top1 0.8523 (95% 0.8312 to 0.8710)`; each has one group,
    as SageMaker needs it."""
    value = f"{re.escape(metric)} {_ANY} \\(95% "
    return f"{value}{_NUMBER} to {_ANY}\\)", f"{value}{_ANY} to {_NUMBER}\\)"


def interval_names(metric: str) -> tuple[str, str]:
    """Return how curves and SageMaker call the ends of a monitored metric's interval, such as
    `interval/top1_low` and `interval/top1_high`."""
    return end_names(f"interval/{metric.removeprefix('valid/')}")


def figure_regex(metric: str) -> str:
    """Return a regex for another metric than the objective in an epoch's line, such as
    `train/loss 0.1234`; its only group is the value."""
    return f"{re.escape(metric)} {_NUMBER}"


def read_objective(line: str) -> tuple[str, float] | None:
    """Parse an objective line; return None for any other line."""
    match = re.search(OBJECTIVE_REGEX, line)
    return (match[1], float(match[2])) if match else None


def better(value: float, best: float | None, mode: str) -> bool:
    """Return whether `value` beats the best so far under `monitor.mode`."""
    return best is None or (value > best if mode == "max" else value < best)


def rank(value: float, loss: float | None, mode: str) -> tuple[float, float]:
    """Return the key by which epochs, trials and runs of a grid are ordered: the smaller, the
    better.

    The monitored metric decides; where it is equal, the lower validation loss does. On a small
    validation split many epochs and trials reach the same accuracy, and the earliest of them is
    rarely the best trained.

    Args:
        value: The monitored metric.
        loss: `valid/loss` of the same epoch; None where it is unknown, which loses every tie.
        mode: `monitor.mode`.
    """
    return (-value if mode == "max" else value, math.inf if loss is None else loss)


def best_epoch(epochs: Sequence[Mapping[str, float]], metric: str, mode: str) -> int:
    """Return the index of the best of these epochs, the earliest of those with equal metric and
    loss.

    Args:
        epochs: The metrics of each by name, at least one.
        metric: The monitored metric.
        mode: `monitor.mode`.
    """
    return min(
        range(len(epochs)), key=lambda i: rank(epochs[i][metric], epochs[i].get("valid/loss"), mode)
    )


def best_loss(epochs: Sequence[Mapping[str, float]], metric: str, mode: str) -> float | None:
    """Return the validation loss (nats) in the best of these epochs; None if it is not known.

    Args:
        epochs: The metrics of each by name; those without the monitored one do not count.
        metric: The monitored metric.
        mode: `monitor.mode`.
    """
    measured = [epoch for epoch in epochs if metric in epoch]
    if not measured:
        return None
    return measured[best_epoch(measured, metric, mode)].get("valid/loss")
