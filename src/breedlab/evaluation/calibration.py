"""How sure a model may be: one temperature for its scores, fitted on validation images."""

from __future__ import annotations

import math

import torch
from torch import nn

FEWEST_IMAGES = 20
"""Validation images without which no temperature is fitted: of fewer, chance decides it."""
LOWEST, HIGHEST = 0.02, 50.0
"""What temperatures may be: beyond them softmax no longer changes to speak of, or overflows."""


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the temperature that minimizes the mean cross-entropy of `logits / temperature` (Guo
    et al. 2017).

    With no mistake among the images, the smaller the temperature the better, without end. Then the
    targets are Platt's (1999), (n + 1) / (n + 2) for the label: as sure as so many right answers
    allow.

    Args:
        logits: float (n, classes).
        labels: int64 (n,).
    """
    scores = logits.detach().double().cpu()
    labels = labels.cpu()
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    perfect = bool((scores.argmax(1) == labels).all())
    smoothing = 0.0
    if perfect:
        count, classes = scores.shape
        # cross_entropy spreads it over the label, too
        smoothing = classes / ((classes - 1) * (count + 2))
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
