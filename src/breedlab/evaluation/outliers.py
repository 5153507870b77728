"""Images unlike all others, by the features of a frozen backbone: screenshots, drawings, strangers
among the images."""

from __future__ import annotations

import torch

from breedlab.evaluation.copies import likeness_rows

NEIGHBORS = 10
MOST_COMPARED = 10_000
"""Images that each is compared with."""
_FENCE = 1.5
"""How many interquartile ranges above the upper quartile a distance is outside (Tukey 1977);
cleanlab takes 1.7. Of 100 images of clothes with one dog it lists the dog in 8 of 10 draws, and 1.8
other images of 1,000; a fence of 3 lists it in none. docs/explanation/statistics.md has more."""


def distances(features: torch.Tensor, neighbors: int = NEIGHBORS) -> torch.Tensor:
    """Return each image's mean cosine distance to its nearest neighbors (n,), itself left out.

    Args:
        features: (n, width), of at least two images.
        neighbors: How many count; fewer where there are fewer images. Of many images, they are
            those among a random sample, so that the time grows with the images, not their square.
    """
    count = min(neighbors, len(features) - 1)
    draw = torch.Generator().manual_seed(0)
    some = torch.randperm(len(features), generator=draw)[:MOST_COMPARED]
    rows = (each.topk(count, dim=1).values.mean(1) for each in likeness_rows(features, some))
    return 1 - torch.cat([*rows])


def outliers(features: torch.Tensor) -> torch.Tensor:
    """Return the indices of images far from all others, the farthest first."""
    apart = distances(features)
    lower, upper = apart.quantile(torch.tensor([0.25, 0.75]))
    far: torch.Tensor = (apart > upper + _FENCE * (upper - lower)).nonzero()[:, 0]
    order: torch.Tensor = apart[far].argsort(descending=True, stable=True)
    return far[order]
