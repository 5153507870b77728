"""What tells images that are of none of the classes, chosen by classes that are held out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from breedlab.models.novelty import MAHALANOBIS, METHODS, NEAREST, Novelty

FALSE_ALARMS = 0.05
"""The share of images of the classes that may be called unknown."""
FEWEST_IMAGES = 20
"""Validation images that the threshold needs; with fewer, chance would decide it."""
MOST_IMAGES = 4000
"""Training images whose features are kept."""
_WIDEST = 2048
"""The most features for which a covariance is computed: inverting it takes time with their cube,
and storing it takes memory with their square."""
_SHRINKAGE = 0.5
_FOLDS = 3
_QUANTILES = 201


def spread_indices(labels: torch.Tensor, most: int = MOST_IMAGES) -> torch.Tensor:
    """Return the indices of at most `most` images, evenly from each class."""
    if len(labels) <= most:
        return torch.arange(len(labels))
    by_class = torch.argsort(labels, stable=True)
    return by_class[torch.linspace(0, len(labels) - 1, most).long()].sort().values


def fit(method: str, features: torch.Tensor, labels: torch.Tensor) -> Novelty:
    """Return what tells the distance from images with these features (n, width) and labels (n,)."""
    features = features.float()
    if method == NEAREST:
        return Novelty(NEAREST, {"features": nn.functional.normalize(features, dim=1)})
    means = torch.stack([features[labels == label].mean(0) for label in torch.unique(labels)])
    centered = features - means[torch.searchsorted(torch.unique(labels), labels)]
    covariance = (centered.T @ centered / len(centered)).double()
    even = covariance.diagonal().mean().clamp(min=1e-12) * torch.eye(
        len(covariance), dtype=torch.float64
    )
    factor = torch.linalg.cholesky((1 - _SHRINKAGE) * covariance + _SHRINKAGE * even)
    whitening = torch.linalg.solve_triangular(
        factor, torch.eye(len(factor), dtype=torch.float64), upper=False
    ).T
    return Novelty(
        MAHALANOBIS, {"means": means @ whitening.float(), "whitening": whitening.float()}
    )


def choose(
    train: tuple[torch.Tensor, torch.Tensor], valid: tuple[torch.Tensor, torch.Tensor]
) -> tuple[Novelty, dict[str, float]]:
    """Return the method that separates held-out classes best, fitted on all, and each method's
    AUROC on those.

    A third of the classes at a time plays the stranger: their training images are left out, and
    their validation images are to be further away than those of the others.

    Args:
        train: Features and labels of the training images.
        valid: Likewise of the validation images.
    """
    features, labels = train
    methods = [method for method in METHODS if method == NEAREST or features.shape[1] <= _WIDEST]
    classes = torch.unique(labels)
    separated: dict[str, float] = {}
    if len(classes) > _FOLDS:
        order = classes[torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))]
        held_out = order.chunk(_FOLDS)
        for method in methods:
            aurocs = [
                _separated(method, features, labels, *valid, strangers) for strangers in held_out
            ]
            separated[method] = sum(aurocs) / len(aurocs)
    # the first of ties
    best = max(methods, key=lambda method: separated.get(method, 0.0))
    return fit(best, features, labels), separated


def _separated(
    method: str,
    features: torch.Tensor,
    labels: torch.Tensor,
    valid: torch.Tensor,
    valid_labels: torch.Tensor,
    strangers: torch.Tensor,
) -> float:
    familiar = ~torch.isin(labels, strangers)
    distances = fit(method, features[familiar], labels[familiar]).distance(valid)
    strange = torch.isin(valid_labels, strangers)
    return auroc(distances[~strange], distances[strange])


def auroc(below: torch.Tensor, above: torch.Tensor) -> float:
    """Return how often a number of `above` is larger than one of `below`, ties half."""
    if not len(below) or not len(above):
        return 0.5
    ordered = below.sort().values
    smaller = torch.searchsorted(ordered, above) + torch.searchsorted(ordered, above, right=True)
    return float(smaller.double().mean() / 2 / len(below))


def threshold_of(distances: torch.Tensor) -> dict[str, Any]:
    """Return, for model.json, the threshold that `FALSE_ALARMS` of images like these pass, and
    their quantiles.

    The threshold is split conformal's: new images of the classes pass it with at most that
    probability.
    """
    ordered = distances.double().sort().values
    rank = math.ceil((len(ordered) + 1) * (1 - FALSE_ALARMS))
    return {
        "threshold": float(ordered[min(rank, len(ordered)) - 1]),
        "quantiles": (
            ordered.quantile(torch.linspace(0, 1, _QUANTILES, dtype=torch.float64)).tolist()
        ),
        "false_alarms": FALSE_ALARMS,
    }


def measured(distances: torch.Tensor, answers: Mapping[str, Any]) -> dict[str, float]:
    """Return how many images of the classes, of a split that decided nothing, are called
    unknown."""
    unknown = distances > answers["threshold"]
    return {"images": len(distances), "false_alarms": float(unknown.float().mean())}
