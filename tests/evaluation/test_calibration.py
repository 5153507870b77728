"""The temperature, beside scipy's optimizer and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import chi2
from torchmetrics.functional.classification import multiclass_calibration_error

from breedlab.evaluation.calibration import calibrating_temperature, fit_temperature
from breedlab.training.evaluation import evaluate


def drawn(
    images: int, classes: int, sharpness: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose true temperature is `sharpness`, and labels drawn by what they mean without
    it."""
    draw = torch.Generator().manual_seed(seed)
    honest = 2.0 * torch.randn(images, classes, generator=draw)
    labels = torch.multinomial(honest.softmax(1), 1, generator=draw)[:, 0]
    return sharpness * honest, labels


@pytest.mark.parametrize(("classes", "sharpness"), [(2, 3.0), (10, 0.4), (133, 8.0), (10, 1.0)])
def test_it_minimizes_the_cross_entropy_as_scipy_does(classes: int, sharpness: float) -> None:
    logits, labels = drawn(400, classes, sharpness, seed=classes)

    def cross_entropy(log_temperature: float) -> float:
        rows = log_softmax(logits.double().numpy() / np.exp(log_temperature), axis=1)
        return float(-rows[np.arange(len(labels)), labels.numpy()].mean())

    expected = minimize_scalar(
        cross_entropy, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9}
    )
    assert fit_temperature(logits, labels) == pytest.approx(np.exp(expected.x), rel=1e-4)


def test_it_finds_the_temperature_that_the_labels_were_drawn_with() -> None:
    logits, labels = drawn(20_000, 10, 3.0, seed=0)
    assert fit_temperature(logits, labels) == pytest.approx(3.0, rel=0.03)


def test_without_a_mistake_it_is_no_surer_than_so_many_right_answers_allow() -> None:
    labels = torch.arange(60) % 3
    # right each time, and hardly sure
    logits = 0.1 * torch.nn.functional.one_hot(labels, 3).float()
    sure = (logits / fit_temperature(logits, labels)).softmax(1).max(1).values
    assert float(sure.mean()) == pytest.approx(61 / 62, abs=0.002)  # Laplace: (n + 1) / (n + 2)


def test_a_model_that_is_calibrated_keeps_its_scores() -> None:
    """A fitted temperature near 1 is chance's, and makes answers to new images worse."""
    kept, better, worse = 0, [], []
    for seed in range(60):
        logits, labels = drawn(96, 8, 1.0, seed)
        temperature, fitted = calibrating_temperature(logits, labels)
        kept += temperature == 1.0
        new, truth = drawn(2000, 8, 1.0, 1000 + seed)
        for scale, losses in ((temperature, better), (fitted, worse)):
            losses.append(float(torch.nn.functional.cross_entropy(new / scale, truth)))
    assert kept >= 51, "a test at 5% errs in 3 of 60"
    assert np.mean(better) < np.mean(worse)


@pytest.mark.parametrize("sharpness", [0.5, 2.0])
def test_a_model_that_is_not_gets_its_temperature(sharpness: float) -> None:
    for seed in range(10):
        logits, labels = drawn(240, 10, sharpness, seed)
        temperature, fitted = calibrating_temperature(logits, labels)
        assert temperature == fitted
        assert temperature == pytest.approx(sharpness, rel=0.35)


def test_the_test_is_scipys() -> None:
    for seed in range(20):
        logits, labels = drawn(96, 8, 1.2, seed)
        temperature, fitted = calibrating_temperature(logits, labels)
        rows = (log_softmax(logits.double().numpy() / t, axis=1) for t in (fitted, 1.0))
        best, plain = (row[np.arange(96), labels.numpy()].sum() for row in rows)
        assert (temperature != 1.0) == (chi2.sf(2 * (best - plain), 1) < 0.05)


@pytest.mark.parametrize(
    "logits", [torch.zeros(30, 3), torch.full((30, 3), 1e4) * torch.eye(3).repeat(10, 1)]
)
def test_hopeless_and_huge_scores_give_a_usable_temperature(logits: torch.Tensor) -> None:
    temperature = fit_temperature(logits, torch.zeros(30, dtype=torch.int64))
    assert 0 < temperature < 1e6 and np.isfinite(temperature)


def test_a_test_tells_the_error_with_and_without_it_as_torchmetrics_does() -> None:
    logits, labels = drawn(500, 10, 4.0, seed=1)
    classes = tuple("abcdefghij")
    found = evaluate(
        lambda batch: batch,
        [(logits, labels)],
        classes,
        total=500,
        progress=lambda *_: None,
        temperature=4.0,
    )
    for error, scores in (
        (found.metrics["ece"], logits / 4),
        (found.calibration["ece_before"], logits),
    ):
        expected = multiclass_calibration_error(
            scores.softmax(1), labels, num_classes=10, n_bins=15
        )
        assert error == pytest.approx(float(expected), abs=1e-6)
    assert found.metrics["ece"] < found.calibration["ece_before"] / 2
    assert [label for label, _ in found.predictions] == logits.argmax(1).tolist()
    assert found.predictions[0][1] == pytest.approx(float((logits[0] / 4).softmax(0).max()))
