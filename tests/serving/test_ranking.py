"""Engines are ranked by rounds that other work on the machine may have disturbed."""

from __future__ import annotations

import random

import pytest

from breedlab.models.ranking import (
    NOISY,
    Timing,
    is_clearly_faster,
    ranked,
    speedup,
    typical_spread,
)


def timing(*seconds: float) -> Timing:
    return Timing({1: list(seconds)})


def test_a_clear_lead_decides() -> None:
    engines = {
        "module": timing(9, 9.1, 9.2),
        "safe": timing(3, 3.1, 3.2),
        "bold": timing(1, 1.1, 1.2),
    }
    assert ranked(engines) == ["bold", "safe", "module"]


def test_of_two_that_noise_cannot_tell_apart_the_safer_comes_first() -> None:
    engines = {"safe": timing(3.0, 3.2, 3.1, 3.0), "bold": timing(2.9, 3.3, 3.0, 3.1)}
    assert ranked(engines) == ["safe", "bold"]


def test_one_lucky_round_decides_nothing() -> None:
    """The quickest round alone made of a neighbor's pause an engine "92.8 times as fast"."""
    engines = {"safe": timing(3.0, 3.1, 3.0, 3.1), "bold": timing(0.1, 3.1, 3.1, 3.0)}
    assert ranked(engines)[0] == "safe"


def test_a_neighbor_that_slows_both_alike_does_not_hide_a_lead() -> None:
    draw = random.Random(3)
    load = [draw.uniform(1, 6) for _ in range(10)]
    engines = {
        "module": timing(*(2.0 * slow for slow in load)),
        "bold": timing(*(1.0 * slow for slow in load)),
    }
    assert ranked(engines) == ["bold", "module"]
    assert speedup(engines["bold"], engines["module"]) == pytest.approx((2, 2, 2))
    assert typical_spread(list(engines.values())) > NOISY


def test_a_quiet_machine_is_not_called_noisy() -> None:
    assert typical_spread([timing(1.0, 1.02, 1.01, 1.03), timing(2.0, 2.1, 2.02, 2.05)]) < NOISY


def test_every_batch_size_counts_alike() -> None:
    reference = Timing({1: [2.0, 2.0], 8: [8.0, 8.0]})
    other = Timing({1: [1.0, 1.0], 8: [16.0, 16.0]})
    assert speedup(other, reference) == pytest.approx((1, 1, 1))
    assert not is_clearly_faster(other, reference)
