"""Told to stop: the step is saved, the next start goes on from it, and nothing shows that there was
a break."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import preloaded
import pytest
import torch
from codes import raises_code
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_fit import CASES, train

from breedlab import signals
from breedlab.config import Config, validate
from breedlab.config.compose import load
from breedlab.errors import Terminated
from breedlab.pipeline.checked_images import checked_images
from breedlab.training.preparation import prepare
from breedlab.training.progress import done as how_far

Configure = Callable[..., Config]
Words = Callable[..., list[str]]
LAUNCH = [sys.executable, "-u", "-m", "breedlab.cli", "launch"]


class Tell(lightning.Callback):
    """Sends this process a signal at a moment of training."""

    def __init__(self, number: int, step: int | None = None, validation: int | None = None) -> None:
        self.number, self.step, self.validation = number, step, validation

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)

    def on_validation_batch_start(self, trainer: lightning.Trainer, *_: object) -> None:
        if trainer.current_epoch == self.validation:
            os.kill(os.getpid(), self.number)


def same_checkpoints(one: Path, other: Path) -> bool:
    for name in ("last", "best"):
        a, b = (
            torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
            for run in (one, other)
        )
        for part in ("state_dict", "current_model_state"):
            if any(not torch.equal(a[part][key], b[part][key]) for key in a.get(part, {})):
                return False
        if (
            str(a["optimizer_states"]) != str(b["optimizer_states"])
            or a["lr_schedulers"] != b["lr_schedulers"]
        ):
            return False
    return True


def curves(run: Path) -> dict[str, set[tuple[int, float]]]:
    found = EventAccumulator(str(run / "tensorboard" / "final")).Reload()
    points = {
        tag: [(p.step, p.value) for p in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
        if "/" in tag
    }
    assert all(len(p) == len(set(p)) for p in points.values()), "no point is written twice"
    return {tag: set(p) for tag, p in points.items()}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_stopped_again_and_again_it_ends_at_the_very_weights_of_an_unbroken_run(
    tmp_path: Path, configure: Configure, case: str
) -> None:
    config = configure("trainer.max_epochs=4", *CASES[case])
    context = prepare(config, checked_images(config))
    train(context, config, tmp_path / "unbroken")
    broken = tmp_path / "broken"
    moments = [
        (Tell(signal.SIGTERM, step=0), 1),
        (Tell(signal.SIGTERM, step=4), 5),
        (Tell(signal.SIGTERM, step=6), 7),  # an epoch's last: validation is still to come
        (Tell(signal.SIGINT, step=9), 10),
        (Tell(signal.SIGTERM, validation=1), 14),
        (Tell(signal.SIGTERM, step=14), 15),
        (Tell(signal.SIGTERM, validation=3), 28),
    ]
    for tell, steps in moments:
        with pytest.raises(KeyboardInterrupt if tell.number == signal.SIGINT else signals.Stopped):
            train(context, config, broken, tell)
        saved = torch.load(broken / "checkpoints" / "last.ckpt", weights_only=True)
        assert saved["global_step"] == steps, "it stopped after the step, not after the epoch"
    train(context, config, broken)
    assert same_checkpoints(tmp_path / "unbroken", broken)
    assert curves(broken) == curves(tmp_path / "unbroken")


def test_going_on_in_an_epoch_reads_none_of_its_images_again(
    tmp_path: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    from breedlab.data.dataset import ImageDataset

    config = configure("trainer.max_epochs=1", "model.freeze=none", "data.augment=basic")
    context = prepare(config, checked_images(config))
    read: list[tuple[int, int]] = []
    original = ImageDataset.__getitem__

    def reading(self: ImageDataset, key: tuple[int, int]) -> tuple[torch.Tensor, int]:
        if key[0] > 0:  # view 0 is that of validation
            read.append(key)
        return original(self, key)

    monkeypatch.setattr(ImageDataset, "__getitem__", reading)
    with pytest.raises(signals.Stopped):
        train(context, config, tmp_path / "run", Tell(signal.SIGTERM, step=3))
    assert len(read) == 64
    train(context, config, tmp_path / "run")
    assert len(read) == len(set(read)) == 100


class Stuck(lightning.Callback):
    """A step that hangs: stopping once, and, after some seconds, once more."""

    def __init__(self, first: int, second: int, seconds: float) -> None:
        self.first, self.second, self.seconds, self.went_on = first, second, seconds, 0

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: object) -> None:
        os.kill(os.getpid(), self.first)
        time.sleep(self.seconds)
        os.kill(os.getpid(), self.second)
        self.went_on += 1


@pytest.mark.parametrize(
    ("first", "second", "raised"),
    [
        (signal.SIGTERM, signal.SIGTERM, signals.Stopped),
        (signal.SIGINT, signal.SIGTERM, signals.Stopped),
        (signal.SIGINT, signal.SIGINT, KeyboardInterrupt),
    ],
)
def test_told_to_stop_a_second_time_it_ends_in_the_middle_of_a_step(
    tmp_path: Path,
    configure: Configure,
    first: int,
    second: int,
    raised: type[BaseException],
) -> None:
    config = configure()
    stuck = Stuck(first, second, 0.7)
    with pytest.raises(raised):
        train(prepare(config, checked_images(config)), config, tmp_path / "run", stuck)
    assert stuck.went_on == 0


def test_what_a_group_is_sent_and_its_starter_hands_on_counts_once(
    tmp_path: Path, configure: Configure
) -> None:
    config = configure()
    stuck = Stuck(signal.SIGTERM, signal.SIGTERM, 0.01)
    with pytest.raises(signals.Stopped):
        train(prepare(config, checked_images(config)), config, tmp_path / "run", stuck)
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        [
            "model.freeze=none",
            "data.augment=trivial",
            "data.mixup=0.2",
            "trainer.ema=0.9",
            "data.num_workers=2",
        ],
        ["data.batch_size=1"],
    ],
    ids=["live", "cached"],
)
def test_a_process_ended_by_sigterm_goes_on_to_the_same_weights(
    here: Path, words: Words, more: list[str]
) -> None:
    """The signal goes to the whole process group, as from systemd or torchrun: workers that load
    must not mind."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    overrides = words(
        "trainer.max_epochs=3", "data.batch_size=4", "debugger=none", "profiler=none", *more
    )
    preloaded.run(
        [*LAUNCH, *overrides, "name=unbroken"],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    process = preloaded.Popen(
        [*LAUNCH, *overrides, "name=broken"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if "epoch 1/" in line:
            break
    time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert err.count("\n") == 1 and err.startswith(
        "stopped by SIGTERM; progress is saved, resume with:"
    )
    last = torch.load(here / "runs/latest/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] % (100 if "data.batch_size=1" in more else 25)
    stood = how_far(here / "runs/latest")
    assert stood.midway and stood.epochs == last["epoch"]
    hint = re.search(r"resume=\S+", err)
    assert hint is not None
    done = preloaded.run([*LAUNCH, hint[0]], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    runs = [next((here / "runs" / name).iterdir()) for name in ("unbroken", "broken")]
    assert same_checkpoints(*runs)
    assert curves(runs[0]) == curves(runs[1])
    told = re.findall(r"epoch (\d+)/", seen + out + done.stdout)
    assert told == [str(number + 1) for number in range(len(told))], "each epoch is told once"


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [1, 2])
def test_sigterm_ends_a_search_at_once_and_no_trial_is_lost(
    here: Path, words: Words, parallel: int
) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    space = "tuner.space={optim: {lr: [0.001, 0.002, 0.003]}}"
    overrides = words(
        "tuner=grid", space, "tuner.max_epochs=12", "cache.mode=off", f"tuner.parallel={parallel}"
    )
    process = preloaded.Popen(
        [*LAUNCH, *overrides, "name=x"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if re.search(r"trial \d complete", line):
            break
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 10
    assert process.returncode == 143 and err.count("\n") == 1 and "resume=" in err
    trials = {p: p.stat().st_mtime_ns for p in (here / "runs/latest/trials").rglob("trial.json")}
    assert trials and all('"complete"' in path.read_text() for path in trials), (
        "what was cut off is no failure"
    )


def test_sigterm_before_there_is_a_run_says_so(here: Path, words: Words) -> None:
    process = preloaded.Popen(
        [*LAUNCH, *words("name=x")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "› Data" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err == "stopped by SIGTERM before there was anything to save; start it again\n"
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_grid_ends_with_the_run_that_was_told_to_stop(here: Path, words: Words) -> None:
    process = preloaded.Popen(
        [
            *LAUNCH,
            "-m",
            *words("name=x", "optim.lr=0.001,0.002", "trainer.max_epochs=50", "cache.mode=off"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch 1/" in line:
            break
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("stopped by SIGTERM")
    assert "› Data" not in out, "the next run is not begun"


def test_a_run_that_another_process_works_on_is_refused(
    here: Path, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    from breedlab.pipeline import current_run, rundir

    config = validate(load(words("name=x")))
    run = rundir.create(config, [], checked_images(config))
    monkeypatch.setattr(current_run, "_LOCK_WAIT_S", 0.1)
    script = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.flock(file, fcntl.LOCK_EX);"
        " print(flush=True); input()"
    )
    other = preloaded.Popen(
        [sys.executable, "-c", script, str(run / "config.yaml")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None
    other.stdout.readline()
    with raises_code("BL114", names="runs/x"):
        current_run.CurrentRun().enter(config, run)
    other.communicate(b"\n")
    with current_run.CurrentRun() as current:
        current.enter(config, run)
        assert Path("runs/latest").resolve() == run.resolve()


class Thing:
    """Calls a function when it is deleted, if it has one."""

    at_end: Callable[[], None] | None = None

    def __del__(self) -> None:
        if self.at_end is not None:
            self.at_end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("how", ["finalizer", "callback"])
def test_a_signal_is_not_lost_where_python_drops_exceptions(number: int, how: str) -> None:
    def tell(*_: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(0.01)  # in which the signal is handled

    expected = KeyboardInterrupt if number == signal.SIGINT else Terminated
    before, thing = sys.unraisablehook, Thing()
    watcher = weakref.ref(thing, tell if how == "callback" else None)
    thing.at_end = tell if how == "finalizer" else None
    with pytest.raises(expected), signals.listening(lambda: None):
        del thing
        for _ in range(200):
            time.sleep(0.02)
    assert watcher() is None and sys.unraisablehook is before


def test_what_else_a_finalizer_raises_is_told_as_ever() -> None:
    told: list[Any] = []
    before, sys.unraisablehook = sys.unraisablehook, told.append
    try:
        with signals.listening(lambda: None):
            sys.unraisablehook(SimpleNamespace(exc_type=ValueError))  # type: ignore[arg-type]
    finally:
        sys.unraisablehook = before
    assert [each.exc_type for each in told] == [ValueError]
