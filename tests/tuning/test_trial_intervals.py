"""Every trial's objective has an interval, whatever metric a search goes by."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from breedlab.config import Config
from breedlab.evaluation.statistics import span_text, wilson
from breedlab.pipeline.checked_images import checked_images
from breedlab.training.preparation import prepare
from breedlab.tuning import baseline, confirm
from breedlab.tuning.events import write_events
from breedlab.tuning.study import search
from breedlab.tuning.trial import Outcome
from breedlab.tuning.trial_log import TrialLog, read_trial, trial_line
from breedlab.tuning.trial_table import TrialTable

SPACE = "tuner.space={model: {head_type: [logistic, linear]}}"


@pytest.mark.parametrize(
    ("metric", "mode"), [("valid/top1", "max"), ("valid/f1", "max"), ("valid/loss", "min")]
)
def test_trials_the_baseline_and_the_best_have_intervals(
    metric: str,
    mode: str,
    configure: Callable[..., Config],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monitor = (f"monitor.metric={metric}", f"monitor.mode={mode}")
    config = configure("tuner=grid", "tuner.max_epochs=2", SPACE, "tuner.confirm=2", *monitor)
    context = prepare(config, checked_images(config))
    best = search(config, context, tmp_path)
    told = capsys.readouterr().out
    rows = {row.number: row for line in told.splitlines() if (row := read_trial(line))}
    for file in tmp_path.glob("trials/*/trial.json"):
        trial = json.loads(file.read_text())
        low, high = trial["interval"]
        assert low < trial["objective"] < high or trial["objective"] == high == 1.0
        assert span_text(rows[trial["number"]].span) == span_text((low, high))
    reference = baseline.recorded(tmp_path)
    assert reference is not None
    low, high = reference["interval"]
    assert low <= reference["value"] <= high
    assert f"({baseline.describe(reference).partition(' (')[2]}" in " ".join(told.split())
    # of the mean over seeds
    assert best.span is not None and best.span[0] <= best.objective <= best.span[1]
    assert "95% interval" in told
    seeds = confirm.recorded(tmp_path)
    assert all(len(seed) == 3 and seed[2] for each in seeds.values() for seed in each.values())
    assert search(config, context, tmp_path) == best


def test_a_row_with_an_interval_reads_back_from_its_line() -> None:
    row = TrialLog(3, {"optim.lr": "0.001"}, "complete", 0.8, 2.0, span=(0.7123, 0.9))
    assert read_trial("  " + trial_line(row, "valid/top1")) == row


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_has_a_column_of_them_as_soon_as_one_is_known(
    width: int, configure: Callable[..., Config]
) -> None:
    from rich.console import Console

    config = configure("tuner=grid", "tuner.space={optim: {lr: [0.001, 0.01]}}")
    table = TrialTable(config, ["optim.lr"])
    table.show(TrialLog(0, {"optim.lr": 0.001}, "running", None))
    assert [column.header for column in table.table().columns].count("95% interval") == 0
    table.show(TrialLog(0, {"optim.lr": 0.001}, "complete", 0.8, 2.0, span=(0.7123, 0.9)))
    table.show(TrialLog(1, {"optim.lr": 0.01}, "running", None))
    console = Console(width=width)
    with console.capture() as captured:
        console.print(table.table())
    assert re.search(r"│ 0\.8000 +│ 0\.7123 to 0\.9000 │ complete", captured.get())


def test_a_trials_events_have_the_interval_of_each_epochs_rate(tmp_path: Path) -> None:
    epochs = [{"train/loss": 1.0, "valid/loss": 0.9, "valid/top1": rate} for rate in (0.5, 0.75)]
    outcome = Outcome("complete", 0.75, epochs, interval=(0.6, 0.85), images=60)
    write_events(tmp_path / "whole", {"optim.lr": 0.1}, outcome, "valid/top1")
    events = EventAccumulator(str(tmp_path / "whole")).Reload()
    ends = [
        [event.value for event in events.Scalars(f"interval/top1_{end}")] for end in ("low", "high")
    ]
    assert ends == [
        pytest.approx(each) for each in zip(wilson(30, 60), wilson(45, 60), strict=True)
    ]
    assert "interval/loss_low" not in events.Tags()["scalars"]
    # the mean of folds, or a trial that an older version recorded
    write_events(tmp_path / "folds", {"optim.lr": 0.1}, replace(outcome, images=0), "valid/top1")
    tags = EventAccumulator(str(tmp_path / "folds")).Reload().Tags()["scalars"]
    assert "valid/top1" in tags and not any(tag.startswith("interval/") for tag in tags)
