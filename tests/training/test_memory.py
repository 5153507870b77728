"""A step that does not fit into memory is refused before it, by what it takes; fine-tuning takes
smaller batches."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from codes import raises_code

import breedlab.cli
from breedlab import hardware
from breedlab.cli import launch
from breedlab.config import Config
from breedlab.pipeline import fine_tuning_plan
from breedlab.pipeline.checked_images import checked_images
from breedlab.pipeline.fine_tuning_settings import settings
from breedlab.training.context import TrainingContext
from breedlab.training.memory import step_bytes
from breedlab.training.preparation import prepare

Configure = Callable[..., Config]
LIVE = ("model.freeze=none", "data.image_size=64", "data.resize=64", "model.name=resnet18")


def ready(config: Config) -> TrainingContext:
    return prepare(config, checked_images(config))


def test_what_a_step_takes_is_what_the_network_keeps(configure: Configure) -> None:
    """ResNet18's activations at 64 px, counted by hand: 3 of 64 x 32 x 32 floats in its stem (the
    convolution's, the normalized, the rectified), and so on through four stages."""
    config = configure(*LIVE)
    weights, image = step_bytes(ready(config), config, "fp32")
    assert weights == pytest.approx(5 * 4 * 11.2e6, rel=0.05)
    stem = 4 * (3 * 64 * 64 + 2 * 64 * 32 * 32)
    assert 2 * stem < image < 8 * stem
    wider = configure(*LIVE[:1], "data.image_size=128", "data.resize=128", LIVE[-1])
    assert step_bytes(ready(wider), wider, "fp32")[1] == pytest.approx(4 * image, rel=0.05)


def test_a_step_that_does_not_fit_is_refused_with_the_batch_that_does(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(*LIVE, "data.batch_size=16")
    weights, image = step_bytes(ready(config), config, "fp32")
    monkeypatch.setattr(hardware, "free_memory", lambda: weights + 9 * image)
    with raises_code("BL100", names=("data.batch_size", 16, "GB")) as caught:
        ready(config)
    assert "data.batch_size=8 or less" in str(caught.value)
    ready(configure(*LIVE, "data.batch_size=8"))
    ready(configure("data.batch_size=16"))  # a head on cached features takes next to nothing


def test_a_search_is_refused_for_its_largest_batch_in_all_parallel_trials(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = ("tuner=random", "tuner.parallel=2", "tuner.space.data.batch_size=[4,16]")
    config = configure(*LIVE, *search)
    weights, image = step_bytes(ready(config), config, "fp32")
    monkeypatch.setattr(hardware, "free_memory", lambda: 2 * weights + 20 * image)
    with raises_code("BL100", names=("tuner.space.data.batch_size", 2)):
        ready(config)


def test_fine_tuning_takes_a_smaller_batch_or_leaves_the_backbone(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(*LIVE[1:], "fine_tune.epochs=1", "fine_tune.batch_size=16")
    context = ready(config)
    tuned = settings(context, config, "none")
    weights, image = step_bytes(context, tuned, "fp32")
    for room, expected, said in ((9, 8, "batch_size=8 instead of 16"), (1, 1, "stays frozen")):
        monkeypatch.setattr(
            hardware, "free_memory", lambda room=room: weights + room * image + image // 2
        )
        assert fine_tuning_plan._batch_that_fits(context, tuned, "fp32") == expected
        assert said in capsys.readouterr().out


@pytest.mark.parametrize("version", [0, 1])
def test_a_containers_limit_counts_without_the_files_that_it_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    files = [tuple(tmp_path / f"{v}-{name}" for name in ("max", "used", "stat")) for v in (0, 1)]
    monkeypatch.setattr(hardware, "_CGROUP_FILES", files)
    of_machine = hardware.free_memory()
    limit, used, stat = files[version]
    limit.write_text("1000000\n")
    used.write_text("700000\n")
    stat.write_text(f"anon 5\n{'total_' * version}inactive_file 100000\n")
    assert hardware.free_memory() == 400_000 < of_machine
    limit.write_text("max\n")
    assert hardware.free_memory() > 400_000


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate"
                     " memory: you tried to allocate 1 bytes."),
        MemoryError(),
    ],
)  # fmt: skip
def test_memory_that_runs_out_is_one_message(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr(launch, "main", main)
    monkeypatch.setattr(sys, "argv", ["breedlab", "experiment=quickstart"])
    with pytest.raises(SystemExit) as ended:
        breedlab.cli.run("launch")
    said = capsys.readouterr().err
    assert ended.value.code == 1 and "Traceback" not in said
    assert "out of memory" in said and "data.batch_size" in said
