"""Calibration: one temperature for a model's scores, fitted on validation images."""

from __future__ import annotations

import math

import torch
from torch import nn

FEWEST_IMAGES = 20
"""Validation images below which no temperature is fitted: with fewer, chance decides it."""
LOWEST, HIGHEST = 0.02, 50.0
"""The range of temperatures: beyond it, softmax hardly changes, or overflows."""

_SIGNIFICANT = 3.841
"""Twice the gain in log-likelihood above which one parameter is no chance: the 95% quantile of
chi-squared with one degree of freedom (Wilks 1938)."""


def calibrating_temperature(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Return the temperature to divide scores by, and the fitted one.

    A model that is well calibrated already gets a temperature near 1 by chance, which makes new
    answers a little worse. So it stays 1 unless the images show that another is better: by a
    likelihood-ratio test at 5%.

    Args:
        logits: float (n, classes).
        labels: int64 (n,).
    """
    fitted = fit_temperature(logits, labels)
    scores, labels = logits.detach().double().cpu(), labels.cpu()
    smoothing = _smoothing(scores, labels)

    def likelihood(temperature: float) -> float:
        losses = nn.functional.cross_entropy(
            scores / temperature, labels, label_smoothing=smoothing, reduction="sum"
        )
        return -float(losses)

    gain = 2 * (likelihood(fitted) - likelihood(1.0))
    return (fitted if gain > _SIGNIFICANT else 1.0), fitted


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the temperature that minimizes the mean cross-entropy of `logits / temperature` (Guo
    et al. 2017).

    Without a single mistake among the images, a smaller temperature is always better, without
    limit. The targets are then Platt's (1999), (n + 1) / (n + 2) for the label: as confident as
    that many right answers allow.

    Args:
        logits: float (n, classes).
        labels: int64 (n,).
    """
    scores = logits.detach().double().cpu()
    labels = labels.cpu()
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    smoothing = _smoothing(scores, labels)
    optimizer = torch.optim.LBFGS(
        [log_temperature],
        max_iter=100,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(
            scores / log_temperature.exp(), labels, label_smoothing=smoothing
        )
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    temperature = math.exp(log_temperature.item())
    if not math.isfinite(temperature):
        return 1.0
    return min(HIGHEST, max(LOWEST, temperature))


def _smoothing(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Return what makes Platt's targets of labels that are all right; else nothing."""
    if not bool((scores.argmax(1) == labels).all()):
        return 0.0
    count, classes = scores.shape
    # cross_entropy spreads it over the label, too
    return classes / ((classes - 1) * (count + 2))
