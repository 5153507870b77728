"""Logistic regression solved on features: scikit-learn is the judge, and a run with it is a run
like any other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from breedlab.config.sections import Monitor
from breedlab.training.activations import Activations
from breedlab.training.solved_losses import CrossEntropy
from breedlab.training.solving import PENALTIES, Solution, solve

sklearn_linear = pytest.importorskip("sklearn.linear_model")
CPU = torch.device("cpu")


def drawn(images: int, width: int, classes: int, seed: int = 0) -> Activations:
    """Features like a backbone's: not negative, correlated, of very different sizes, one of them
    constant."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, 2 * images)
    centers, mixing = (
        draw.normal(size=(classes, width)),
        draw.normal(size=(width, width)) / width**0.5,
    )
    rows = np.maximum(
        0, (centers[labels] + 2 * draw.normal(size=(2 * images, width))) @ mixing + 0.5
    )
    rows *= draw.uniform(0.01, 5, width)
    rows[:, 3] = 0.7
    features, truth = torch.tensor(rows, dtype=torch.float32), torch.tensor(labels)
    return Activations((features[:images],), features[images:], truth[:images], truth[images:])


def by_scikit_learn(cached: Activations, c: float, weight: str | None = None) -> np.ndarray:
    """The log-probabilities of the validation images."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    judge = make_pipeline(
        StandardScaler(),
        sklearn_linear.LogisticRegression(C=c, tol=1e-8, max_iter=20_000, class_weight=weight),
    )
    judge.fit(cached.train[0].double().numpy(), cached.labels.numpy())
    found: np.ndarray = judge.predict_log_proba(cached.valid.double().numpy())
    return found


def log_probabilities(solution: Solution, cached: Activations) -> np.ndarray:
    return nn.functional.linear(cached.valid, solution.weight, solution.bias).log_softmax(1).numpy()


@pytest.mark.parametrize("c", [0.003, 1.0])
@pytest.mark.parametrize(("images", "width", "classes"), [(400, 30, 5), (60, 150, 4), (300, 20, 2)])
def test_scores_are_those_of_scikit_learn(images: int, width: int, classes: int, c: float) -> None:
    cached = drawn(images, width, classes)
    solution = solve(cached, classes, CrossEntropy(), Monitor(), CPU, c)
    np.testing.assert_allclose(
        log_probabilities(solution, cached), by_scikit_learn(cached, c), atol=1e-3
    )
    assert solution.c == c and solution.attempts == 1


def test_balanced_classes_weigh_as_in_scikit_learn() -> None:
    cached = drawn(300, 20, 3)
    kept = torch.cat([(cached.labels == 0).nonzero()[:15], (cached.labels != 0).nonzero()]).squeeze(
        1
    )
    cached = Activations(
        (cached.train[0][kept],), cached.valid, cached.labels[kept], cached.valid_labels
    )
    counts = torch.bincount(cached.labels).float()
    solution = solve(cached, 3, CrossEntropy(counts.sum() / (3 * counts)), Monitor(), CPU, 0.1)
    np.testing.assert_allclose(
        log_probabilities(solution, cached), by_scikit_learn(cached, 0.1, "balanced"), atol=1e-3
    )


def test_the_penalty_is_the_one_that_validates_best() -> None:
    """Of those that were tried; scikit-learn's validation accuracies and losses decide which that
    is."""
    cached = drawn(200, 60, 4, seed=1)
    solution = solve(cached, 4, CrossEntropy(), Monitor(), CPU)
    truth = cached.valid_labels.numpy()

    def quality(c: float) -> tuple[float, float]:
        scores = by_scikit_learn(cached, c)
        return float((scores.argmax(1) == truth).mean()), float(
            scores[np.arange(len(truth)), truth].mean()
        )

    best = max(PENALTIES[: solution.attempts], key=quality)
    assert solution.c == best
    assert solution.valid["valid/top1"] == pytest.approx(quality(best)[0], abs=1e-6)
    assert solution.valid["valid/loss"] == pytest.approx(-quality(best)[1], abs=1e-4)
