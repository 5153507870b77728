"""Intervals and tests, beside scipy's."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.stats import binomtest

from breedlab.evaluation.statistics import mcnemar, wilson


@pytest.mark.parametrize(
    ("right", "of"), [(210, 245), (0, 1), (1, 1), (0, 30), (30, 30), (98, 100), (4999, 5000)]
)
def test_the_interval_is_scipys(right: int, of: int) -> None:
    expected = binomtest(right, of).proportion_ci(0.95, method="wilson")
    assert wilson(right, of) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_its_ends_are_exact_without_a_success_and_without_a_failure() -> None:
    for of in range(1, 1000):
        assert wilson(0, of)[0] == 0 and wilson(of, of)[1] == 1


def test_the_clothes_of_the_readme() -> None:
    low, high = wilson(0.857 * 245, 245)
    assert f"{low:.1%} to {high:.1%}" == "80.8% to 89.5%"


@pytest.mark.parametrize(
    ("only_first", "only_second", "both"),
    [(5, 1, 90), (0, 0, 4), (7, 7, 0), (40, 12, 200), (90, 10, 0)],
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
    assert mcnemar([*np.array(first)], [*np.array(second)]) == pytest.approx(expected)


def test_the_interval_covers_what_it_says() -> None:
    """Of experiments whose true rate is known, 95% have it in their interval."""
    draw = random.Random(0)
    for true_rate, images in ((0.857, 245), (0.98, 96), (0.5, 40)):
        covered = 0
        for _ in range(2000):
            low, high = wilson(sum(draw.random() < true_rate for _ in range(images)), images)
            covered += low <= true_rate <= high
        assert 0.93 < covered / 2000 < 0.975
