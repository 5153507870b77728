"""Images that show nearly the same, by the features of a frozen backbone: mirrored and cropped
copies, and shots of a series. `data.near_duplicates` finds scaled and compressed copies without a
network."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

_SHARE = 0.25
"""Of the median distance to the nearest neighbor. Of 748 images of clothes none was nearer to its
neighbor than 0.30; of 60 mirrored copies all were nearer than 0.17, of half-sized, brighter ones
95%, and of those without a tenth of each side 75%, nearer than 0.26."""
_ROWS = 1024
MOST = 50_000
"""Images up to which each is compared with each: that many take minutes on two cores."""


def likeness_rows(
    features: torch.Tensor, others: torch.Tensor | None = None
) -> Iterator[torch.Tensor]:
    """Yield the cosine similarity of images to others, some rows at a time: (rows, others), that of
    an image to itself minus infinity.

    Args:
        features: (n, width).
        others: The indices of those that they are compared with; None for all.
    """
    units = nn.functional.normalize(features.float(), dim=1)
    others = torch.arange(len(units)) if others is None else others
    compared = units[others]
    for start in range(0, len(units), _ROWS):
        likeness = units[start : start + _ROWS] @ compared.T
        column = ((others >= start) & (others < start + _ROWS)).nonzero()[:, 0]
        likeness[others[column] - start, column] = -torch.inf
        yield likeness


def copies(features: torch.Tensor) -> list[tuple[int, int]]:
    """Return images that are nearly the same as an earlier one, each with the nearest of those, the
    closest pair first.

    Args:
        features: (n, width), of at least two images.
    """
    nearest, earlier, start = [], [], 0
    for likeness in likeness_rows(features):
        nearest.append(likeness.max(1).values)
        rows = torch.arange(start, start + len(likeness))
        is_later = torch.arange(len(features)) > rows[:, None]
        earlier.append(likeness.masked_fill_(is_later, -torch.inf).max(1))
        start += len(likeness)
    limit = _SHARE * (1 - torch.cat(nearest)).median()
    distance = 1 - torch.cat([each.values for each in earlier])
    other = torch.cat([each.indices for each in earlier])
    order = distance.argsort(stable=True)[: int((distance < limit).sum())]
    return [*zip(order.tolist(), other[order].tolist(), strict=True)]
