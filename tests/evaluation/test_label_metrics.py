"""Multi-label metrics, as scikit-learn and torchmetrics have them; thresholds;
intervals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, log_loss
from torchmetrics.classification import MultilabelAveragePrecision, MultilabelExactMatch

from breedlab.evaluation import multi_label
from breedlab.evaluation.class_metrics import make_metrics
from breedlab.evaluation.intervals import RESAMPLES
from breedlab.evaluation.label_intervals import LabelAnswers, label_interval, label_intervals
from breedlab.training.label_evaluation import evaluate_labels

IMAGES, CLASSES = 300, 6


@pytest.fixture(scope="module")
def answers() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits with ties, and targets; the last class has no image."""
    draw = torch.Generator().manual_seed(3)
    targets = (torch.rand(IMAGES, CLASSES, generator=draw) < 0.3).float()
    targets[:, -1] = 0
    logits = 2 * targets - 1 + 1.5 * torch.randn(IMAGES, CLASSES, generator=draw)
    return (logits * 4).round() / 4 + 0.1, targets  # torchmetrics gives no label at 0.5, we do


def computed(
    answers: tuple[torch.Tensor, torch.Tensor], thresholds: list[float] | None = None
) -> dict[str, float]:
    metrics = make_metrics(CLASSES, multi_label=True, thresholds=thresholds)
    for logits, targets in zip(*(part.split(64) for part in answers), strict=True):
        metrics.update(logits, targets)
    return {name: float(value) for name, value in metrics.compute().items()}


def test_average_precision_is_that_of_scikit_learn_and_torchmetrics(
    answers: tuple[torch.Tensor, torch.Tensor],
) -> None:
    logits, targets = answers
    there = [
        average_precision_score(targets[:, index], logits[:, index]) for index in range(CLASSES - 1)
    ]
    theirs = MultilabelAveragePrecision(CLASSES - 1, average="macro", thresholds=None)
    ours = computed(answers)["map"]
    assert ours == pytest.approx(np.mean(there), abs=1e-12)
    value = theirs(logits[:, :-1].double().sigmoid(), targets[:, :-1].long())
    assert ours == pytest.approx(float(value), abs=1e-5)


def test_f1_exact_and_loss_at_thresholds_are_those_of_others(
    answers: tuple[torch.Tensor, torch.Tensor],
) -> None:
    logits, targets = answers
    thresholds = [0.2, 0.5, 0.8, 0.4, 0.6, 0.5]
    found = computed(answers, thresholds)
    given = (logits.double().sigmoid() >= torch.tensor(thresholds)).numpy()
    truth = targets.numpy()
    assert found["f1"] == pytest.approx(f1_score(truth, given, average="macro"), abs=1e-9)
    assert found["micro_f1"] == pytest.approx(f1_score(truth, given, average="micro"), abs=1e-9)
    assert found["exact"] == pytest.approx((given == truth).all(1).mean())
    exact = MultilabelExactMatch(CLASSES)(logits.sigmoid(), targets.long())
    assert computed(answers)["exact"] == pytest.approx(float(exact))
    loss = [
        log_loss(truth[:, index], logits[:, index].double().sigmoid(), labels=[0, 1])
        for index in range(CLASSES)
    ]
    assert found["loss"] == pytest.approx(np.mean(loss), abs=1e-6)


def test_weights_count_images_several_times(answers: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores, truth = (part[:, 0].double().numpy() for part in answers)
    weights = np.random.default_rng(0).exponential(size=(4, IMAGES))
    found = multi_label.average_precision(scores, weights * truth, weights)
    wanted = [average_precision_score(truth, scores, sample_weight=row) for row in weights]
    assert found == pytest.approx(wanted, abs=1e-12)


def test_no_threshold_has_a_better_f1_than_the_chosen_one(
    answers: tuple[torch.Tensor, torch.Tensor],
) -> None:
    probabilities, truth = answers[0].double().sigmoid().numpy(), answers[1].numpy()
    chosen = multi_label.best_thresholds(probabilities, truth)
    for index in range(CLASSES - 1):
        scores = probabilities[:, index]
        reached = f1_score(truth[:, index], scores >= chosen[index])
        tried = [f1_score(truth[:, index], scores >= each) for each in {*scores, 0.0}]
        assert reached == pytest.approx(max(tried))
        assert chosen[index] not in scores
    assert chosen[-1] == 0.5 and multi_label.unseen(truth, list("abcdef")) == ["f"]


@pytest.mark.parametrize(
    ("scores", "truth", "threshold"),
    [
        ([0.9, 0.1], [1, 0], 0.5),  # all between are as good
        ([0.9, 0.8, 0.1], [1, 0, 1], 0.05),  # to give it to all is best
        ([0.9, 0.9, 0.2], [1, 0, 0], 0.55),  # one score cannot be told apart
        ([0.7, 0.7], [1, 1], 0.35),
        ([0.2, 0.4], [0, 0], 0.5),
    ],
)
def test_thresholds_of_ties(scores: list[float], truth: list[int], threshold: float) -> None:
    assert multi_label.best_threshold(np.array(scores), np.array(truth)) == pytest.approx(threshold)


def test_a_tie_is_decided_by_what_is_nearest_to_a_half() -> None:
    scores, truth = np.array([0.95, 0.9, 0.6, 0.3]), np.array([1, 0, 1, 0])
    # At 0.925 and at 0.45 F1 is 2/3 and 4/5; with the last two swapped both reach 2/3.
    assert multi_label.best_threshold(scores, truth) == pytest.approx(0.45)
    assert multi_label.best_threshold(scores, np.array([1, 0, 0, 1])) in (
        pytest.approx(0.15),
        pytest.approx(0.925),
    )


def test_evaluation_has_an_interval_around_every_figure(
    answers: tuple[torch.Tensor, torch.Tensor],
) -> None:
    logits, targets = answers
    names = tuple("abcdef")
    rows = iter(logits.split(50))
    found = evaluate_labels(
        lambda images: next(rows),
        [(torch.zeros(len(part), 3, 1, 1), part) for part in targets.split(50)],
        names,
        total=IMAGES,
        progress=lambda done, total: None,
        thresholds=[0.5] * CLASSES,
    )
    assert found.metrics == pytest.approx(computed(answers))
    for name, value in found.metrics.items():
        low, high = found.intervals[name]
        assert low < value < high
    for index, name in enumerate(names[:-1]):
        own = found.per_class[name]
        ap = average_precision_score(targets[:, index], logits[:, index])
        assert own["ap"] == pytest.approx(ap) and own["photos"] == int(targets[:, index].sum())
        assert own["ap_interval"][0] < ap < own["ap_interval"][1]
    assert found.per_class["f"]["ap"] is None and found.per_class["f"]["ap_interval"] is None
    columns = found.columns()
    assert columns["predicted"][0] == torch.nonzero(logits[0] >= 0).flatten().tolist()


def made(images: int, seed: int, spread: float) -> LabelAnswers:
    draw = np.random.default_rng(seed)
    truth = (draw.random((images, 3)) < 0.4).astype(float)
    logits = 2 * truth - 1 + spread * draw.normal(size=(images, 3))
    losses = np.logaddexp(0, np.where(truth > 0, -logits, logits))
    flipped = np.logaddexp(0, np.where(truth > 0, logits, -logits))
    return LabelAnswers(1 / (1 + np.exp(-logits)), truth, logits >= 0, losses, flipped)


def mean_precision(answers: LabelAnswers) -> float:
    return float(
        np.mean(
            [
                average_precision_score(answers.targets[:, c], answers.probabilities[:, c])
                for c in range(answers.targets.shape[1])
            ]
        )
    )


def test_intervals_hold_the_true_map_nineteen_times_of_twenty() -> None:
    true = mean_precision(made(200_000, 99, 1.0))
    held = 0
    for seed in range(60):
        answers = made(80, seed, 1.0)
        low, high = label_intervals({"map": mean_precision(answers)}, answers)[0]["map"]
        held += low <= true <= high
    assert held >= 53  # of 60, 57 are expected; fewer than 53 by chance once in 50


def test_a_test_without_a_mistake_does_not_promise_perfection() -> None:
    answers = made(40, 1, 0.0)
    found, classes = label_intervals({"map": 1.0, "f1": 1.0, "micro_f1": 1.0}, answers)
    for low, high in (*found.values(), *(span for span in classes if span)):
        assert 0.5 < low < 0.99 and high == 1.0


@pytest.mark.parametrize("name", ["map", "f1", "micro_f1", "exact", "loss"])
def test_the_quick_way_to_one_interval_comes_to_the_same(name: str) -> None:
    answers = made(60, 4, 1.0)
    whole, _ = label_intervals({name: 0.7}, answers)
    assert label_interval(name, 0.7, answers, most=RESAMPLES, fewest=200) == whole[name]
