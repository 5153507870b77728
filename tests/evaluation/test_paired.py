"""How two models differ on the same images: beside scipy's bootstrap, and by simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import special, stats
from sklearn.metrics import average_precision_score, f1_score

from breedlab.evaluation import paired
from breedlab.evaluation.paired import (
    Difference,
    compare_right,
    compare_right_by_class,
    differences,
    is_better,
)
from breedlab.evaluation.statistics import calibration_error

Columns = dict[str, Any]


def answered(images: int, seed: int) -> tuple[list[int], Columns, Columns]:
    """Two models that see the same: the second more dimly, and it is too sure of what it sees."""
    draw = np.random.default_rng(seed)
    labels = draw.choice(4, images, p=[0.4, 0.3, 0.2, 0.1])
    shared = 1.8 * np.eye(4)[labels] + 0.8 * draw.normal(size=(images, 4))
    models = []
    for noise, factor in ((0.5, 1.0), (0.9, 1.6)):
        logits = factor * (shared + noise * draw.normal(size=(images, 4)))
        log_probabilities = special.log_softmax(logits, axis=1)
        models.append(
            {
                "predicted": logits.argmax(1).tolist(),
                "probabilities": np.exp(log_probabilities.max(1)).tolist(),
                "losses": (-log_probabilities[np.arange(images), labels]).tolist(),
            }
        )
    return labels.tolist(), *models


def measured(labels: list[int], columns: Columns) -> dict[str, float]:
    right = np.array(columns["predicted"]) == labels
    sure = np.array(columns["probabilities"])
    return {
        "top1": float(right.mean()),
        "f1": float(f1_score(labels, columns["predicted"], average="macro")),
        "ece": float(calibration_error(sure, right, np.ones(len(labels)))),
        "loss": float(np.mean(columns["losses"])),
    }


def test_a_difference_is_that_of_the_metrics() -> None:
    labels, first, second = answered(200, 0)
    one, other = measured(labels, first), measured(labels, second)
    found = differences(labels, first, second)
    assert {name: each.value for name, each in found.items()} == pytest.approx(
        {name: one[name] - other[name] for name in one}
    )
    turned = differences(labels, second, first)
    for name, each in found.items():
        assert turned[name].value == pytest.approx(-each.value)
        assert each.low < each.value < each.high


@pytest.mark.parametrize("images", [60, 300])
def test_intervals_hold_the_true_difference_nineteen_times_of_twenty(
    images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paired, "RESAMPLES", 200)
    labels, first, second = answered(400_000, 1)
    one, other = measured(labels, first), measured(labels, second)
    held = dict.fromkeys(one, 0)
    for seed in range(100):
        for name, each in differences(*answered(images, 1000 + seed)).items():
            held[name] += each.low <= one[name] - other[name] <= each.high
    # of 95; 88 or fewer come by chance once in 200
    assert all(count >= 89 for count in held.values()), held


def test_the_difference_of_a_mean_has_the_interval_of_scipys_bootstrap() -> None:
    labels, first, second = answered(400, 2)
    found = differences(labels, first, second)["loss"]
    of_images = np.array(first["losses"]) - np.array(second["losses"])
    theirs = stats.bootstrap((of_images,), np.mean, method="percentile", rng=1).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_it_is_narrower_than_what_the_models_own_intervals_leave_open() -> None:
    """That is what a paired comparison is for: most of the chance is in the images."""
    labels, first, second = answered(300, 3)
    rng = np.random.default_rng(0)
    unpaired = differences(labels, first, {**second, "losses": rng.permutation(second["losses"])})
    found = differences(labels, first, second)
    assert (
        found["loss"].high - found["loss"].low < unpaired["loss"].high - unpaired["loss"].low - 0.02
    )


def test_the_test_of_what_is_right_is_scipys_binomial() -> None:
    labels, first, second = answered(200, 4)
    found = compare_right(labels, first, second)
    right = [np.array(each["predicted"]) == labels for each in (first, second)]
    only = [int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())]
    assert found.more == only[0] - only[1] and found.images == 200
    assert found.p == pytest.approx(stats.binomtest(only[0], sum(only)).pvalue)


def test_models_that_answer_alike_may_still_differ_by_a_little() -> None:
    labels, first, _ = answered(31, 5)
    found = differences(labels, first, first)
    for name in ("top1", "f1"):
        assert found[name].value == 0 and -0.25 < found[name].low < 0 < found[name].high < 0.25
    assert all(each.by_chance for each in found.values())
    assert compare_right(labels, first, first).p == 1


def test_two_images_more_do_not_show_that_a_model_is_better() -> None:
    labels = [number % 3 for number in range(31)]
    first = {"predicted": labels, "probabilities": [0.9] * 31}
    second = {"predicted": [1, 2, *labels[2:]], "probabilities": [0.9] * 31}
    found = differences(labels, first, second)
    assert found["f1"].by_chance and found["top1"].by_chance and "loss" not in found
    assert compare_right(labels, first, second).p == 0.5


def test_a_single_class_has_nothing_to_compare() -> None:
    columns = {"predicted": [0, 0], "probabilities": [1.0, 1.0]}
    assert differences([0, 0], columns, columns) == {}


@pytest.mark.parametrize(
    ("difference", "text", "better"),
    [
        (
            Difference("f1", 0.069, -0.064, 0.23),
            "macro F1 is 6.9 points higher (-6.4 to +23.0), which chance can explain",
            False,
        ),
        (
            Difference("loss", -0.12, -0.2, -0.01),
            "cross-entropy is 0.120 lower (-0.200 to -0.010), more than chance explains",
            True,
        ),
        (
            Difference("map", -0.02, -0.03, -0.01),
            "mAP is 2.0 points lower (-3.0 to -1.0), more than chance explains",
            False,
        ),
    ],
)
def test_it_is_said_in_words(difference: Difference, text: str, better: bool) -> None:
    assert difference.in_words() == text and is_better(difference) is better


def labeled(images: int, seed: int) -> tuple[list[list[int]], Columns, Columns]:
    """Two models of images with several labels; the second sees more dimly."""
    draw = np.random.default_rng(seed)
    truth = draw.random((images, 3)) < 0.4
    shared = 2 * truth - 1 + 0.6 * draw.normal(size=(images, 3))
    models = []
    for noise in (0.4, 1.0):
        likely = special.expit(2 * (shared + noise * draw.normal(size=(images, 3))))
        given = [np.flatnonzero(row >= 0.5).tolist() for row in likely]
        models.append({"predicted": given, "probabilities": likely.round(6).tolist()})
    return [np.flatnonzero(row).tolist() for row in truth], *models


def as_targets(labels: list[list[int]]) -> np.ndarray[Any, Any]:
    return np.array([[label in own for label in range(3)] for own in labels])


def mean_precision(labels: list[list[int]], columns: Columns) -> float:
    return float(
        average_precision_score(
            as_targets(labels), np.array(columns["probabilities"]), average="macro"
        )
    )


def test_differences_of_labels_are_those_of_scikit_learn() -> None:
    labels, first, second = labeled(150, 0)
    found = differences(labels, first, second)
    more = mean_precision(labels, first) - mean_precision(labels, second)
    assert found["map"].value == pytest.approx(more, abs=1e-9)
    for name, average in (("f1", "macro"), ("micro_f1", "micro")):
        one, other = (
            f1_score(as_targets(labels), as_targets(each["predicted"]), average=average)
            for each in (first, second)
        )
        assert found[name].value == pytest.approx(one - other)
    assert found["loss"].value < 0


def test_intervals_of_labels_hold_the_true_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    large = labeled(200_000, 1)
    true = {"map": mean_precision(*large[:2]) - mean_precision(large[0], large[2])}
    true["f1"] = float(
        np.subtract(
            *(
                f1_score(as_targets(large[0]), as_targets(each["predicted"]), average="macro")
                for each in large[1:]
            )
        )
    )
    held = dict.fromkeys(true, 0)
    for seed in range(60):
        found = differences(*labeled(80, 100 + seed))
        for name, value in true.items():
            held[name] += found[name].low <= value <= found[name].high
    assert all(count >= 53 for count in held.values()), held  # as of a single model


def test_each_label_is_tested_by_itself() -> None:
    labels, first, second = labeled(150, 2)
    found = compare_right_by_class(labels, first, second, classes=3)
    truth, one, other = (
        as_targets(each) for each in (labels, first["predicted"], second["predicted"])
    )
    for index, test in enumerate(found):
        right = [each[:, index] == truth[:, index] for each in (one, other)]
        only = [int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())]
        assert test.more == only[0] - only[1]
        assert test.p == pytest.approx(stats.binomtest(only[0], sum(only)).pvalue)


def test_each_class_is_tested_on_its_images() -> None:
    labels, first, second = answered(200, 6)
    found = compare_right_by_class(labels, first, second, classes=4)
    truth = np.array(labels)
    for index, test in enumerate(found):
        own = truth == index
        right = [(np.array(each["predicted"]) == truth)[own] for each in (first, second)]
        only = [int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())]
        assert test.images == own.sum() and test.more == only[0] - only[1]
        assert test.p == pytest.approx(stats.binomtest(only[0], sum(only)).pvalue)
