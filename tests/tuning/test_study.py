"""The search: every strategy, diverging trials, and what is left after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from breedlab.config import Config
from breedlab.errors import TrainingError
from breedlab.training.prepare import Prepared, prepare
from breedlab.training.run import checked_photos
from breedlab.tuning import study as studies
from breedlab.tuning.study import search

Configure = Callable[..., Config]
RANGE = "tuner.space={optim: {lr: {low: 0.0001, high: 0.01, log: true}}, data: {batch_size: [16, 32]}}"


def ready(config: Config) -> Prepared:
    return prepare(config, checked_photos(config))


def records(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in (run / "trials").glob("*/trial.json")]
    return sorted(found, key=lambda record: record["number"])


@pytest.mark.parametrize("strategy", ["random", "bayesian", "hyperband"])
def test_each_strategy_runs_its_trials_and_names_the_best(tmp_path: Path, configure: Configure, strategy: str) -> None:
    config = configure(f"tuner={strategy}", "tuner.trials=5", "tuner.max_epochs=3", RANGE)
    best = search(config, ready(config), tmp_path)
    done = records(tmp_path)
    assert len(done) == 5
    complete = {r["number"]: r["objective"] for r in done if r["state"] == "complete"}
    assert best.objective == max(complete.values()) == complete[best.number]
    assert all(0.0001 <= r["values"]["optim.lr"] <= 0.01 and r["values"]["data.batch_size"] in (16, 32) for r in done)
    assert len({r["values"]["optim.lr"] for r in done}) == 5


def test_a_grid_runs_every_combination_once(tmp_path: Path, configure: Configure) -> None:
    space = "tuner.space={optim: {lr: [0.001, 0.01]}, data: {batch_size: [16, 32]}, model: {head: [[], [8, 8]]}}"
    config = configure("tuner=grid", "tuner.max_epochs=1", space)
    search(config, ready(config), tmp_path)
    tried = [tuple(map(str, record["values"].values())) for record in records(tmp_path)]
    assert len(tried) == len(set(tried)) == 8
    assert {record["values"]["model.head"].__repr__() for record in records(tmp_path)} == {"[]", "[8, 8]"}


def test_lower_is_better_where_the_loss_is_watched(tmp_path: Path, configure: Configure) -> None:
    space = "tuner.space={optim: {lr: [0.003, 0.0000001]}}"
    config = configure(
        "tuner=grid", "tuner.max_epochs=4", space, "monitor.metric=valid/loss", "monitor.mode=min", "optim.name=adam"
    )
    best = search(config, ready(config), tmp_path)
    assert best.values == {"optim.lr": 0.003}
    assert best.objective == min(record["objective"] for record in records(tmp_path))


def test_a_trial_that_diverges_is_recorded_and_the_search_goes_on(tmp_path: Path, configure: Configure) -> None:
    config = configure("tuner=grid", "tuner.max_epochs=2", "optim.name=sgd", "tuner.space={optim: {lr: [1e30, 0.01]}}")
    best = search(config, ready(config), tmp_path)
    failed, fine = records(tmp_path)
    assert failed["state"] == "failed" and failed["reason"].startswith("diverged")
    assert fine["state"] == "complete" and best.number == fine["number"]


def test_if_every_trial_fails_so_does_the_run_with_the_reasons(tmp_path: Path, configure: Configure) -> None:
    config = configure("tuner=grid", "tuner.max_epochs=1", "optim.name=sgd", "tuner.space={optim: {lr: [1e30, 1e29]}}")
    with pytest.raises(TrainingError, match=r"no trial of the search was completed:\n  diverged"):
        search(config, ready(config), tmp_path)


def test_hyperband_stops_trials_that_fall_behind(tmp_path: Path, configure: Configure) -> None:
    config = configure("tuner=hyperband", "tuner.trials=24", "tuner.max_epochs=9", RANGE)
    search(config, ready(config), tmp_path)
    pruned = [record for record in records(tmp_path) if record["state"] == "pruned"]
    assert pruned and all(len(record["epochs"]) < 9 for record in pruned)


LOSS = ["monitor.metric=valid/loss", "monitor.mode=min"]


def test_early_stopping_stops_trials_that_do_worse_than_the_median(tmp_path: Path, configure: Configure) -> None:
    space = "tuner.space={optim: {lr: {low: 0.0000001, high: 0.01, log: true}}}"
    config = configure(
        "tuner=random", "tuner.trials=16", "tuner.max_epochs=4", "tuner.early_stopping=true", *LOSS, space
    )
    search(config, ready(config), tmp_path)
    rates: dict[str, list[float]] = {"pruned": [], "complete": []}
    for record in records(tmp_path):
        rates[record["state"]].append(record["values"]["optim.lr"])
        assert (len(record["epochs"]) < 4) is (record["state"] == "pruned")
    # The lower the rate, the less the loss falls in four epochs.
    assert rates["pruned"] and max(rates["pruned"]) < max(rates["complete"])


@pytest.mark.slow
def test_trials_side_by_side_come_to_what_they_come_to_one_by_one(tmp_path: Path, configure: Configure) -> None:
    words = (
        "tuner=grid",
        "tuner.max_epochs=2",
        "tuner.space={optim: {lr: [0.001, 0.01]}, data: {batch_size: [16, 32]}}",
    )
    outcomes = []
    for parallel in (1, 2):
        config = configure(*words, f"tuner.parallel={parallel}")
        run = tmp_path / str(parallel)
        run.mkdir()
        search(config, ready(config), run)
        outcomes.append({str(r["values"]): r["epochs"][-1]["valid/loss"] for r in records(run)})
    assert outcomes[0] == pytest.approx(outcomes[1], rel=1e-3)


def test_a_search_that_is_called_again_runs_nothing_again(tmp_path: Path, configure: Configure) -> None:
    config = configure("tuner=bayesian", "tuner.trials=3", "tuner.max_epochs=1", RANGE)
    prepared = ready(config)
    first = search(config, prepared, tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "trials").rglob("*.json")}
    assert search(config, prepared, tmp_path) == first
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "trials").rglob("*.json")}


def test_what_was_cut_off_runs_again_and_only_that(tmp_path: Path, configure: Configure) -> None:
    config = configure("tuner=bayesian", "tuner.trials=4", "tuner.max_epochs=1", RANGE)
    prepared = ready(config)
    real, calls = studies.run_trial, []

    class Killed(BaseException):
        """A process that is killed runs no handler."""

    def killed_in_the_third(*arguments: Any) -> Any:
        calls.append(arguments[1])
        if len(calls) == 3:
            raise Killed
        return real(*arguments)

    studies.run_trial = killed_in_the_third
    try:
        with pytest.raises(Killed):
            search(config, prepared, tmp_path)
    finally:
        studies.run_trial = real
    before = records(tmp_path)
    search(config, prepared, tmp_path)
    after = records(tmp_path)
    assert after[:2] == before, "no finished trial was lost or repeated"
    values = [record["values"] for record in after]
    assert len(values) == 4 and calls[2] in values, "the trial that was cut off ran again"
    assert len({str(v) for v in values}) == 4, "and nothing was proposed twice"
    study = optuna.load_study(study_name=config.name, storage=studies.storage_url(tmp_path))
    assert all(trial.state.is_finished() for trial in study.trials)


@pytest.mark.slow
def test_killed_at_any_moment_a_grid_still_runs_every_combination_once(
    tmp_path: Path, words: Callable[..., list[str]]
) -> None:
    """SIGKILL, again and again, at moments that differ; then to the end."""
    rates = "[0.001,0.002,0.003,0.004,0.005,0.006]"
    overrides = words(
        "tuner=grid", f"tuner.space={{optim: {{lr: {rates}}}}}", "tuner.max_epochs=4", "cache.mode=off", "name=killed"
    )
    command = [sys.executable, "-m", "breedlab.cli", "launch"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    resume: list[str] = []
    finished_before: dict[Path, int] = {}
    for patience in (0.3, 1.4, 0.7):
        process = subprocess.Popen(
            [*command, *overrides, *resume], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert process.stdout is not None
        for line in process.stdout:
            if "› Search" in line:
                break
        deadline = time.monotonic() + 20
        while not (tmp_path / "runs/latest/study.db").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(patience)
        process.send_signal(signal.SIGKILL)
        process.wait()
        resume = ["resume=runs/latest"]
        stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs/latest/trials").rglob("trial.json")}
        assert all(stamps[path] == stamp for path, stamp in finished_before.items())
        finished_before = stamps
    done = subprocess.run(
        [*command, *overrides, *resume], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    study = optuna.load_study(study_name="killed", storage=studies.storage_url((tmp_path / "runs/latest").resolve()))
    complete = [trial.params["optim.lr"] for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert sorted(complete) == [0.001, 0.002, 0.003, 0.004, 0.005, 0.006]
