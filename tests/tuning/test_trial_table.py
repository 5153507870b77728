"""What a search says of its trials: a table on a terminal, and lines elsewhere that can be read
back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from breedlab.config import Config
from breedlab.pipeline.checked_images import checked_images
from breedlab.training.preparation import prepare
from breedlab.tuning import trial_table as boards
from breedlab.tuning.study import search
from breedlab.tuning.trial_log import TrialLog, read_trial, trial_line

Configure = Callable[..., Config]


@pytest.mark.parametrize(
    "row",
    [
        TrialLog(0, {"optim.lr": "0.01", "data.batch_size": "32"}, "running", None),
        TrialLog(3, {"optim.lr": "1e-05", "model.head": "[256, 128]"}, "epoch 2/10", -0.25),
        TrialLog(12, {"optim.lr": "0.1"}, "complete", 0.75, 61.5),
        TrialLog(
            7,
            {"data.augment": "randaug"},
            "failed",
            None,
            0.4,
            "training diverged in epoch 1 (train/loss=nan); try",
        ),
        TrialLog(8, {"optim.lr": "0.1"}, "pruned", 0.5, 2.0, "fell behind after epoch 1"),
        TrialLog(9, {"optim.lr": "0.1"}, "cut off", None),
    ],
    ids=lambda row: row.state,
)
def test_a_trials_line_is_read_back_as_it_was(row: TrialLog) -> None:
    # As a log has it: with what the toolkit or several instances put before it.
    for before in ("", "  ", "[algo-1] ", "INFO:root:  "):
        assert read_trial(before + trial_line(row, "valid/top1") + "\n") == row


@pytest.mark.parametrize(
    "line",
    [
        "  epoch 1/3  train/loss 0.9  valid/loss 0.8  valid/top1 0.5  objective valid/top1=0.5;",
        "Best of the search: trial 1 with valid/top1 0.75",
        "trial 3 complete-ish",
    ],
)
def test_other_lines_are_no_trials(line: str) -> None:
    assert read_trial(line) is None


@pytest.mark.parametrize("parallel", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_in_a_pipe_a_search_tells_of_every_trial_and_of_its_epochs(
    parallel: int,
    tmp_path: Path,
    configure: Configure,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(boards, "LINE_SECONDS", 0.0)
    space = "tuner.space={optim: {lr: [0.001, 0.01]}}"
    config = configure("tuner=grid", "tuner.max_epochs=2", space, f"tuner.parallel={parallel}")
    search(config, prepare(config, checked_images(config)), tmp_path)
    rows = [row for line in capsys.readouterr().out.splitlines() if (row := read_trial(line))]
    for number, rate in enumerate(("0.001", "0.01")):
        told = [row for row in rows if row.number == number]
        assert [row.state for row in told] == ["running", "epoch 1/2", "epoch 2/2", "complete"]
        assert all(row.values == {"optim.lr": rate} for row in told)
        assert told[0].objective is None and told[-1].objective == told[-2].objective is not None


def test_epochs_that_are_quick_are_not_told_one_by_one(
    tmp_path: Path, configure: Configure, capsys: Any
) -> None:
    config = configure("tuner=grid", "tuner.max_epochs=3", "tuner.space={optim: {lr: [0.001]}}")
    search(config, prepare(config, checked_images(config)), tmp_path)
    rows = [row for line in capsys.readouterr().out.splitlines() if (row := read_trial(line))]
    assert [row.state for row in rows] == ["running", "complete"]
