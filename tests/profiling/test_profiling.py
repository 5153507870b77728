"""The profiler on real runs: what it records, that it changes nothing, and that nothing of it stops
a run."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from breedlab.config import validate
from breedlab.config.compose import load
from breedlab.data import dataset
from breedlab.pipeline import run as runs
from breedlab.profiling import sampler, session
from breedlab.profiling.reading import Recording, read
from breedlab.profiling.traces import Traces
from breedlab.registry import PROFILER_RULES

Words = Callable[..., list[str]]
EPOCHS, BATCHES = 2, 7  # 100 images in batches of 16
RULE_NAMES = [
    "CPUBottleneck",
    "IOBottleneck",
    "Dataloader",
    "GPUMemoryIncrease",
    "BatchSize",
    "LowGPUUtilization",
    "LoadBalancing",
    "MaxInitializationTime",
    "OverallSystemUsage",
    "OverallFrameworkMetrics",
    "StepOutlier",
]


def launch(words: Words, folder: Path, *more: str) -> Path:
    made = words("name=watched", f"runs_dir={folder}", *more)
    return runs.run(validate(load(made)), made).run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, words: Words) -> Path:
    return launch(
        words, tmp_path_factory.mktemp("runs"), "profiler=full", "profiler.interval_ms=50"
    )


@pytest.fixture(scope="module")
def recording(run: Path) -> Recording:
    return read(run)


def verdicts(run: Path) -> dict[str, dict[str, Any]]:
    return {
        found["rule"]: found
        for found in json.loads((run / "profile" / "verdicts.json").read_text())
    }


def test_the_whole_run_is_sampled_stage_by_stage(recording: Recording) -> None:
    stages = list(dict.fromkeys(stage for stage in recording.system.stage if stage))
    order = ("Data", "Network", "Training", "Test", "Export")
    # the shortest may lie between two samples
    assert stages == [stage for stage in order if stage in stages]
    assert {"Training", "Export"} <= set(stages)
    assert (np.diff(recording.system.t) > 0).all()
    assert recording.system.cpu.shape[1] == recording.system.header["cores"]
    assert 0 < recording.system.cpu.mean() <= 100
    assert 0.1 < recording.system.process_memory_gb.max() < recording.system.header["memory_gb"]


def test_each_training_step_is_there_with_its_parts(recording: Recording) -> None:
    steps = recording.steps
    assert steps.step.tolist() == list(range(1, EPOCHS * BATCHES + 1))
    assert steps.epoch.tolist() == [0] * BATCHES + [1] * BATCHES
    for part in ("data", "forward", "backward", "optimizer"):
        assert (steps.parts[part] > 0).all(), part
    # What lies between the ends of two steps of an epoch is the later one's, all of it and nothing
    # else.
    gaps = 1000 * np.diff(steps.t)
    within = np.diff(steps.epoch) == 0
    np.testing.assert_allclose(gaps[within], steps.total_ms[1:][within], rtol=0.05, atol=2)
    assert recording.framework["outside"]["checkpoint"] > 0


def test_the_sums_of_the_parts_are_the_whole_of_the_training(recording: Recording) -> None:
    found = recording.framework
    assert sum([*found["inside"].values(), *found["outside"].values()]) == pytest.approx(
        found["seconds"], rel=0.05
    )


def test_the_traced_steps_open_as_a_trace(recording: Recording) -> None:
    (trace,) = recording.traces
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert any("aten::addmm" in event.get("name", "") for event in events)
    assert any(
        operator["name"] == "aten::addmm" and operator["calls"] >= 3
        for operator in recording.operators
    )
    # What Perfetto and chrome://tracing ask of the format: spans with a place and a time, steps
    # that hold their work.
    spans = [event for event in events if event["ph"] == "X"]
    assert all(
        event["ts"] >= 0 and event["dur"] >= 0 and {"name", "pid", "tid"} <= event.keys()
        for event in spans
    )
    steps = sorted(
        (e for e in spans if e["name"].startswith("ProfilerStep#")), key=lambda event: event["ts"]
    )
    assert [step["name"] for step in steps] == [f"ProfilerStep#{number}" for number in (5, 6, 7)]
    for step in steps:
        inside = [
            e["name"]
            for e in spans
            if step["ts"] <= e["ts"] and e["ts"] + e["dur"] <= step["ts"] + step["dur"]
        ]
        assert "aten::addmm" in inside and any("backward" in name.lower() for name in inside)


def test_tracing_says_nothing_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    traces = Traces(tmp_path, [0])
    traces._begin(0)
    torch.ones(3).sum()
    traces._end()
    assert capfd.readouterr() == ("", "")


def test_every_rule_has_a_verdict_with_its_figures_or_what_is_missing(run: Path) -> None:
    found = verdicts(run)
    titles = [rule.title for _, rule in PROFILER_RULES.items()]
    assert list(found) == RULE_NAMES == titles
    for verdict in found.values():
        assert verdict["meaning"] and (verdict["verdict"] == "not_enough_data") == (
            not verdict["figures"]
        )
    if not torch.cuda.is_available():
        assert found["LowGPUUtilization"]["verdict"] == "not_enough_data"
    assert found["Dataloader"]["verdict"] == "passed"


@pytest.mark.parametrize("cached", [True, False])
def test_a_watched_run_ends_at_the_same_weights(
    run: Path, words: Words, tmp_path: Path, cached: bool
) -> None:
    # Not cached: images and the whole network in every step.
    mode = [] if cached else ["cache.mode=off", "trainer.max_epochs=1"]
    watched = run if cached else launch(words, tmp_path / "watched", "profiler=full", *mode)
    other = launch(words, tmp_path / "alone", "profiler=none", *mode)
    assert (watched / "profile").exists() and not (other / "profile").exists()
    states = [
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (watched, other)
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_training_that_waits_for_its_images_is_told(
    words: Words,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = dataset.ImageDataset.__getitem__

    def slow(self: dataset.ImageDataset, key: Any) -> Any:
        time.sleep(0.01)
        return plain(self, key)

    monkeypatch.setattr(dataset.ImageDataset, "__getitem__", slow)
    found = verdicts(launch(words, tmp_path, "profiler=system", "cache.mode=off"))["Dataloader"]
    assert found["verdict"] == "triggered" and found["steps"] and "num_workers" in found["advice"]
    assert found["figures"]["share_of_step_time"] > 0.2
    assert "triggered: " in (said := capsys.readouterr().out) and "Dataloader" in said


def test_a_monitor_that_dies_stops_no_run(
    words: Words,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begin = session.Session._begin

    def doomed(self: session.Session) -> None:
        begin(self)
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    monkeypatch.setattr(session.Session, "_begin", doomed)
    made = launch(words, tmp_path, "profiler=system")
    assert (made / "model.tar.gz").exists()
    assert capsys.readouterr().out.count("the profiler stopped, and the run continues") == 1
    assert verdicts(made)["OverallSystemUsage"]["verdict"] == "not_enough_data"


def test_a_profile_that_cannot_be_written_warns_once_a_part_and_stops_no_run(
    words: Words,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    create = runs.rundir.create

    def blocked(*given: Any) -> Path:
        made = create(*given)
        (made / "profile").write_text("in the way")
        return made

    monkeypatch.setattr(runs.rundir, "create", blocked)
    made = launch(
        words, tmp_path, "profiler=full", "trainer.max_epochs=1", "profiler.trace_steps=[2,3]"
    )
    assert (made / "model.tar.gz").exists()
    said = capsys.readouterr().out
    for part in (
        "the profiler stopped, and the run continues",
        "the profiler cannot write",
        "steps are not traced",
    ):
        assert said.count(part) == 1


def test_the_monitor_ends_with_the_run_whatever_became_of_it_and_is_continued(
    tmp_path: Path,
) -> None:
    file = tmp_path / "system.jsonl"
    for _ in range(2):
        # A run that is killed between two samples: nobody says goodbye to its monitor.
        program = (
            "import json, subprocess, sys, os, time\nmonitor = subprocess.Popen([sys.executable,"
            f" {sampler.__file__!r}, str(os.getpid()), '50', str(time.monotonic())],"
            " stdin=subprocess.PIPE, text=True)\nmonitor.stdin.write(json.dumps(['write',"
            f" {str(file)!r}]) + '\\n'); monitor.stdin.flush()\ntime.sleep(1); print(monitor.pid,"
            " flush=True); os.kill(os.getpid(), 9)"
        )
        killed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        deadline = time.monotonic() + 30
        while _alive(int(killed.stdout)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _alive(int(killed.stdout))
        with file.open("a") as torn:
            torn.write('{"t": 9')
    lines = [json.loads(line) for line in file.read_text().splitlines()[:-1]]
    times = [line["t"] for line in lines if "t" in line]
    assert sum("wall_start" in line for line in lines) == 2
    assert len(times) > 10 and times == sorted(times)


def _alive(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    try:
        return state.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
