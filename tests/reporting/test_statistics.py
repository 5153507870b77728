"""Intervals and tests, beside scipy's."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.stats import binomtest

from breedlab.evaluation.statistics import macro_f1, mcnemar, paired_interval, wilson


@pytest.mark.parametrize(
    ("right", "of"), [(210, 245), (0, 1), (1, 1), (0, 30), (30, 30), (98, 100), (4999, 5000)]
)
def test_the_interval_is_scipys(right: int, of: int) -> None:
    expected = binomtest(right, of).proportion_ci(0.95, method="wilson")
    assert wilson(right, of) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_clothes_of_the_readme() -> None:
    low, high = wilson(0.857 * 245, 245)
    assert f"{low:.1%} to {high:.1%}" == "80.8% to 89.5%"


@pytest.mark.parametrize(
    ("only_first", "only_second", "both"), [(5, 1, 90), (0, 0, 4), (7, 7, 0), (40, 12, 200)]
)
def test_the_paired_test_is_the_binomial_of_the_disagreements(
    only_first: int, only_second: int, both: int
) -> None:
    first = [True] * only_first + [False] * only_second + [True] * both
    second = [False] * only_first + [True] * only_second + [True] * both
    tosses = only_first + only_second
    expected = binomtest(only_first, tosses, 0.5).pvalue if tosses else 1.0
    assert mcnemar(first, second) == pytest.approx(expected)
    assert mcnemar(second, first) == pytest.approx(expected)


def test_the_interval_covers_what_it_says() -> None:
    """Of experiments whose true rate is known, 95% have it in their interval."""
    draw = random.Random(0)
    for true_rate, images in ((0.857, 245), (0.98, 96), (0.5, 40)):
        covered = 0
        for _ in range(2000):
            low, high = wilson(sum(draw.random() < true_rate for _ in range(images)), images)
            covered += low <= true_rate <= high
        assert 0.93 < covered / 2000 < 0.975


def test_the_paired_interval_holds_the_true_difference_nineteen_times_of_twenty() -> None:
    """Of two models that are right on the same images more often than by chance."""
    draw = np.random.default_rng(0)

    def answers(images: int) -> list[np.ndarray]:
        labels = draw.choice(4, images, p=[0.4, 0.3, 0.2, 0.1])
        shared, wrong = draw.random(images), draw.integers(1, 4, images)
        models = []
        for rate in (0.85, 0.75):
            is_right = np.where(draw.random(images) < 0.7, shared, draw.random(images)) < rate
            models.append(np.where(is_right, labels, (labels + wrong) % 4))
        return [labels, *models]

    labels, first, second = answers(1_000_000)
    every = np.ones(len(labels))
    true = float(macro_f1(labels, first, every) - macro_f1(labels, second, every))
    held = 0
    for _ in range(200):
        low, high = paired_interval(*answers(300), resamples=200)
        held += low <= true <= high
    assert 180 <= held <= 199


def test_two_images_more_do_not_show_that_a_model_is_better() -> None:
    labels = np.arange(31) % 3
    second = labels.copy()
    second[:2] = [1, 2]
    low, high = paired_interval(labels, labels, second)
    assert mcnemar([True] * 31, [*(labels == second)]) == 0.5 and low < 0 < high
    low, high = paired_interval(labels, labels, labels)
    assert -0.25 < low < 0 < high < 0.25
