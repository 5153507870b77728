"""What the charts compute before they draw."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import altair as alt
import jsonschema
import numpy as np
import pytest
import torch
from made_runs import write_run
from torchmetrics.classification import MulticlassCalibrationError

from breedlab.config.space import Choices, Range
from breedlab.debugging.tensors import Tensors
from breedlab.evaluation.statistics import wilson
from breedlab.reporting.charts import search, training
from breedlab.reporting.charts import test as test_charts
from breedlab.reporting.record import RunRecord, read_run
from breedlab.reporting.report import page_of
from breedlab.reporting.search_facts import ranked
from breedlab.reporting.tensorboard import confusion_picture


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return read_run(
        write_run(tmp_path_factory.mktemp("made") / "run", classes=["a", "b", "c"], trials=8)
    )


def test_the_bins_are_those_of_the_calibration_error() -> None:
    chance = np.random.default_rng(0)
    logits = torch.tensor(chance.normal(0, 2, (500, 4)), dtype=torch.float32)
    labels = torch.tensor(chance.integers(0, 4, 500))
    sure, answers = logits.softmax(1).max(1)
    found = test_charts.bins(sure.tolist(), (answers == labels).tolist())
    assert sum(b.images for b in found) == 500
    error = sum(b.images / 500 * abs(b.accuracy - b.confidence) for b in found)
    metric = MulticlassCalibrationError(4, n_bins=test_charts.BINS)
    assert error == pytest.approx(float(metric(logits, labels)), abs=1e-6)


def test_a_mean_over_an_epoch_is_drawn_at_its_middle_and_a_validation_at_its_end(
    run: RunRecord,
) -> None:
    assert training.at_middles([(10, 2.0), (20, 1.0)]) == [(5, 2.0), (15, 1.0)]
    drawn = training.loss(run)
    assert drawn is not None
    steps = {
        which: [row["step"] for row in drawn["datasets"]["table1"] if row["which"] == which]
        for which in NAMES
    }
    assert steps["validation"] == list(range(40, 401, 40))
    assert steps["training, mean of the epoch"] == list(range(20, 381, 40))


def test_validation_has_its_interval_as_a_band(run: RunRecord) -> None:
    drawn = training.accuracy(run)
    assert drawn is not None
    bands = [rows for rows in drawn["datasets"].values() if "low" in rows[0]]
    assert len(bands) == 1
    curve = dict(run.curves["valid/top1"])
    for row in bands[0]:
        expected = wilson(curve[row["step"]] * run.validated, run.validated)
        assert (row["low"], row["high"]) == pytest.approx(expected, abs=1e-4)
    loss = training.loss(run)
    assert loss is not None and not any("low" in rows[0] for rows in loss["datasets"].values())


def test_every_chart_is_one_of_vega_lites_schema(run: RunRecord) -> None:
    series = {"head.weight": [(1, 0.5), (6, 0.25)]}
    recorded = Tensors(
        {"TRAIN": [(1, 2.0)]}, {"weights": (1, 2)}, {"weights": series, "relu_activations": series}
    )
    run = dataclasses.replace(run, tensors=recorded)
    drawn = [
        training.compared([run, run], ["one", "two"], "valid/top1"),
        search.importance({"optim.lr": 0.9}),
    ]
    for shown in page_of(run, run.path).values():
        if isinstance(shown, dict):
            inner = [found for found in shown.values() if isinstance(found, dict)]
            drawn += [*inner, *(spec for found in inner for spec in found.values())]
    specs = [spec for spec in drawn if isinstance(spec, dict) and "autosize" in spec]
    assert len(specs) >= 16
    for spec in specs:
        alt.Chart.from_dict(spec)  # raises where the schema does not allow it
    with pytest.raises(jsonschema.ValidationError):
        alt.Chart.from_dict({**specs[0], "height": "tall"})


NAMES = ("training, mean of the epoch", "validation", "training, each step")


def test_a_long_recording_is_averaged_not_cut_off(run: RunRecord) -> None:
    series = [(step, float(step)) for step in range(1, 30_001)]
    thin = training.thinned(series)
    assert len(thin) <= 400
    assert np.mean([value for _, value in thin]) == pytest.approx(15_000.5, rel=1e-6)
    recorded = dataclasses.replace(run, tensors=Tensors({"TRAIN": series}))
    drawn = training.loss(recorded)
    assert drawn is not None
    assert sum(row["which"] == "training, each step" for row in drawn["datasets"]["table1"]) == len(
        thin
    )


def test_a_value_lies_where_its_axis_says() -> None:
    rate = Range(0.001, 0.1, log=True)
    assert [search.position(value, rate) for value in (0.001, 0.01, 0.1)] == pytest.approx(
        [0, 0.5, 1]
    )
    size = Choices((32, 64, 256))
    assert [search.position(value, size) for value in (32, 64, 256)] == [0, 0.5, 1]
    assert search.position([16], Choices(((16,), ()))) == 0
    assert search.position(3, Range(3, 3)) == 0.5


def test_the_best_trial_is_best_by_the_monitors_direction(run: RunRecord) -> None:
    high = ranked(run)
    assert high[0]["objective"] == max(trial["objective"] for trial in run.trials)
    monitor = {"metric": "valid/loss", "mode": "min"}
    low = ranked(dataclasses.replace(run, config={**run.config, "monitor": monitor}))
    assert low[0]["objective"] == min(trial["objective"] for trial in run.trials)


def _tied(run: RunRecord, metrics: dict[str, object]) -> RunRecord:
    """Return the run with four trials of equal accuracy, of which the third has the lowest loss."""
    monitor = {"metric": "valid/top1", "mode": "max"}
    trials = [
        {
            "number": number,
            "state": "complete",
            "objective": 0.9375,
            "values": {"optim.lr": 0.001 * (number + 1)},
            "epochs": [{"valid/top1": 0.9375, "valid/loss": loss}],
        }
        for number, loss in enumerate((0.48, 0.49, 0.45, 0.46))
    ]
    config = {**run.config, "monitor": monitor}
    return dataclasses.replace(run, config=config, trials=trials, metrics=metrics)


def test_the_lower_validation_loss_decides_between_equal_trials(run: RunRecord) -> None:
    """As in the search, so that the report calls that trial the best which was trained."""
    tied = _tied(run, {})
    assert [trial["number"] for trial in ranked(tied)] == [2, 3, 0, 1]
    from breedlab.reporting import sections

    shown = sections.search(tied)
    assert shown["ends"][0][0] == 2 and [row["number"] for row in shown["rows"]] == [2, 3, 0, 1]
    drawn = search.parallel(tied)
    assert drawn is not None and "the best, trial 2," in drawn["description"]


def test_the_best_trial_is_the_one_that_was_trained(run: RunRecord) -> None:
    """On SageMaker's pipelines, the first of equal trials wins."""
    assert ranked(_tied(run, {"search": {"trial": 0}}))[0]["number"] == 0


def test_a_trial_that_failed_is_listed_and_not_drawn(run: RunRecord) -> None:
    failed = {
        "number": 99,
        "state": "failed",
        "objective": None,
        "values": {},
        "epochs": [],
        "reason": "diverged",
    }
    with_it = dataclasses.replace(run, trials=[*run.trials, failed])
    drawn = search.history(with_it)
    assert drawn is not None and "8 trials" in drawn["description"]
    from breedlab.reporting import sections

    rows = sections.search(with_it)["rows"]
    assert rows[-1]["number"] == 99 and rows[-1]["reason"] == "diverged"


def test_curves_of_a_resumed_run_are_read_as_they_were_last(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    from breedlab.reporting.record import read_curves

    for values in ((9.0, 8.0), (7.0, 6.0)):
        with SummaryWriter(str(tmp_path)) as writer:
            for epoch, value in enumerate(values):
                writer.add_scalar("valid/loss", value, 10 * (epoch + 1) - 1)
    assert read_curves(tmp_path) == {"valid/loss": [(10, 7.0), (20, 6.0)]}


@pytest.mark.parametrize("count", [8, 133])
def test_tensorboards_confusion_matrix_has_room_for_its_names(count: int) -> None:
    classes = (
        *tuple(f"Amber Saddled Retriever {number}" for number in range(count - 1)),
        "Wire-haired " * 20,
    )
    for names in ((*classes[:-1], "Pug"), classes):
        picture = np.asarray(
            confusion_picture({(index, index): 1 for index in range(count)}, names).convert("L")
        )
        # Ink beside the matrix, and none at the picture's edges, where it would be cut off.
        assert (picture[:, :100] < 128).any() and (picture[:100] < 128).any()
        assert picture[:, :2].min() == 255 and picture[:2].min() == 255


def test_a_curve_of_one_step_an_epoch_does_not_zigzag() -> None:
    means = [(step, 1 / step) for step in range(1, 9)]
    steps = [step for step, _ in training.at_middles(means)]
    assert steps == [0.5 + step for step in range(8)]
