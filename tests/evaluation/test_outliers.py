"""Images unlike all others, beside cleanlab."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from breedlab.evaluation.outliers import NEIGHBORS, distances, outliers


def planted(seed: int, strangers: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of ten classes, and which of them are of none."""
    draw = torch.Generator().manual_seed(seed)
    centers = 2 * torch.randn(10, 48, generator=draw)
    features = centers[torch.arange(600) % 10] + torch.randn(600, 48, generator=draw)
    chosen = torch.randperm(600, generator=draw)[:strangers]
    features[chosen] = 2.2 * torch.randn(strangers, 48, generator=draw)
    return features, chosen


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_strangers_are_listed_and_few_others(seed: int) -> None:
    features, strangers = planted(seed)
    found = outliers(features)
    assert torch.isin(strangers, found).float().mean() >= 0.9
    assert len(found) <= len(strangers) + 6
    assert torch.isin(found[:6], strangers).all()


def test_the_distances_rank_images_as_cleanlab_does() -> None:
    detector = pytest.importorskip("cleanlab.outlier").OutOfDistribution({"k": NEIGHBORS})
    features, _ = planted(4)
    theirs = detector.fit_score(features=features.numpy(), verbose=False)  # the lower, the stranger
    ours = distances(features).numpy()
    assert (np.argsort(theirs)[:8] == np.argsort(-ours)[:8]).all()
    ranks = [np.argsort(np.argsort(values)) for values in (-theirs, ours)]
    assert np.corrcoef(*ranks)[0, 1] > 0.99


def test_images_alike_have_no_outlier() -> None:
    features = torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    assert len(outliers(features)) == 0
    assert len(outliers(torch.ones(5, 8))) == 0
