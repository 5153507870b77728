"""Real recordings of small real runs."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from breedlab import launch
from breedlab.data.module import PhotoDataset
from breedlab.profiling.reading import read
from breedlab.profiling.rules import TRIGGERED

Words = Callable[..., list[str]]


def _weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, words: Words) -> Path:
    """The same training with everything on and with nothing on."""
    root = tmp_path_factory.mktemp("profiled")
    for level in ("full", "none"):
        more = (f"runs_dir={root / level}", f"profiler={level}", "profiler.interval_ms=100", "name=x")
        assert launch.main(words(*more)) == 0
    return root


def test_profiling_leaves_the_weights_bit_equal(runs: Path) -> None:
    watched, alone = _weights(runs / "full" / "latest"), _weights(runs / "none" / "latest")
    assert watched.keys() == alone.keys()
    assert all(torch.equal(watched[name], alone[name]) for name in alone)
    assert not (runs / "none" / "latest" / "profile").exists()


def test_the_recording_covers_the_whole_run(runs: Path) -> None:
    found = read(runs / "full" / "latest")
    stages = list(dict.fromkeys(found.system.stage))
    # The check of so few photos is over before the monitor's first sample.
    assert stages[0] in ("Data", "Network") and "Training" in stages and stages[-1] in ("Test", "Export")
    assert found.system.cpu.shape == (len(found.system.t), found.system.header["cores"])
    assert (found.system.process_memory_gb > 0).all() and (found.system.t[1:] > found.system.t[:-1]).all()
    assert found.steps.step.tolist() == list(range(1, 15))  # 2 epochs of 7 batches
    assert set(found.steps.epoch) == {0, 1}
    for part in ("data", "forward", "backward", "optimizer"):
        assert (found.steps.parts[part] > 0).all(), part
    assert found.framework["outside"]["checkpoint"] > 0
    whole = sum(found.framework["inside"].values()) + sum(found.framework["outside"].values())
    assert whole == pytest.approx(found.framework["seconds"], rel=0.15)  # each moment counts once
    assert {verdict["rule"] for verdict in found.verdicts} >= {"Dataloader", "StepOutlier"} and len(
        found.verdicts
    ) == 11


def test_chosen_steps_are_traced_and_their_operators_listed(runs: Path) -> None:
    found = read(runs / "full" / "latest")
    (trace,) = found.traces
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert sum(event.get("name") == "aten::nll_loss_backward" for event in events) == 3
    assert any(row["name"] == "aten::addmm" and row["calls"] > 0 for row in found.operators)


def test_photos_that_come_slowly_trigger_dataloader(
    here: Path, words: Words, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = PhotoDataset.__getitem__

    def slow(self: PhotoDataset, key: Any) -> Any:
        time.sleep(0.01)
        return quick(self, key)

    monkeypatch.setattr(PhotoDataset, "__getitem__", slow)
    assert launch.main(words("cache.mode=off", "profiler=system", "name=slow")) == 0
    verdicts = {verdict["rule"]: verdict for verdict in read(Path("runs/latest")).verdicts}
    assert verdicts["Dataloader"]["verdict"] == TRIGGERED and verdicts["Dataloader"]["steps"]
    assert "Dataloader" in capsys.readouterr().out


def test_a_profiler_that_cannot_write_warns_and_training_goes_on(
    here: Path, words: Words, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from breedlab.training import rundir

    made = rundir.create

    def create(*args: Any) -> Path:
        run = made(*args)
        (run / "profile").write_text("in the way")
        return run

    monkeypatch.setattr(rundir, "create", create)
    assert launch.main(words("profiler=full", "name=blocked", "trainer.max_epochs=1")) == 0
    assert "warning:" in capsys.readouterr().out
    assert Path("runs/latest/model.tar.gz").exists()
