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
    assert len(outliers(features)) <= 3
    assert len(outliers(torch.ones(5, 8))) == 0


def clusters(seed: int, count: int) -> torch.Tensor:
    """Features of ten classes, without a stranger."""
    draw = torch.Generator().manual_seed(seed)
    centers = 2 * torch.randn(10, 48, generator=draw)
    return centers[torch.arange(count) % 10] + torch.randn(count, 48, generator=draw)


@pytest.mark.parametrize("count", [100, 200])
def test_a_single_stranger_among_few_images_is_listed_and_few_others_are(count: int) -> None:
    """With a fence of three interquartile ranges, half of them were."""
    found, others = 0, 0
    for seed in range(20):
        features = clusters(seed, count)
        others += len(outliers(features))
        noise = torch.randn(48, generator=torch.Generator().manual_seed(1000 + seed))
        stranger = features[::10].mean(0) + 2.5 * noise
        found += count in outliers(torch.cat([features, stranger[None]])).tolist()
    assert found >= 15
    assert others <= 0.015 * 20 * count


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_cleanlab_lists_is_listed(seed: int) -> None:
    """Its fence is 1.7 interquartile ranges from the upper quartile."""
    module = pytest.importorskip("cleanlab.datalab.internal.issue_manager.outlier")
    manager = module.OutlierIssueManager
    features, _ = planted(seed)
    apart = distances(features).numpy()[:, None]
    _, _, theirs = manager._compute_threshold_and_issue_column_from_distances(manager, apart)
    ours = set(outliers(features).tolist())
    assert set(np.flatnonzero(theirs).tolist()) <= ours
    assert len(ours) <= theirs.sum() + 6


def test_among_many_images_a_sample_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    features, strangers = planted(0)
    apart = distances(features)
    monkeypatch.setattr("breedlab.evaluation.outliers.MOST_COMPARED", 300)
    sampled = distances(features)
    assert (sampled >= apart - 1e-6).all()  # an image itself is never its neighbor
    assert np.corrcoef(apart, sampled)[0, 1] > 0.95
    assert torch.isin(strangers, outliers(features)).float().mean() >= 0.9
