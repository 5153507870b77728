"""The intervals of a test's metrics hold the true values as often as they say: by simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from breedlab.evaluation.figures import interval
from breedlab.evaluation.statistics import bootstrap, calibration_error, macro_f1
from breedlab.training.evaluation import Evaluation, evaluate

CLASSES = tuple("abcdefgh")


def answered(images: int, seed: int, sure: float = 1.5) -> Evaluation:
    """The test of a model that is `sure` times as sure as it may be."""
    draw = torch.Generator().manual_seed(seed)
    honest = 1.5 * torch.randn(images, len(CLASSES), generator=draw)
    labels = torch.multinomial(honest.softmax(1), 1, generator=draw)[:, 0]
    return evaluate(
        lambda b: b, [(sure * honest, labels)], CLASSES, total=images, progress=lambda *_: None
    )


@pytest.mark.parametrize("sure", [1.0, 1.2, 1.5])
def test_they_hold_the_true_values(sure: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("breedlab.evaluation.statistics.RESAMPLES", 200)
    truth = answered(100_000, 0, sure).metrics
    tests = [answered(300, seed, sure) for seed in range(1, 81)]
    for name in ("top1", "f1", "loss", "ece"):
        spans = [test.intervals[name] for test in tests]
        covered = np.mean([low <= truth[name] <= high for low, high in spans])
        assert covered >= 0.88, name  # of 95%: four deviations of so few tests below it
        assert all(
            low <= test.metrics[name] <= high
            for test, (low, high) in zip(tests, spans, strict=True)
        )
        assert np.mean([high - low for low, high in spans]) < (0.5 if name == "loss" else 0.15), (
            name
        )


def test_the_statistics_are_those_that_are_shown() -> None:
    test = answered(400, seed=5)
    once = np.ones(400)
    predicted = np.array([label for label, _ in test.predictions])
    sure = np.array([probability for _, probability in test.predictions])
    draw = torch.Generator().manual_seed(5)
    labels = torch.multinomial(
        (1.5 * torch.randn(400, 8, generator=draw)).softmax(1), 1, generator=draw
    )[:, 0].numpy()
    assert macro_f1(labels, predicted, once) == pytest.approx(test.metrics["f1"], abs=1e-6)
    assert calibration_error(sure, (predicted == labels).astype(float), once) == pytest.approx(
        test.metrics["ece"], abs=1e-5
    )


def test_a_mean_has_the_interval_of_scipys_basic_bootstrap() -> None:
    from scipy import stats

    values = np.random.default_rng(3).exponential(size=200)
    low, high = bootstrap(values.mean(), 200, lambda weights: float(weights @ values / 200))
    scipys = stats.bootstrap(
        (values,), np.mean, method="basic", n_resamples=4000, rng=1
    ).confidence_interval
    assert (low, high) == pytest.approx((scipys.low, scipys.high), abs=0.02)


def test_an_interval_is_told_in_the_units_of_its_metric_and_an_old_test_keeps_that_of_its_rates() -> (  # noqa: E501
    None
):
    test = answered(300, seed=2).as_dict()
    assert "%" in interval("f1", test) and "%" not in interval("ece", test)
    del test["intervals"]  # as older versions recorded it
    assert "%" in interval("top1", test) and interval("f1", test) == ""
