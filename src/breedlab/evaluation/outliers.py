"""Images unlike all others, by the features of a frozen backbone: screenshots, drawings, strangers
among the images."""

from __future__ import annotations

import torch
from torch import nn

NEIGHBORS = 10
_FENCE = 3.0
"""How many interquartile ranges above the upper quartile a distance is "far out" (Tukey 1977)."""
_ROWS = 1024


def distances(features: torch.Tensor, neighbors: int = NEIGHBORS) -> torch.Tensor:
    """Return each image's mean cosine distance to its nearest neighbors (n,), itself left out.

    Args:
        features: (n, width), of at least two images.
        neighbors: How many count; fewer where there are fewer images.
    """
    units = nn.functional.normalize(features.float(), dim=1)
    count = min(neighbors, len(units) - 1)
    parts = []
    for start in range(0, len(units), _ROWS):
        rows = units[start : start + _ROWS]
        likeness = rows @ units.T
        own = torch.arange(len(rows))
        likeness[own, start + own] = -torch.inf
        parts.append(1 - likeness.topk(count, dim=1).values.mean(1))
    return torch.cat(parts)


def outliers(features: torch.Tensor) -> torch.Tensor:
    """Return the indices of images far from all others, the farthest first."""
    apart = distances(features)
    lower, upper = apart.quantile(torch.tensor([0.25, 0.75]))
    far: torch.Tensor = (apart > upper + _FENCE * (upper - lower)).nonzero()[:, 0]
    order: torch.Tensor = apart[far].argsort(descending=True, stable=True)
    return far[order]
