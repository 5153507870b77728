"""The interval of the metric that a search goes by, from the scores of its validation images."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest

from breedlab.evaluation.answers import ValidationScores
from breedlab.evaluation.class_metrics import make_metrics
from breedlab.evaluation.statistics import seeds_interval
from breedlab.training.evaluation import evaluate
from breedlab.training.label_evaluation import evaluate_labels

IMAGES, CLASSES = 150, 4


def scored() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    logits = 1.5 * torch.randn(IMAGES, CLASSES, generator=draw)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=draw)[:, 0]


def collected(metric: str, logits: torch.Tensor, targets: torch.Tensor) -> ValidationScores:
    scores = ValidationScores(metric)
    for batch in zip(logits.split(40), targets.split(40), strict=True):
        scores.update(*batch)
    return scores


def test_that_of_a_rate_is_scipys_wilson() -> None:
    logits, labels = scored()
    right = int((logits.argmax(1) == labels).sum())
    expected = binomtest(right, IMAGES).proportion_ci(0.95, method="wilson")
    found = collected("top1", logits, labels).interval(right / IMAGES)
    assert found == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("metric", ["f1", "ece", "loss"])
def test_it_is_the_one_that_a_test_of_the_same_images_has(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("breedlab.evaluation.intervals.RESAMPLES", 200)
    logits, labels = scored()
    test = evaluate(
        lambda images: images,
        [(logits, labels)],
        tuple("abcd"),
        total=IMAGES,
        progress=lambda *_: None,
    )
    found = collected(metric, logits, labels).interval(test.metrics[metric])
    assert found == pytest.approx(test.intervals[metric])


@pytest.mark.parametrize("metric", ["map", "f1", "micro_f1", "exact", "loss"])
def test_labels_have_about_the_interval_that_a_test_of_the_same_images_has(metric: str) -> None:
    logits, _ = scored()
    draw = torch.Generator().manual_seed(1)
    targets = torch.bernoulli((2 * logits).sigmoid(), generator=draw)
    test = evaluate_labels(
        lambda images: images,
        [(logits, targets)],
        tuple("abcd"),
        total=IMAGES,
        progress=lambda *_: None,
        thresholds=[0.5] * CLASSES,
    )
    value = test.metrics[metric]
    low, high = collected(metric, logits, targets).interval(value) or (1.0, 0.0)
    assert low < value < high
    assert (low, high) == pytest.approx(test.intervals[metric], abs=0.03)  # of 200 resamples


def test_a_metric_that_nothing_is_known_of_has_none() -> None:
    logits, labels = scored()
    assert collected("of_a_plugin", logits, labels).interval(0.5) is None
    assert "of_a_plugin" not in make_metrics(CLASSES)


def test_a_mean_over_seeds_has_the_mean_of_their_intervals() -> None:
    assert seeds_interval([[0.8, 0.5, [0.7, 0.9]], [0.9, 0.4, [0.8, 1.0]]]) == pytest.approx(
        (0.75, 0.95)
    )
    assert seeds_interval([[0.8, 0.5, [0.7, 0.9]], [0.9, 0.4, None]]) is None
    assert seeds_interval([[0.8, 0.5]]) is None  # as older versions recorded it
