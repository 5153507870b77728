"""The interval of the metric that a search goes by, from the scores of its validation images."""

from __future__ import annotations

import pytest
import torch
import torchmetrics
from scipy.stats import binomtest
from torch import nn

from breedlab.evaluation.answers import ScoredImages
from breedlab.evaluation.class_metrics import make_metrics
from breedlab.evaluation.resampled import resampled_interval
from breedlab.evaluation.statistics import seeds_interval
from breedlab.training.evaluation import evaluate
from breedlab.training.label_evaluation import evaluate_labels

IMAGES, CLASSES = 150, 4


def scored() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    logits = 1.5 * torch.randn(IMAGES, CLASSES, generator=draw)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=draw)[:, 0]


class Worst(torchmetrics.Metric):
    """The recall of the class that is recognized worst, of those that there are."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("hits", torch.zeros(CLASSES))
        self.add_state("images", torch.zeros(CLASSES))

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        right = (logits.argmax(1) == labels).float()
        self.hits.index_add_(0, labels, right)
        self.images.index_add_(0, labels, torch.ones_like(right))

    def compute(self) -> torch.Tensor:
        there = self.images > 0
        return (self.hits[there] / self.images[there]).min()


class Whole(Worst):
    """Likewise, but of the first three classes, each of which there must be."""

    def compute(self) -> torch.Tensor:
        if not self.images[:3].min():
            raise ValueError("a class has no image")
        return super().compute()


def collected(metric: str, logits: torch.Tensor, targets: torch.Tensor) -> ScoredImages:
    scores = ScoredImages(metric, None)
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


@pytest.mark.parametrize("metric", ["f1", "loss"])
def test_a_metric_that_nothing_else_is_known_of_has_about_its_own_interval(metric: str) -> None:
    logits, labels = scored()
    own = make_metrics(CLASSES, only=metric)[metric]
    own.update(logits, labels)
    value = float(own.compute())
    low, high = resampled_interval(own, value, logits, labels, thresholds=[]) or (1.0, 0.0)
    known = collected(metric, logits, labels).interval(value)
    assert (low, high) == pytest.approx(known, abs=0.35 * (high - low) / 2)


@pytest.mark.parametrize("metric", ["f1", "micro_f1", "loss"])
def test_so_has_one_of_labels(metric: str) -> None:
    logits, _ = scored()
    targets = torch.bernoulli((2 * logits).sigmoid(), generator=torch.Generator().manual_seed(1))
    thresholds = [0.4] * CLASSES
    own = make_metrics(CLASSES, only=metric, multi_label=True, thresholds=thresholds)[metric]
    own.update(logits, targets)
    value = float(own.compute())
    low, high = resampled_interval(own, value, logits, targets, thresholds) or (1.0, 0.0)
    known = ScoredImages(metric, None, thresholds)
    known.update(logits, targets)
    assert (low, high) == pytest.approx(known.interval(value), abs=0.35 * (high - low) / 2)


def test_one_right_in_all_images_is_not_certain() -> None:
    logits = 5 * torch.eye(CLASSES).repeat(10, 1)
    labels = torch.arange(CLASSES).repeat(10)
    low, high = resampled_interval(Worst(), 1.0, logits, labels, thresholds=[]) or (1.0, 0.0)
    assert high == 1.0
    assert 0.5 < low < 0.95  # a mistake among ten images of a class


def test_one_that_most_parts_of_the_images_do_not_have_has_none() -> None:
    logits, labels = scored()
    labels[:] = 0
    labels[:2] = torch.tensor([1, 2])
    assert resampled_interval(Whole(), 0.5, logits, labels, thresholds=[]) is None


def test_a_mean_over_seeds_has_the_mean_of_their_intervals() -> None:
    assert seeds_interval([[0.8, 0.5, [0.7, 0.9]], [0.9, 0.4, [0.8, 1.0]]]) == pytest.approx(
        (0.75, 0.95)
    )
    assert seeds_interval([[0.8, 0.5, [0.7, 0.9]], [0.9, 0.4, None]]) is None
    assert seeds_interval([[0.8, 0.5]]) is None  # as older versions recorded it


def test_the_true_value_is_in_it_also_of_the_least_of_several_shares() -> None:
    """The bootstrap alone has it in 82%: a share that is the least of four by chance is lower still
    in most resamples."""
    draw = torch.Generator().manual_seed(2)
    true, covered, sets = 0.7, 0, 60
    for seed in range(sets):
        labels = torch.multinomial(torch.tensor([0.4, 0.3, 0.2, 0.1]), 120, True, generator=draw)
        right = torch.rand(120, generator=draw) < true
        logits = nn.functional.one_hot(torch.where(right, labels, (labels + 1) % CLASSES), CLASSES)
        metric = Worst()
        metric.update(logits, labels)
        value = float(metric.compute())
        span = resampled_interval(metric, value, logits.float(), labels, [], seed=seed)
        assert span is not None
        covered += span[0] <= true <= span[1]
    assert covered >= 0.85 * sets


def test_an_infinite_loss_has_none() -> None:
    logits, labels = scored()
    assert collected("loss", logits, labels).interval(float("inf")) is None
