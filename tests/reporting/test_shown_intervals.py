"""Every figure that people read has an interval beside it: in the terminal and in the report."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_runs import write_run
from rich.console import Console
from rich.table import Table
from sklearn.metrics import f1_score

from breedlab.evaluation.figures import calibration_before, f1_span
from breedlab.evaluation.statistics import f1_interval
from breedlab.reporting.summary import engines_table, labels_table, metrics_table
from breedlab.training.evaluation import evaluate
from breedlab.training.label_evaluation import evaluate_labels

SPAN = r"\d+\.\d% to \d+\.\d%"
CLASSES = tuple("abcd")


def shown(table: Table, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def cells(table: Table, column: str) -> list[str]:
    """The texts of a column."""
    found = next(each for each in table.columns if str(each.header).startswith(column))
    return [str(cell) for cell in found.cells]


def evaluated(temperature: float = 1.0) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(200, 4, generator=draw)
    labels = torch.multinomial((logits / 2).softmax(1), 1, generator=draw)[:, 0]
    return evaluate(
        lambda images: images,
        [(logits, labels)],
        CLASSES,
        total=200,
        progress=lambda *_: None,
        temperature=temperature,
    ).as_dict()


def test_the_calibration_error_without_the_temperature_has_the_interval_of_that_test() -> None:
    scaled, plain = evaluated(2.0), evaluated()
    before = scaled["calibration"]
    assert before["ece_before"] == pytest.approx(plain["metrics"]["ece"])
    assert before["ece_before_interval"] == pytest.approx(plain["intervals"]["ece"])
    assert calibration_before(scaled)[1] in shown(metrics_table("Test", scaled), 80)
    del before["ece_before_interval"]  # as older versions recorded it
    assert calibration_before(scaled) == (f"{before['ece_before']:.3f}", "")


EXPORT = {
    "photos": {"validation": 120},
    "candidates": [
        {
            "engine": "eager",
            "precision": "fp32",
            "milliseconds": {"1": 9.1, "8": 5.0},
            "speedup": [1.0, 1.0, 1.0],
            "agreement": 1.0,
            "top1": 0.9,
            "verdict": "",
        },
        {
            "engine": "openvino",
            "precision": "int8",
            "milliseconds": {"1": 2.1, "8": 1.0},
            "speedup": [4.61, 4.5, 4.7],
            "agreement": 0.975,
            "top1": 0.9,
            "verdict": "agrees with the module on 97.5% of 120 images; the true share may be as low"
            " as 92.9%, at least 95% have to be certain",
        },
        {
            "engine": "onnx",
            "precision": "fp32",
            "milliseconds": {},
            "speedup": None,
            "agreement": None,
            "top1": None,
            "verdict": "is not installed",
        },
    ],
}


@pytest.mark.parametrize("width", [80, 120])
def test_engines_have_the_intervals_of_what_they_agree_on_and_answer_right(width: int) -> None:
    table = engines_table(EXPORT)
    module, int8, missing = cells(table, "agrees")
    assert module == "100.0%"  # with itself, on any image
    assert int8 == "97.5% (92.9% to 99.1%)" and missing == ""
    assert cells(table, "valid top-1")[:2] == ["90.0% (83.3% to 94.2%)"] * 2
    text = shown(table, width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text


@pytest.mark.parametrize("width", [80, 120])
def test_labels_have_the_intervals_of_precision_and_recall(width: int) -> None:
    draw = torch.Generator().manual_seed(1)
    targets = (torch.rand(90, 4, generator=draw) < 0.3).float()
    targets[:, 3] = 0
    logits = 2 * targets - 1 + torch.randn(90, 4, generator=draw)
    test = evaluate_labels(
        lambda images: images,
        [(logits, targets)],
        ("dress", "long sleeve", "shoes", "hat"),
        total=90,
        progress=lambda *_: None,
        thresholds=[0.5] * 4,
    ).as_dict()
    table = labels_table(test)
    for column in ("AP", "precision", "recall"):
        texts = cells(table, column)
        assert len(texts) == 3 and all(re.fullmatch(rf"\S+% \({SPAN}\)", text) for text in texts)
    text = shown(table, width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text


def test_a_label_that_no_image_was_given_has_a_precision_without_an_interval() -> None:
    assert f1_span(0, 0, 0) == ""
    assert re.fullmatch(SPAN, f1_span(0, 0, 3)) and re.fullmatch(SPAN, f1_span(0, 3, 0))


def test_the_interval_of_f1_is_around_that_of_scikit_learn_and_covers_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)

    def counted(images: int) -> tuple[float, int, int]:
        truth = draw.random(images) < 0.2
        given = np.where(draw.random(images) < 0.85, truth, draw.random(images) < 0.2)
        return f1_score(truth, given), int((truth & given).sum()), int((truth ^ given).sum())

    true, _, _ = counted(2_000_000)
    held = 0
    for _ in range(400):
        f1, hits, mistakes = counted(150)
        low, high = f1_interval(hits, mistakes)
        assert low <= f1 <= high
        held += low <= true <= high
    assert 366 <= held <= 394  # of 380, three deviations


def test_without_a_hit_or_a_mistake_it_stays_between_0_and_1() -> None:
    low, high = f1_interval(0, 5)
    assert low == pytest.approx(0.0) and 0.3 < high < 1
    low, high = f1_interval(5, 0)
    assert 0.5 < low < 0.8 and high == pytest.approx(1.0)


def test_the_report_has_an_interval_beside_every_figure_of_a_class(made_classes: Path) -> None:
    from breedlab.reporting.quality_sections import calibration, classes
    from breedlab.reporting.record import read_run

    run = read_run(made_classes)
    for row in classes(run)["rows"]:
        for name in ("interval", "precision_interval", "f1_interval"):
            assert re.fullmatch(SPAN, row[name])
    assert re.fullmatch(SPAN, calibration(run)["accuracy_interval"])


@pytest.fixture
def made_classes(tmp_path: Path) -> Path:
    return write_run(tmp_path / "made" / "one", classes=[*"abcdef"])
