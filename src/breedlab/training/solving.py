"""Logistic regression on cached features, solved to its optimum by L-BFGS: what a trained head has
to beat.

The problem is scikit-learn's (`StandardScaler`, then `LogisticRegression(C=c)`), and so are its
scores; a test compares the two. The penalty is chosen on validation, from the strongest down, each
solution being where the next one starts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from breedlab.config.sections import Monitor
from breedlab.evaluation.answers import ScoredImages
from breedlab.evaluation.class_metrics import make_metrics
from breedlab.evaluation.figures import with_span
from breedlab.training import loop
from breedlab.training.activations import Activations
from breedlab.training.objective import rank
from breedlab.training.solved_losses import Loss

SOLVED: dict[str, Any] = {
    "trainer.max_epochs": 1,
    "trainer.patience": None,
    "trainer.ema": 0.0,
    "optim.schedule": "constant",
    "optim.warmup_epochs": 0.0,
    "debugger.level": "none",
    "tuner.strategy": "none",
}
"""The settings of a training whose head was solved before: one epoch that measures, checkpoints,
and changes nothing, in which a debugger would see vanishing updates."""

PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Values of C that are tried, the strongest penalty first: the cheapest to solve."""
_WORSE_IN_A_ROW = 3
"""After this many that are no better, weaker penalties, which take longest, are not tried."""
_IN_DOUBLE = 250_000_000
"""Numbers of the features up to which the last solution is computed in double precision: 2 GB."""
_WORTH_THREADS = 100_000_000
"""Multiplications of one pass over the features above which a second thread pays off."""


@dataclass(frozen=True)
class Solution:
    """A head that was solved.

    Attributes:
        weight: (classes, features), for features as they are: standardization is folded in.
        bias: (classes,).
        c: The inverse strength of the penalty.
        attempts: How many values of it were tried.
        loss: The mean training loss.
        valid: The validation metrics by name.
        seconds: How long all of it took.
        scores: What the interval of the monitored metric needs.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    c: float
    attempts: int
    loss: float
    valid: dict[str, float]
    seconds: float
    scores: ScoredImages = field(compare=False, repr=False)

    def put_into(self, head: nn.Module) -> None:
        """Give a head of one layer these weights."""
        last = [module for module in head.modules() if isinstance(module, nn.Linear)][-1]
        with torch.no_grad():
            last.weight.copy_(self.weight)
            last.bias.copy_(self.bias)

    def describe(self, metric: str) -> str:
        """Return what was solved, in a line."""
        of = f", the best of {self.attempts}" if self.attempts > 1 else ""
        value = self.valid[metric]
        figure = with_span(metric.removeprefix("valid/"), value, self.scores.interval(value))
        return f"logistic regression: {metric} {figure} in {self.seconds:.1f} s (C={self.c:g}{of})"

    def as_dict(self) -> dict[str, float]:
        """Return plain data for metrics.json, without the weights."""
        return {"c": self.c, "tried": self.attempts, "seconds": round(self.seconds, 2)}


class Regression:
    """Logistic regression on standardized features with an L2 penalty on all but the biases:
    multinomial, or of each class against the rest, as the loss has it.

    Args:
        features: (n, features).
        labels: int64 (n,), or zeros and ones (n, classes).
        classes: How many there are.
        loss: What is minimized besides the penalty.
        dtype: What to compute in.
    """

    def __init__(
        self,
        features: torch.Tensor,
        labels: torch.Tensor,
        classes: int,
        loss: Loss,
        dtype: torch.dtype,
    ) -> None:
        x = features.to(dtype)
        self.mean = x.mean(0)
        std = x.std(0, correction=0)
        # A constant feature is dropped by its zeros, not scaled up.
        self.scale = torch.where(
            std > 10 * torch.finfo(dtype).eps * self.mean.abs().clamp(min=1), std, 1
        )
        x = (x - self.mean) / self.scale
        # With fewer images than features, the best weights are a combination of the images: a
        # smaller problem.
        self.basis = None
        if len(x) < x.shape[1]:
            values, vectors = torch.linalg.eigh(x @ x.T)
            significant = values > values[-1] * len(x) * torch.finfo(dtype).eps
            root = values[significant].sqrt()
            self.basis = (x.T @ vectors[:, significant]) / root
            x = vectors[:, significant] * root
        self.x, self.labels, self.loss = x, labels, loss
        self.shares = loss.shares(labels, x)
        self.weight = x.new_zeros(classes, x.shape[1]).requires_grad_()
        self.bias = x.new_zeros(classes).requires_grad_()
        self._penalty = loss.problems(classes) / (2 * len(x))

    def solve(self, c: float, tolerance: float, iterations: int = 1000) -> float:
        """Continue from the current solution to that of another penalty; return the mean loss
        without the penalty."""
        optimizer = torch.optim.LBFGS(
            [self.weight, self.bias],
            max_iter=iterations,
            max_eval=2 * iterations,
            tolerance_grad=tolerance,
            tolerance_change=0,
            history_size=20,
            line_search_fn="strong_wolfe",
        )
        mean = torch.zeros(())

        def closure() -> torch.Tensor:
            nonlocal mean
            optimizer.zero_grad()
            logits = nn.functional.linear(self.x, self.weight, self.bias)
            # Not the training's own loss, which computes in float32: too coarse for a gradient to
            # vanish.
            mean = self.loss.of_images(logits, self.labels) @ self.shares
            total = mean + self._penalty / c * self.weight.square().sum()
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return float(mean.detach())

    @torch.no_grad()
    def unfolded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weights and biases for features as they are."""
        weight = self.weight if self.basis is None else self.weight @ self.basis.T
        weight = weight / self.scale
        return weight.clone(), self.bias - weight @ self.mean


def solve(
    activations: Activations,
    classes: int,
    loss: Loss,
    monitor: Monitor,
    device: torch.device,
    c: float | None = None,
) -> Solution:
    """Solve a head on all cached views of the training features.

    Args:
        activations: Those of a frozen backbone.
        classes: How many there are.
        loss: What is minimized besides the penalty.
        monitor: The metric by which the penalty is chosen; the validation loss decides between
            equals.
        device: Where to compute.
        c: The inverse strength of the penalty; None tries `PENALTIES`.
    """
    with _threads_for(activations, classes):
        return _solve(activations, classes, loss, monitor, device, c)


@contextmanager
def _threads_for(activations: Activations, classes: int) -> Iterator[None]:
    """Keep to one thread for a small problem: on a busy machine threads wait for each other ten
    times as long."""
    before = torch.get_num_threads()
    if sum(view.numel() for view in activations.train) * classes < _WORTH_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _solve(
    activations: Activations,
    classes: int,
    loss: Loss,
    monitor: Monitor,
    device: torch.device,
    c: float | None,
) -> Solution:
    started = time.monotonic()
    features = torch.cat([view.to(device).float() for view in activations.train])
    labels = torch.cat([activations.labels] * len(activations.train)).to(device)
    best_c, attempts = c, 1
    if best_c is None:
        problem = Regression(features, labels, classes, loss, torch.float32)
        best_c, _, attempts = best_penalty(
            lambda c: reached(problem, activations, c, monitor), PENALTIES, monitor
        )
    dtype = torch.float64 if features.numel() <= _IN_DOUBLE else torch.float32
    final = Regression(features, labels, classes, loss, dtype)
    minimum = final.solve(best_c, tolerance=1e-7 if dtype == torch.float64 else 1e-5)
    weight, bias = (tensor.float().cpu() for tensor in final.unfolded())
    scores = ScoredImages(monitor.metric.removeprefix("valid/"), monitor)
    valid = _validated(weight, bias, activations, monitor, None, scores)
    seconds = time.monotonic() - started
    return Solution(weight, bias, best_c, attempts, minimum, valid, seconds, scores)


def as_epoch(solution: Solution) -> loop.Epoch:
    """Return a solution as the one epoch of a trial."""
    return loop.Epoch(0, solution.loss, solution.valid, scores=solution.scores)


def best_penalty(
    reach: Callable[[float], loop.Epoch], penalties: Sequence[float], monitor: Monitor
) -> tuple[float, loop.Epoch, int]:
    """Try penalties in order, until several in a row are no better.

    Args:
        reach: Returns the result of a penalty.
        penalties: At least one.
        monitor: The metric that decides.

    Returns:
        The best penalty, its result, and how many were tried.
    """
    epochs: list[loop.Epoch] = []
    ranks: list[tuple[float, float]] = []
    for c in penalties:
        epochs.append(reach(c))
        ranks.append(_ranked(epochs[-1].valid, monitor))
        best = _first_best(ranks)
        if len(ranks) - 1 - best >= _WORSE_IN_A_ROW:
            break
    return penalties[best], epochs[best], len(epochs)


def reached(
    problem: Regression, activations: Activations, c: float, monitor: Monitor
) -> loop.Epoch:
    """Continue to the solution of a penalty, and return its result on validation as the one epoch
    of a trial."""
    loss = problem.solve(c, tolerance=1e-4, iterations=100)
    weight, bias = (tensor.float().cpu() for tensor in problem.unfolded())
    short = monitor.metric.removeprefix("valid/")
    return loop.Epoch(0, loss, _validated(weight, bias, activations, monitor, only=short))


def _ranked(valid: Mapping[str, float], monitor: Monitor) -> tuple[float, float]:
    """Return the key by which penalties are ordered: the smaller, the better."""
    loss = valid["valid/loss"]
    value = valid[monitor.metric]
    return rank(value, loss, monitor.mode) if math.isfinite(loss) else (math.inf, math.inf)


def _first_best(ranks: Sequence[tuple[float, float]]) -> int:
    return min(range(len(ranks)), key=ranks.__getitem__)


@torch.no_grad()
def _validated(
    weight: torch.Tensor,
    bias: torch.Tensor,
    activations: Activations,
    monitor: Monitor,
    only: str | None,
    scores: ScoredImages | None = None,
) -> dict[str, float]:
    several = activations.labels.ndim == 2
    metrics = make_metrics(len(bias), only=only, monitor=monitor, multi_label=several)
    for features, labels in activations.valid_batches():
        logits = nn.functional.linear(features, weight, bias)
        metrics.update(logits, labels)
        if scores is not None:
            scores.update(logits, labels)
    return {f"valid/{name}": float(value) for name, value in metrics.compute().items()}
