"""What tells images of none of the classes, beside scikit-learn's distances and planted
strangers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from breedlab.evaluation.novelty import (
    FALSE_ALARMS,
    auroc,
    choose,
    fit,
    spread_indices,
    threshold_of,
)
from breedlab.models.novelty import MAHALANOBIS, METHODS, NEAREST, NEIGHBORS

WIDTH = 24


def clusters(images: int, classes: range, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features around one center a class, the same centers for every seed."""
    centers = 4 * torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(99))
    draw = torch.Generator().manual_seed(seed)
    labels = torch.tensor(list(classes))[torch.randint(len(classes), (images,), generator=draw)]
    return centers[labels] + torch.randn(images, WIDTH, generator=draw), labels


@pytest.mark.parametrize("method", METHODS)
def test_of_planted_strangers_nine_in_ten_are_refused_at_one_false_alarm_in_twenty(
    method: str,
) -> None:
    novelty = fit(method, *clusters(600, range(10), seed=0))
    known, _ = clusters(4000, range(10), seed=2)
    strangers, _ = clusters(1000, range(10, 40), seed=3)
    alarms, refused = [], []
    for seed in range(10, 20):  # validation sets
        threshold = threshold_of(novelty.distance(clusters(200, range(10), seed)[0]))["threshold"]
        alarms.append(float((novelty.distance(known) > threshold).float().mean()))
        refused.append(float((novelty.distance(strangers) > threshold).float().mean()))
    assert np.mean(alarms) == pytest.approx(FALSE_ALARMS, abs=0.015)
    assert min(refused) > 0.9


def test_the_nearest_are_scikit_learns() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    features, labels = clusters(300, range(6), seed=4)
    asked, _ = clusters(50, range(12), seed=5)
    tree = neighbors.NearestNeighbors(
        n_neighbors=NEIGHBORS, metric="cosine", algorithm="brute"
    ).fit(features.numpy())
    expected = tree.kneighbors(asked.numpy())[0].mean(1)
    np.testing.assert_allclose(
        fit(NEAREST, features, labels).distance(asked), expected, rtol=1e-3, atol=1e-6
    )


def test_the_mahalanobis_distance_is_scipys() -> None:
    from scipy.spatial.distance import mahalanobis

    features, labels = clusters(300, range(3), seed=6)
    asked, _ = clusters(20, range(5), seed=7)
    means = np.stack([features[labels == label].mean(0) for label in range(3)])
    covariance = np.cov((features.numpy() - means[labels.numpy()]).T, bias=True)
    shrunk = 0.5 * covariance + 0.5 * np.diag(covariance).mean() * np.eye(WIDTH)
    inverse = np.linalg.inv(shrunk)
    expected = [min(mahalanobis(row, mean, inverse) for mean in means) for row in asked.numpy()]
    np.testing.assert_allclose(
        fit(MAHALANOBIS, features, labels).distance(asked), expected, rtol=1e-3
    )


def test_the_method_that_separates_held_out_classes_best_is_taken() -> None:
    train, valid = clusters(300, range(6), seed=0), clusters(200, range(6), seed=1)
    # Directions that say nothing and drown the cosine; the covariance knows them.
    for seed, (features, _) in enumerate((train, valid)):
        noise = torch.Generator().manual_seed(seed)
        features[:, :8] += 100 * torch.randn(len(features), 8, generator=noise)
    novelty, separated = choose(train, valid)
    assert novelty.method == MAHALANOBIS and separated[MAHALANOBIS] > separated[NEAREST]


def test_auroc_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    below, above = torch.tensor([1.0, 2.0, 2.0, 5.0]), torch.tensor([2.0, 3.0, 9.0])
    expected = metrics.roc_auc_score([0] * 4 + [1] * 3, torch.cat([below, above]))
    assert auroc(below, above) == pytest.approx(expected)


def test_of_many_images_some_of_every_class_are_kept() -> None:
    labels = torch.arange(1000) % 7
    chosen = spread_indices(labels, most=70)
    assert len(torch.unique(chosen)) == 70
    assert torch.bincount(labels[chosen]).min() >= 9
