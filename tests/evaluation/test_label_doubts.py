"""Wrong labels of images of several classes, planted and looked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from breedlab.evaluation.label_doubts import doubts, out_of_fold_labels
from breedlab.training.folds import fold_numbers


def _drawn(images: int, apart: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features and the labels that they show."""
    draw = np.random.default_rng(0)
    targets = draw.random((images, 4)) < [0.5, 0.3, 0.2, 0.005]
    features = draw.normal(size=(images, 24))
    features[:, :4] += apart * targets
    return torch.tensor(features, dtype=torch.float32), torch.tensor(targets).float()


def test_planted_labels_lead_the_list() -> None:
    features, true = _drawn(600, 6.0)
    planted = torch.randperm(600, generator=torch.Generator().manual_seed(1))[:30]
    labels = true.clone()
    for number, image in enumerate(planted.tolist()):
        labels[image, number % 3] = 1 - labels[image, number % 3]  # given and left out alike
    fold = fold_numbers(labels, [""] * 600, 5, seed=0)
    found = doubts(out_of_fold_labels(features, labels, fold), labels)
    assert found.judged.tolist() == [True, True, True, False]  # too few images have the last
    assert len({*found.listed()[:30]} & {*planted.tolist()}) >= 27
    wrong = (labels != true) & found.probable
    assert int(wrong.sum()) >= 15 and bool((wrong == found.probable).all())  # sure, and right
    assert not found.worth_a_look[:, 3].any()


def test_features_that_tell_nothing_doubt_nothing() -> None:
    features, labels = _drawn(300, 0.0)
    fold = fold_numbers(labels, [""] * 300, 5, seed=0)
    found = doubts(out_of_fold_labels(features, labels, fold), labels)
    assert not found.judged.any() and found.listed() == []


def test_each_label_is_a_regression_of_its_own() -> None:
    """The probabilities are scikit-learn's, by the other folds alone."""
    features, labels = _drawn(200, 2.0)
    fold = fold_numbers(labels, [""] * 200, 4, seed=0)
    probabilities = out_of_fold_labels(features, labels, fold)
    for number in range(4):
        inside, outside = fold != number, fold == number
        mean, deviation = features[inside].mean(0), features[inside].std(0)
        scaled = ((features - mean) / deviation / 24**0.5).numpy()
        for label in (0, 1, 2):
            # ours is the mean loss and 1e-3 / 2 |w|^2, theirs C times the sum and 1/2 |w|^2
            theirs = LogisticRegression(C=1e3 / int(inside.sum()), max_iter=5000, tol=1e-8)
            theirs.fit(scaled[inside], labels[inside, label].numpy())
            wanted = theirs.predict_proba(scaled[outside])[:, 1]
            assert probabilities[outside, label].numpy() == pytest.approx(wanted, abs=0.02)
