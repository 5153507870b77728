"""A run's study lies in the run, whatever the path is called."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import optuna
import pytest

from breedlab.tuning.importance import importances
from breedlab.tuning.storage import storage_url


@pytest.mark.parametrize(
    "name",
    [
        "which dog?",
        "a#1",
        "100%",
        "{x}",
        "a b+c&d=e",
        "%41",
        "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
    ],
)
def test_the_study_lies_in_the_run_and_is_no_other_runs(tmp_path: Path, name: str) -> None:
    for number in (1, 2):
        run = tmp_path / name / str(number)
        run.mkdir(parents=True)
        study = optuna.create_study(storage=storage_url(run), study_name="x")
        study.optimize(lambda trial: trial.suggest_float("lr", 0, 1), n_trials=number + 1)
        with sqlite3.connect(run / "study.db") as database:
            assert database.execute("select count(*) from trials").fetchone() == (number + 1,)
        assert set(importances(run)) <= {"lr"}
    assert [path.name for path in tmp_path.iterdir()] == [name]
