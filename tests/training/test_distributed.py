"""Several processes, started by torchrun: the curve of one process, one voice, one stop."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import preloaded
import pytest
import torch
from labeled_shapes import write_csv
from test_signals import curves, same_checkpoints

from breedlab.data.batches import TrainingBatches, Views
from breedlab.distributed import Shard

Words = Callable[..., list[str]]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TORCHRUN = [sys.executable, "-u", "-m", "torch.distributed.run"]
LAUNCH = ["-m", "breedlab.cli", "launch"]
QUIET = ["debugger=none", "profiler=none"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(
    processes: int, *words: str, cwd: Path | None = None, hosts: tuple[int, int, int] | None = None
) -> Any:
    """Torchrun over `breedlab launch`; `hosts` is how many there are, which this is, and their
    port."""
    number, index, port = hosts or (1, 0, free_port())
    where = [
        f"--nnodes={number}",
        f"--node-rank={index}",
        "--master-addr=127.0.0.1",
        f"--master-port={port}",
    ]
    return preloaded.Popen(
        [*TORCHRUN, *where, f"--nproc-per-node={processes}", *LAUNCH, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        cwd=cwd,
    )


def run_alone(*words: str, cwd: Path | None = None) -> None:
    """`breedlab launch` in one process, to its end."""
    preloaded.run(
        [sys.executable, *LAUNCH, *words],
        check=True,
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
    )


def alone_and_on_two_hosts(overrides: list[str], here: Path) -> tuple[list[Path], list[str]]:
    """Return the runs of one process and of two hosts, each of which has a disk of its own, and
    what the hosts printed; the second host writes no run."""
    one = here / "one"
    hosts = [here / "first", here / "second"]
    for folder in (one, *hosts):
        folder.mkdir()
    run_alone(*overrides, cwd=one)
    port = free_port()
    processes = [
        start(1, *overrides, cwd=cwd, hosts=(2, index, port)) for index, cwd in enumerate(hosts)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert not (hosts[1] / "runs").exists()
    runs = [(folder / "runs" / "latest").resolve() for folder in (one, hosts[0])]
    return runs, [output for output, _ in outputs]


def assert_same_results(expected: Path, found: Path) -> None:
    """The curves and the test of two runs are alike, up to the order of sums."""
    one, other = (
        {tag: [value for _, value in sorted(points)] for tag, points in curves(run).items()}
        for run in (expected, found)
    )
    assert one.keys() == other.keys()
    for tag, values in one.items():
        assert other[tag] == pytest.approx(values, rel=1e-3, abs=1e-4), tag
    tested = [read_metrics(run)["test"]["metrics"] for run in (expected, found)]
    assert tested[0] == pytest.approx(tested[1], rel=1e-3)


def read_metrics(run: Path) -> Any:
    return json.loads((run / "metrics.json").read_text())


@pytest.mark.parametrize(("count", "size"), [(100, 16), (10, 4), (9, 4), (100, 7), (8, 8)])
def test_the_parts_of_the_processes_are_the_batches_of_one(count: int, size: int) -> None:
    views = Views(None, "basic")
    whole = list(TrainingBatches(count, size, 5, views))
    for world in (2, 3):
        shares = [
            TrainingBatches(count, size, 5, views, Shard(rank, world)) for rank in range(world)
        ]
        for index, parts in enumerate(zip(*shares, strict=True)):
            own = [part[: share.sizes(index)[0]] for share, part in zip(shares, parts, strict=True)]
            assert sorted(key for part in own for key in part) == sorted(whole[index])
            assert all(share.sizes(index)[1] == len(whole[index]) for share in shares)
            assert all(parts), "every process takes every step"


@pytest.mark.slow
def test_two_hosts_come_to_the_curve_of_one_process(here: Path, words: Words) -> None:
    """Each with a disk of its own: the second has the images, and nothing is written there but its
    cache."""
    live = [
        "cache.mode=off",
        "cache.views=2",
        "data.augment=basic",
        "data.class_weights=balanced",
        "model.dropout=0.0",
    ]
    train = [
        "optim.label_smoothing=0.1",
        "trainer.ema=0.9",
        "trainer.gradient_clip=0.5",
        "optim.schedule=cosine",
    ]
    search = [
        "tuner=grid",
        "tuner.max_epochs=1",
        "tuner.space={optim: {lr: [0.001, 0.003]}}",
        "trainer.precision=fp32",
    ]
    overrides = words(*live, *train, *search, "cache.dir=cache", "name=x")
    runs, outputs = alone_and_on_two_hosts(overrides, here)
    assert outputs[0].count("› Training") == 1 and outputs[1] == ""
    assert_same_results(*runs)
    searched = [read_metrics(run)["search"]["values"] for run in runs]
    assert searched[0] == searched[1]
    assert len(list((runs[1] / "trials").iterdir())) == 2, "each trial ran once"


@pytest.mark.slow
def test_two_processes_come_to_the_curve_of_one_with_several_labels(
    here: Path, words: Words
) -> None:
    """Loss, mAP, F1, and thresholds, where the processes have validation images unevenly."""
    write_csv(here / "shapes", 90)
    others = ("data=", "data.root=", "model.name=")
    overrides = [
        *(word for word in words() if not word.startswith(others)),
        "data=multi_label",
        f"data.root={here / 'shapes'}",
        "model.name=resnet18",
        "cache.mode=off",
        "cache.views=2",
        "data.augment=basic",
        "data.class_weights=balanced",
        "data.batch_size=11",
        "model.dropout=0.0",
        "optim.label_smoothing=0.1",
        "trainer.max_epochs=3",
        "trainer.precision=fp32",
    ]
    run_alone(*overrides, "name=one")
    both = start(2, *overrides, "name=two", cwd=here)
    output = both.communicate(timeout=300)
    assert both.returncode == 0, output
    runs = [next((here / "runs" / name).iterdir()) for name in ("one", "two")]
    assert_same_results(*runs)
    assert "valid/map" in curves(runs[0])


@pytest.mark.slow
def test_two_hosts_fine_tune_average_and_refit_as_one_process_does(
    here: Path, words: Words
) -> None:
    """The first chooses the average, and the second, whose disk has no checkpoints, goes on."""
    overrides = words(
        "model.name=resnet18",
        "model.head_type=linear",
        "model.dropout=0.0",
        "optim.lr=0.000001",
        "trainer.max_epochs=1",
        "trainer.refit=true",
        "monitor.metric=valid/loss",
        "monitor.mode=min",
        "fine_tune.epochs=1",
        "fine_tune.lr=0.01",  # past a better average
        "fine_tune.ema=0",
        "fine_tune.layer_decay=0.5",
        "fine_tune.soup=2",
        "cache.dir=cache",
        "name=x",
    )
    runs, _ = alone_and_on_two_hosts(overrides, here)
    alone, both = map(read_metrics, runs)
    soups = [each["training"]["fine_tune"]["soup"] for each in (alone, both)]
    assert soups[0]["of"] == soups[1]["of"] == 2 and soups[0]["seeds"] == soups[1]["seeds"]
    expected, found = (each["training"]["fine_tune"]["wise_ft"] for each in (alone, both))
    assert 0 < expected["alpha"] == found["alpha"] < 1
    for one_mix, both_mix in zip(expected["tried"], found["tried"], strict=True):
        assert both_mix == pytest.approx(one_mix, rel=1e-3)
    losses = [each["test"]["metrics"]["loss"] for each in (alone, both)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    # before the training, by the first alone
    suspects = [(run / "fixes.csv").read_text() for run in runs]
    assert suspects[0] == suspects[1]


# Each process notes what it reads as an image to compute with, and what it makes or changes.
_WATCH = """
import os, sys
LOG = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def watch(event, given):
    if event == "open" and isinstance(given[0], str):
        writes = given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        frame, kind = sys._getframe(1), "wrote" if writes else ""
        while frame and not kind:
            kind = "computed" if frame.f_code.co_filename.endswith("breedlab/data/dataset.py") else ""
            frame = frame.f_back
        path = given[0]
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.symlink"):
        kind, path = "wrote", given[event in ("os.rename", "os.symlink")]  # where to
    else:
        return
    if kind:
        os.write(LOG, f"{os.environ.get('RANK')} {kind} {os.path.abspath(str(path))}\\n".encode())
sys.addaudithook(watch)
"""  # noqa: E501


@pytest.mark.slow
def test_the_ranks_compute_on_images_of_their_own_and_one_of_them_writes(
    here: Path,
    words: Words,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hook = tmp_path_factory.mktemp("hook")
    (hook / "sitecustomize.py").write_text(_WATCH)
    monkeypatch.setitem(
        ENVIRONMENT, "PYTHONPATH", f"{hook}{os.pathsep}{ENVIRONMENT.get('PYTHONPATH', '')}"
    )
    monkeypatch.setitem(ENVIRONMENT, "SEEN", str(hook / "seen"))
    # What an archive needs to tell unknown images is computed by rank 0 alone, from all training
    # images.
    overrides = words(
        "cache.mode=off",
        "serving.unknown=off",
        "data.batch_size=20",
        "trainer.max_epochs=2",
        *QUIET,
    )
    both = start(2, *overrides)
    _, err = both.communicate(timeout=300)
    assert both.returncode == 0, err
    seen = [line.split(" ", 2) for line in (hook / "seen").read_text().splitlines()]

    def images(split: str, rank: int) -> Counter[str]:
        return Counter(
            path
            for who, kind, path in seen
            if (who, kind) == (str(rank), "computed") and f"/{split}/" in path
        )

    root = next(word.partition("=")[2] for word in overrides if word.startswith("data.root="))
    every = {
        split: {str(path) for path in Path(root, split).rglob("*.jpg")}
        for split in ("train", "valid", "test")
    }
    first, second = images("train", 0), images("train", 1)
    # Each epoch every image once, half of them by each.
    assert first + second == Counter(dict.fromkeys(every["train"], 2))
    assert first.total() == second.total() == len(every["train"])
    # Rank 0 looks at every validation image twice more, once for the module's answers and once for
    # the archive's, and at eight of them again, since the archive has to answer as the module.
    alone, by_second = images("valid", 0), images("valid", 1)
    alone.subtract(dict.fromkeys(every["valid"], 2))
    compared = (alone + by_second) - Counter(dict.fromkeys(every["valid"], 2))
    assert sorted(compared.values()) == [1] * 8
    by_first = alone - compared
    assert by_first + by_second == Counter(dict.fromkeys(every["valid"], 2))
    assert not by_first.keys() & by_second.keys()
    assert images("test", 0).keys() == every["test"] and not images("test", 1)

    def written(rank: int) -> Counter[str]:
        found = (Path(path) for who, kind, path in seen if (who, kind) == (str(rank), "wrote"))
        return Counter(path.name for path in found if path.is_relative_to(here / "runs"))

    assert {"metrics.json", "config.yaml", "model.tar.gz", "report.html"} <= written(0).keys()
    assert written(0)["metrics.json"] == 1
    assert not written(1)


@pytest.mark.slow
def test_a_last_batch_with_fewer_images_than_processes_is_one_step_of_all(
    here: Path, words: Words
) -> None:
    overrides = words(
        "data.batch_size=7",
        "model.dropout=0.0",
        "trainer.precision=fp32",
        "cache.dir=cache",
        *QUIET,
    )
    run_alone(*overrides, "name=one")
    three = start(3, *overrides, "name=three")
    _, err = three.communicate(timeout=300)
    assert three.returncode == 0, err
    states = [
        torch.load(next((here / "runs" / name).glob("*/checkpoints/last.ckpt")), weights_only=True)[
            "state_dict"
        ]
        for name in ("one", "three")
    ]
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_all_processes_stop_at_one_step_and_go_on_to_the_same_weights(
    here: Path, words: Words
) -> None:
    overrides = words("model.freeze=stage3", "data.batch_size=4", "trainer.ema=0.9", *QUIET)
    whole = start(2, *overrides, "name=unbroken")
    whole.communicate(timeout=300)
    assert whole.returncode == 0
    broken = start(2, *overrides, "name=broken")
    for line in broken.stdout:
        if "epoch 1/" in line:
            break
    time.sleep(0.1)
    broken.send_signal(signal.SIGTERM)
    _, err = broken.communicate(timeout=60)
    assert err.count("stopped by SIGTERM") == 1 and "/breedlab/" not in err, err
    last = torch.load(here / "runs/latest/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] % 25
    hint = re.search(r"resume=\S+", err)
    assert hint is not None
    again = start(2, hint[0])
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    runs = [next((here / "runs" / name).iterdir()) for name in ("unbroken", "broken")]
    assert same_checkpoints(*runs)
    assert curves(runs[0]) == curves(runs[1])


@pytest.mark.slow
def test_the_failure_of_one_host_ends_both_with_one_message(here: Path, words: Words) -> None:
    hosts = [here / "first", here / "second"]
    for folder in hosts:
        folder.mkdir()
    (hosts[0] / "mine").symlink_to(
        next(w for w in words() if w.startswith("data.root=")).partition("=")[2]
    )
    overrides = [word for word in words("name=x") if not word.startswith("data.root")] + [
        "data.root=mine"
    ]
    port = free_port()
    processes = [
        start(1, *overrides, cwd=cwd, hosts=(2, index, port)) for index, cwd in enumerate(hosts)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert all(process.returncode for process in processes)
    said = "".join(err for _, err in outputs)
    assert said.count("data.root: mine does not exist") == 1, said
    assert "/breedlab/" not in said and "gloo" not in said, (
        "no traceback of ours beside torchrun's own report"
    )
