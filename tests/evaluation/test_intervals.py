"""The intervals of a test's metrics hold the true values as often as they say: by simulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from breedlab.evaluation.figures import interval
from breedlab.evaluation.intervals import Answers, bootstrap, count_interval, loss
from breedlab.evaluation.statistics import calibration_error, macro_f1, wilson
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


@pytest.fixture
def figures_alone(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Evaluation]], Any]:
    """Measures without intervals, which nobody needs of a hundred thousand images."""

    def measured(test: Callable[[], Evaluation]) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr("breedlab.training.evaluation.intervals", lambda *_: {})
            return test().metrics

    return measured


@pytest.mark.parametrize("sure", [1.0, 1.2, 1.5])
def test_they_hold_the_true_values(
    sure: float, figures_alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("breedlab.evaluation.intervals.RESAMPLES", 200)
    truth = figures_alone(lambda: answered(100_000, 0, sure))
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


def test_a_mean_has_the_interval_of_scipys_bootstrap() -> None:
    from scipy import stats

    values = np.random.default_rng(3).exponential(size=200)
    labels = np.arange(200) % 4
    answers = Answers(labels, labels, (labels + 1) % 4, np.exp(-values), values, values)
    low, high = bootstrap(answers, loss)
    scipys = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=4000, rng=1
    ).confidence_interval
    assert (low, high) == pytest.approx((scipys.low, scipys.high), abs=0.02)


def nearly_perfect(images: int, accuracy: float, seed: int) -> Evaluation:
    """The test of a model that is sure of every answer, and wrong at random."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (images,), generator=draw)
    wrong = torch.rand(images, generator=draw) > accuracy
    answer = (labels + wrong * torch.randint(1, 3, (images,), generator=draw)) % 3
    logits = 5.0 * nn.functional.one_hot(answer, 3)
    return evaluate(
        lambda batch: batch,
        [(logits, labels)],
        ("a", "b", "c"),
        total=images,
        progress=lambda *_: None,
    )


@pytest.mark.parametrize(("accuracy", "images"), [(0.99, 31), (0.96, 31), (0.04, 40)])
def test_they_hold_the_true_values_of_a_model_that_is_nearly_always_right_or_wrong(
    accuracy: float, images: int, figures_alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resampling the images alone holds the true F1 of 99% in one test of four."""
    monkeypatch.setattr("breedlab.evaluation.intervals.RESAMPLES", 200)
    truth = figures_alone(lambda: nearly_perfect(200_000, accuracy, 0))
    tests = [nearly_perfect(images, accuracy, seed) for seed in range(1, 61)]
    for name in ("top1", "f1", "loss", "ece"):
        spans = [test.intervals[name] for test in tests]
        covered = np.mean([low <= truth[name] <= high for low, high in spans])
        assert covered >= 0.85, name  # of 95%: three and a half deviations of so few tests below it
        if name in ("f1", "ece"):
            assert np.mean([high - low for low, high in spans]) < 0.3, name


def test_a_test_without_a_mistake_promises_no_more_than_its_number_of_images() -> None:
    test = nearly_perfect(31, accuracy=1.0, seed=0)
    assert test.metrics["f1"] == 1.0
    low, high = test.intervals["f1"]
    least, _ = wilson(31, 31)
    assert high == 1.0 and low == pytest.approx(least, abs=0.04)
    # what the mistakes that it may make would cost
    assert test.intervals["loss"][1] > 0.3
    assert test.intervals["ece"][1] == pytest.approx(1 - least, abs=0.04)


def test_an_interval_is_told_in_the_units_of_its_metric_and_an_old_test_keeps_that_of_its_rates() -> (  # noqa: E501
    None
):
    test = answered(300, seed=2).as_dict()
    assert "%" in interval("f1", test) and "%" not in interval("ece", test)
    del test["intervals"]  # as older versions recorded it
    assert "%" in interval("top1", test) and interval("f1", test) == ""


def test_a_mean_count_has_an_interval_that_covers_and_is_never_sure_of_one_alone() -> None:
    draw = np.random.default_rng(0)
    true = 1 + 0.3
    held = 0
    for seed in range(100):
        low, high = count_interval(1 + draw.binomial(3, 0.1, size=60), seed)
        held += low <= true <= high
    assert held >= 89  # of 95; fewer come by chance once in 200
    low, high = count_interval(np.ones(31, int))
    assert low == 1.0 and 1.02 < high < 1.3
