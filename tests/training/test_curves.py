"""Curves without TensorBoard are those that TensorBoard would have shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from breedlab import extras
from breedlab.reporting.record import read_curves
from breedlab.training.curves import CURVES, CsvCurves, curve_logger

EPOCHS = [
    (9, {"train/loss": 1.5, "valid/top1": 0.25}),
    (19, {"train/loss": 0.75, "valid/top1": 0.5, "epoch": 1.0}),
]


def log(folder: Path) -> None:
    """Log two epochs, and the second again with another figure, as a resumed run does."""
    logger = curve_logger(folder)
    for step, figures in [*EPOCHS, (19, {"train/loss": 0.5})]:
        logger.log_metrics(figures, step)
    logger.finalize("success")


def test_a_csv_holds_the_curves_that_tensorboard_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(tmp_path / "with")
    with monkeypatch.context() as without:
        without.setattr(extras, "has", lambda extra: extra != "tensorboard")
        log(tmp_path / "without")
        alone = read_curves(tmp_path / "without" / "final")
    assert not isinstance(curve_logger(tmp_path), CsvCurves)
    assert (
        alone
        == read_curves(tmp_path / "with" / "final")
        == read_curves(tmp_path / "without" / "final")
    )
    assert alone == {"train/loss": [(10, 1.5), (20, 0.5)], "valid/top1": [(10, 0.25), (20, 0.5)]}


@pytest.mark.parametrize("cut", ["29,train/l", "29,train/loss,"])
def test_a_line_that_a_kill_cut_short_loses_no_other(
    cut: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "has", lambda extra: False)
    log(tmp_path)
    with (tmp_path / "final" / CURVES).open("a") as file:
        file.write(cut)
    assert read_curves(tmp_path / "final")["train/loss"] == [(10, 1.5), (20, 0.5)]


def test_a_folder_by_an_extras_name_is_no_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run has a folder `tensorboard`, and may be the working folder of a notebook."""
    (tmp_path / "breedlab_extra_of_a_test").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(extras.EXTRAS, "test", ("breedlab_extra_of_a_test",))
    assert not extras.has("test")
