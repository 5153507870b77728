"""The search: every strategy, diverging trials, and what is left after a kill."""

from __future__ import annotations

import functools
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import preloaded
import psutil
import pytest
from codes import raises_code
from optuna.trial import TrialState

from breedlab.config import Config
from breedlab.errors import TrainingError
from breedlab.pipeline.checked_images import checked_images
from breedlab.training.context import TrainingContext
from breedlab.training.preparation import prepare
from breedlab.tuning import baseline
from breedlab.tuning import study as studies
from breedlab.tuning.study import search
from breedlab.tuning.trial import Outcome

Configure = Callable[..., Config]
RANGE = (
    "tuner.space={optim: {lr: {low: 0.0001, high: 0.01, log: true}}, data: {batch_size: [16, 32]}}"
)


def ready(config: Config) -> TrainingContext:
    return prepare(config, checked_images(config))


def records(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in (run / "trials").glob("*/trial.json")]
    return sorted(found, key=lambda record: record["number"])


@pytest.mark.parametrize("strategy", ["random", "bayesian", "hyperband"])
def test_each_strategy_runs_its_trials_and_names_the_best(
    tmp_path: Path, configure: Configure, strategy: str
) -> None:
    config = configure(f"tuner={strategy}", "tuner.trials=5", "tuner.max_epochs=3", RANGE)
    best = search(config, ready(config), tmp_path)
    done = records(tmp_path)
    assert len(done) == 5
    complete = {r["number"]: r["objective"] for r in done if r["state"] == "complete"}
    assert best.objective == max(complete.values()) == complete[best.number]
    assert all(
        0.0001 <= r["values"]["optim.lr"] <= 0.01 and r["values"]["data.batch_size"] in (16, 32)
        for r in done
    )
    assert len({r["values"]["optim.lr"] for r in done}) == 5


def test_a_grid_runs_every_combination_once(tmp_path: Path, configure: Configure) -> None:
    space = (
        "tuner.space={optim: {lr: [0.001, 0.01]}, data: {batch_size: [16, 32]}, model: {head: [[],"
        " [8, 8]]}}"
    )
    config = configure("tuner=grid", "tuner.max_epochs=1", space)
    search(config, ready(config), tmp_path)
    tried = [tuple(map(str, record["values"].values())) for record in records(tmp_path)]
    assert len(tried) == len(set(tried)) == 8
    assert {record["values"]["model.head"].__repr__() for record in records(tmp_path)} == {
        "[]",
        "[8, 8]",
    }


def test_lower_is_better_where_the_loss_is_watched(tmp_path: Path, configure: Configure) -> None:
    space = "tuner.space={optim: {lr: [0.003, 0.0000001]}}"
    config = configure(
        "tuner=grid",
        "tuner.max_epochs=4",
        space,
        "monitor.metric=valid/loss",
        "monitor.mode=min",
        "optim.name=adam",
    )
    best = search(config, ready(config), tmp_path)
    assert best.values == {"optim.lr": 0.003}
    assert best.objective == min(record["objective"] for record in records(tmp_path))


def test_a_trial_that_diverges_is_recorded_and_the_search_goes_on(
    tmp_path: Path, configure: Configure
) -> None:
    config = configure(
        "tuner=grid",
        "tuner.max_epochs=2",
        "optim.name=sgd",
        "tuner.space={optim: {lr: [1e30, 0.01]}}",
    )
    best = search(config, ready(config), tmp_path)
    failed, fine = records(tmp_path)
    assert failed["state"] == "failed" and failed["reason"].startswith("diverged")
    assert fine["state"] == "complete" and best.number == fine["number"]


def test_why_a_trial_failed_names_the_variable_not_its_value(
    tmp_path: Path,
    configure: Configure,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    secret = str(tmp_path / "canary8731zz")
    monkeypatch.setenv("CACHE", secret)
    space = "tuner.space={optim: {lr: [0.1, 0.01]}}"
    config = configure(
        "tuner=grid",
        "tuner.max_epochs=1",
        space,
        "cache.dir=${oc.env:CACHE}",
        "runs_dir=" + str(tmp_path),
    )
    outcomes = iter(
        [Outcome("failed", None, reason=f"{secret}/x.npy cannot be read"), Outcome("complete", 0.5)]
    )
    monkeypatch.setattr(studies, "run_trial", lambda *_: next(outcomes))
    run = tmp_path / "run"
    run.mkdir()
    search(config, ready(config), run)
    assert records(run)[0]["reason"] == "${oc.env:CACHE}/x.npy cannot be read"
    written = [path.read_bytes() for path in run.rglob("*") if path.is_file()]
    assert len(written) > 2 and not any(b"canary8731zz" in content for content in written)
    assert "${oc.env:CACHE}/x.npy" in capsys.readouterr().out


def test_if_every_trial_fails_so_does_the_run_with_the_reasons(
    tmp_path: Path, configure: Configure
) -> None:
    config = configure(
        "tuner=grid",
        "tuner.max_epochs=1",
        "optim.name=sgd",
        "tuner.space={optim: {lr: [1e30, 1e29]}}",
    )
    with raises_code("BL300", names="diverged"):
        search(config, ready(config), tmp_path)


def test_hyperband_stops_trials_that_fall_behind(tmp_path: Path, configure: Configure) -> None:
    # a network whose random features tell the colors apart, so that trials differ
    resnet = "model.name=resnet18"
    config = configure("tuner=hyperband", "tuner.trials=24", "tuner.max_epochs=9", RANGE, resnet)
    search(config, ready(config), tmp_path)
    pruned = [record for record in records(tmp_path) if record["state"] == "pruned"]
    assert pruned and all(len(record["epochs"]) < 9 for record in pruned)


LOSS = ["monitor.metric=valid/loss", "monitor.mode=min"]


def test_early_stopping_stops_trials_that_do_worse_than_the_median(
    tmp_path: Path, configure: Configure
) -> None:
    space = "tuner.space={optim: {lr: {low: 0.0000001, high: 0.01, log: true}}}"
    config = configure(
        "tuner=random",
        "tuner.trials=16",
        "tuner.max_epochs=4",
        "tuner.early_stopping=true",
        *LOSS,
        space,
    )
    search(config, ready(config), tmp_path)
    rates: dict[str, list[float]] = {"pruned": [], "complete": []}
    for record in records(tmp_path):
        rates[record["state"]].append(record["values"]["optim.lr"])
        assert (len(record["epochs"]) < 4) is (record["state"] == "pruned")
    # The lower the rate, the less the loss falls in four epochs.
    assert rates["pruned"] and max(rates["pruned"]) < max(rates["complete"])


@pytest.mark.slow
def test_trials_side_by_side_come_to_what_they_come_to_one_by_one(
    tmp_path: Path, configure: Configure
) -> None:
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


def test_a_search_that_is_called_again_runs_nothing_again(
    tmp_path: Path, configure: Configure
) -> None:
    config = configure("tuner=bayesian", "tuner.trials=3", "tuner.max_epochs=1", RANGE)
    context = ready(config)
    first = search(config, context, tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "trials").rglob("*.json")}
    assert search(config, context, tmp_path) == first
    assert stamps == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "trials").rglob("*.json")
    }


def test_what_was_cut_off_runs_again_and_only_that(tmp_path: Path, configure: Configure) -> None:
    config = configure("tuner=bayesian", "tuner.trials=4", "tuner.max_epochs=1", RANGE)
    context = ready(config)
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
            search(config, context, tmp_path)
    finally:
        studies.run_trial = real
    before = records(tmp_path)
    search(config, context, tmp_path)
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
        "tuner=grid",
        f"tuner.space={{optim: {{lr: {rates}}}}}",
        "tuner.max_epochs=4",
        "cache.mode=off",
        "name=killed",
    )
    command = [sys.executable, "-m", "breedlab.cli", "launch"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    resume: list[str] = []
    finished_before: dict[Path, int] = {}
    for patience in (0.3, 1.4, 0.7):
        process = preloaded.Popen(
            [*command, *overrides, *resume],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
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
        stamps = {
            path: path.stat().st_mtime_ns
            for path in (tmp_path / "runs/latest/trials").rglob("trial.json")
        }
        assert all(stamps[path] == stamp for path, stamp in finished_before.items())
        finished_before = stamps
    done = preloaded.run(
        [*command, *overrides, *resume],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    study = optuna.load_study(
        study_name="killed", storage=studies.storage_url((tmp_path / "runs/latest").resolve())
    )
    complete = [
        trial.params["optim.lr"] for trial in study.trials if trial.state == TrialState.COMPLETE
    ]
    assert sorted(complete) == [0.001, 0.002, 0.003, 0.004, 0.005, 0.006]


class Killed(BaseException):
    """A process that is killed runs no handler."""


def fatal(target: Any, name: str, call: int, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the call of a function that is counted from 1 kill the process, before or after it has
    done its work."""
    real, calls = getattr(target, name), []

    def counted(*arguments: Any, **keywords: Any) -> Any:
        calls.append(name)
        if len(calls) == call and not after:
            raise Killed
        result = real(*arguments, **keywords)
        if len(calls) == call and after:
            raise Killed
        return result

    monkeypatch.setattr(target, name, counted)


def quick_trial(
    _: TrainingContext, values: Mapping[str, Any], stop_early: Callable[[int, float], bool]
) -> Outcome:
    """A trial without a network: it is as good as its learning rate is near 0.002, in steps that
    make ties."""
    epochs = []
    for epoch in range(3):
        value = round((epoch + 1) / (1 + abs(math.log(values["optim.lr"] / 0.002))), 1)
        epochs.append({"valid/top1": value, "valid/loss": values["optim.lr"]})
        if stop_early(epoch, value) and epoch < 2:
            return Outcome("pruned", value, epochs)
    return Outcome("complete", epochs[-1]["valid/top1"], epochs)


def told(run: Path) -> list[tuple[Any, ...]]:
    return [
        (r["number"], r["values"], r["state"], r["objective"], r["epochs"]) for r in records(run)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["bayesian", "hyperband", "grid"])
def test_killed_anywhere_a_search_goes_on_as_if_it_had_not_been(
    tmp_path: Path, configure: Configure, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = "tuner.space={optim: {lr: [0.001, 0.003, 0.01]}, data: {batch_size: [16, 32]}}"
    words = [space] if strategy == "grid" else [RANGE, "tuner.trials=6"]
    config = configure(f"tuner={strategy}", *words, "tuner.max_epochs=3")
    context = ready(config)
    monkeypatch.setattr(studies, "run_trial", quick_trial)
    # 29 searches have the same baseline
    solved = functools.cache(functools.partial(baseline._solved, config, context))
    monkeypatch.setattr(baseline, "_solved", lambda *_: solved())
    unbroken = tmp_path / "unbroken"
    unbroken.mkdir()
    winner = search(config, context, unbroken)
    points = [
        (optuna.Study, "enqueue_trial"),
        (optuna.Study, "ask"),
        (studies, "run_trial"),
        (studies.store, "atomic_write_json"),
        (studies, "write_events"),
        (optuna.trial.Trial, "set_user_attr"),
        (optuna.Study, "tell"),
    ]
    for number, (target, name) in enumerate(points):
        for after in (False, True):
            run = tmp_path / f"{name}_{after}"
            run.mkdir()
            with monkeypatch.context() as patch, pytest.raises(Killed):
                fatal(target, name, 1 + (number + after) % 6, after, patch)
                search(config, context, run)
            assert search(config, context, run) == winner, (name, after)
            assert told(run) == told(unbroken), (name, after)
            study = optuna.load_study(study_name=config.name, storage=studies.storage_url(run))
            assert [t.state.is_finished() for t in study.trials] == [True] * 6, (name, after)
            assert {len(list(folder.iterdir())) for folder in (run / "tensorboard").iterdir()} == {
                1
            }


def test_equal_trials_rank_by_their_validation_loss(tmp_path: Path, configure: Configure) -> None:
    """Every trial of one epoch at a rate near 0 has the accuracy of the untrained head."""
    space = "tuner.space={optim: {lr: [1e-9, 1e-6, 1e-8]}}"
    config = configure("tuner=grid", "tuner.max_epochs=1", space)
    best = search(config, ready(config), tmp_path)
    done = records(tmp_path)
    assert len({r["objective"] for r in done}) == 1, "the test needs a tie"
    losses = {r["number"]: r["epochs"][0]["valid/loss"] for r in done}
    assert best.number == min(losses, key=lambda n: losses[n]) == 1
    assert best.tied == (0, 2)


@pytest.mark.slow
def test_side_by_side_the_same_is_proposed_every_time(tmp_path: Path, configure: Configure) -> None:
    config = configure(
        "tuner=bayesian", "tuner.trials=7", "tuner.parallel=2", "tuner.max_epochs=2", RANGE
    )
    tried = []
    for name in ("once", "again"):
        run = tmp_path / name
        run.mkdir()
        best = search(config, ready(config), run)
        tried.append((best.number, [(r["number"], r["values"]) for r in records(run)]))
    assert tried[0] == tried[1]


@pytest.mark.slow
def test_a_killed_worker_ends_the_search_in_one_line_that_says_how_to_go_on(
    tmp_path: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(
        "tuner=random", "tuner.trials=3", "tuner.parallel=2", "tuner.max_epochs=2", RANGE
    )
    context = ready(config)
    with monkeypatch.context() as patch, pytest.raises(TrainingError) as refusal:
        patch.setattr(
            studies.TrialTable, "progressed", lambda *_: os.kill(children()[0], signal.SIGKILL)
        )
        search(config, context, tmp_path)
    message = str(refusal.value)
    assert (
        "killed by SIGKILL" in message and f"resume={tmp_path}" in message and "\n" not in message
    )
    assert not children(), "no worker is left"
    search(config, context, tmp_path)
    assert [r["number"] for r in records(tmp_path)] == [0, 1, 2]


def children() -> list[int]:
    """The search's worker processes that are alive."""
    return [child.pid for child in multiprocessing.active_children() if child.pid]


@pytest.mark.slow
def test_workers_end_with_their_parent(tmp_path: Path, words: Callable[..., list[str]]) -> None:
    overrides = words(
        "tuner=random",
        "tuner.trials=4",
        "tuner.parallel=2",
        "tuner.max_epochs=5000",
        RANGE,
        "name=orphans",
    )
    command = [sys.executable, "-m", "breedlab.cli", "launch", *overrides]
    process = preloaded.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch" in line and "trial" in line:
            break
    workers = [
        child
        for child in psutil.Process(process.pid).children()
        if "spawn_main" in " ".join(child.cmdline())
    ]
    assert len(workers) == 2
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive


@pytest.mark.slow
def test_what_loads_images_for_a_worker_is_forked(
    tmp_path: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a spawned process starts is spawned by default, and imports torch for every trial."""
    (tmp_path / "noting.py").write_text(
        "import multiprocessing, os, pathlib\n"
        "file = pathlib.Path(__file__).with_name(f'{os.getpid()}.txt')\n"
        "file.write_text(multiprocessing.get_start_method())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    of_two = ("tuner=random", "tuner.trials=2", "tuner.parallel=2", "tuner.max_epochs=1")
    config = configure(*of_two, RANGE, "plugins=[noting]")
    search(config, ready(config), tmp_path)
    (tmp_path / f"{os.getpid()}.txt").unlink()  # of this process
    method = "fork" if sys.platform.startswith("linux") else "spawn"
    assert [file.read_text() for file in tmp_path.glob("*.txt")] == [method, method]
