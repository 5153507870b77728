"""Images nearly the same as another, by their features."""

from __future__ import annotations

import torch

from breedlab.evaluation.copies import copies


def features(count: int = 400, seed: int = 0) -> torch.Tensor:
    """Features of ten classes."""
    draw = torch.Generator().manual_seed(seed)
    centers = 2 * torch.randn(10, 64, generator=draw)
    return centers[torch.arange(count) % 10] + torch.randn(count, 64, generator=draw)


def test_each_copy_is_listed_once_with_what_it_is_a_copy_of_the_closest_first() -> None:
    images = features()
    noise = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    close = images[[7, 5, 390]] + noise * torch.tensor([[0.1], [0.02], [0.2]])
    assert copies(torch.cat([images, close])) == [(401, 5), (400, 7), (402, 390)]


def test_images_of_one_class_are_no_copies() -> None:
    assert copies(features(2000, seed=2)) == []
    assert copies(torch.ones(5, 8)) == []  # of features that say nothing


def test_in_a_series_each_names_the_nearest_before_it() -> None:
    images = features()
    series = images[:1] + 0.05 * torch.arange(5)[:, None]
    found = copies(torch.cat([series, images[1:]]))
    assert sorted(found) == [(1, 0), (2, 1), (3, 2), (4, 3)]
