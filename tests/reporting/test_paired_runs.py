"""What a comparison says of two runs on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from breedlab.reporting.paired_runs import clear_winner, paired
from breedlab.reporting.record import RunRecord

CLASSES = ["dress", "hat", "shoes"]


def run(predictions: dict[str, Any], *, several: bool = False, images: str = "f") -> RunRecord:
    return RunRecord(
        path=Path("runs/x"),
        config={"data": {"multi_label": several}},
        overrides=[],
        lineage={"data": {"fingerprint": images}},
        splits={"classes": CLASSES},
        metrics={},
        predictions=predictions,
        trials=[],
        curves={},
        tensors=cast(Any, None),
        profile=cast(Any, None),
        verdicts=[],
    )


def answers(accuracy: float, seed: int, *, losses: bool = True) -> dict[str, Any]:
    """Those of a model that knows how often it is right."""
    draw = np.random.default_rng(seed)
    labels = np.arange(240) % 3
    is_right = draw.random(240) < accuracy
    predicted = np.where(is_right, labels, (labels + 1) % 3)
    columns = {
        "photos": [f"{number}.jpg" for number in range(240)],
        "labels": labels.tolist(),
        "predicted": predicted.tolist(),
        "probabilities": [accuracy] * 240,
    }
    if losses:
        columns["losses"] = (-np.log(np.where(is_right, accuracy, 1 - accuracy))).tolist()
    return columns


def test_every_metric_is_compared_in_words() -> None:
    runs = [run(answers(0.7, 0)), run(answers(0.95, 1))]
    assert clear_winner(runs) == 1
    (text,) = paired(runs, ["one", "two"])
    first, second = text.split(". Its ")
    assert first.startswith("two is right on ") and first.count("more than chance explains") == 2
    assert all(f"{name} on " in first for name in CLASSES)  # of 80 images each
    for told in ("macro F1 is ", "its calibration error is ", "its cross-entropy is "):
        assert second.count(told) == 1
    assert second.count("more than chance explains") == 2  # both know how often they are right
    assert second.endswith("(paired bootstrap, 95% intervals).")


def test_images_are_matched_by_name_and_an_older_run_has_no_losses_to_compare() -> None:
    newer, older = answers(0.7, 0), answers(0.7, 0, losses=False)
    order = np.random.default_rng(0).permutation(240)
    shuffled = {name: [column[index] for index in order] for name, column in older.items()}
    (text,) = paired([run(newer), run(shuffled)], ["one", "two"])
    assert "is right on 0 more of 240 test images than two, which chance can explain" in text
    assert "Of no single class" in text
    assert "macro F1 is 0.0 points higher" in text and "cross-entropy" not in text


@pytest.mark.parametrize("what", ["fingerprint", "photos", "nothing"])
def test_other_images_are_not_compared(what: str) -> None:
    first, second = answers(0.7, 0), answers(0.9, 1)
    if what == "photos":
        second["photos"] = ["other.jpg", *second["photos"][1:]]
    other = run({} if what == "nothing" else second, images="g" if what == "fingerprint" else "f")
    assert paired([run(first), other], ["one", "two"]) == []
    assert clear_winner([run(first), other]) is None


def labeled(noise: dict[int, float]) -> dict[str, Any]:
    """Answers that are noisy for some labels."""
    draw = np.random.default_rng(7)
    truth = draw.random((200, 3)) < 0.4
    likely = np.where(truth, 0.9, 0.1)
    for index, share in noise.items():
        wrong = draw.random(200) < share
        likely[wrong, index] = 1 - likely[wrong, index]
    return {
        "photos": [f"{number}.jpg" for number in range(200)],
        "labels": [np.flatnonzero(row).tolist() for row in truth],
        "predicted": [np.flatnonzero(row > 0.5).tolist() for row in likely],
        "probabilities": likely.tolist(),
        "thresholds": [0.5] * 3,
    }


def test_of_several_labels_each_is_tested_and_map_is_compared() -> None:
    runs = [run(labeled({0: 0.05, 1: 0.4}), several=True), run(labeled({0: 0.05}), several=True)]
    (text,) = paired(runs, ["one", "two"])
    assert text.startswith("two has all labels right on ")
    assert "By more than chance explains, it answers right: hat on " in text
    assert "dress on" not in text and "shoes on" not in text
    assert "Its mAP is " in text and "cross-entropy is " in text and "macro F1 is " in text
    assert text.count("more than chance explains") == 5  # and once for the labels


def test_labels_that_are_answered_alike_are_said_to_be() -> None:
    runs = [run(labeled({0: 0.05}), several=True)] * 2
    (text,) = paired(runs, ["one", "two"])
    assert "Of no single label" in text and "mAP is 0.0 points higher" in text
