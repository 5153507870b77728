"""Each rule of the profiler on a recording with its fault and on a sound one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from breedlab.config import validate
from breedlab.config.compose import load
from breedlab.config.profiler import ProfilerRules
from breedlab.profiling.judging import judge
from breedlab.profiling.reading import Recording, Steps, System, read

SAMPLES, STEPS = 100, 200


@pytest.fixture(scope="module")
def rules() -> ProfilerRules:
    return validate(load(["experiment=quickstart"])).profiler.rules


def sound() -> Recording:
    """Two GPUs at work all along, 5 seconds of preparation before 45 of training."""
    chance = np.random.default_rng(0)
    zeros = np.zeros(SAMPLES)
    parts = {
        "data": 1.0,
        "forward": 30.0,
        "backward": 60.0,
        "optimizer": 5.0,
        "callbacks": 1.0,
        "checkpoint": 0.0,
    }
    return Recording(
        System(
            t=np.arange(1, SAMPLES + 1) / 2,
            stage=["Data"] * 10 + ["Training"] * (SAMPLES - 10),
            cpu=chance.uniform(40, 60, (SAMPLES, 4)),
            io_wait=zeros + 1,
            memory_gb=zeros + 8,
            process_memory_gb=zeros + 4,
            gpu=chance.uniform(85, 95, (SAMPLES, 2)),
            gpu_memory_gb=np.full((SAMPLES, 2), 12.0),
            gpu_capacity_gb=np.array([16.0, 16.0]),
            disk_read_mb_s=zeros + 20,
            disk_write_mb_s=zeros,
            net_in_mb_s=zeros,
            net_out_mb_s=zeros,
            header={},
        ),
        Steps(
            step=np.arange(1.0, STEPS + 1),
            epoch=np.repeat([0.0, 1.0], STEPS // 2),
            t=np.linspace(5, 50, STEPS),
            parts={name: ms * chance.uniform(0.95, 1.05, STEPS) for name, ms in parts.items()},
        ),
    )


def system(**columns: object) -> Recording:
    return dataclasses.replace(sound(), system=dataclasses.replace(sound().system, **columns))  # type: ignore[arg-type]


def steps(part: str, ms: np.ndarray) -> Recording:  # type: ignore[type-arg]
    made = sound()
    return dataclasses.replace(
        made, steps=dataclasses.replace(made.steps, parts={**made.steps.parts, part: ms})
    )


def growing() -> np.ndarray:  # type: ignore[type-arg]
    return np.stack([np.linspace(4, 12, SAMPLES), np.full(SAMPLES, 4.0)], axis=1)


def spikes() -> np.ndarray:  # type: ignore[type-arg]
    ms = np.zeros(STEPS)
    ms[[20, 70, 120, 170]] = 900.0
    return ms


FAULTS: dict[str, Callable[[], Recording]] = {
    "CPUBottleneck": lambda: system(
        cpu=np.full((SAMPLES, 4), 99.0), gpu=np.full((SAMPLES, 2), 3.0)
    ),
    "IOBottleneck": lambda: system(io_wait=np.full(SAMPLES, 80.0), gpu=np.full((SAMPLES, 2), 3.0)),
    "Dataloader": lambda: steps("data", np.full(STEPS, 60.0)),
    "GPUMemoryIncrease": lambda: system(gpu_memory_gb=growing()),
    "BatchSize": lambda: system(
        gpu=np.full((SAMPLES, 2), 20.0), gpu_memory_gb=np.full((SAMPLES, 2), 2.0)
    ),
    "LowGPUUtilization": lambda: system(gpu=np.tile([[5.0], [95.0]], (SAMPLES // 2, 2))),
    "LoadBalancing": lambda: system(gpu=np.tile([[95.0, 40.0]], (SAMPLES, 1))),
    "MaxInitializationTime": lambda: system(
        t=np.arange(1.0, SAMPLES + 1) * 2, stage=["Data"] * 60 + ["Training"] * 40
    ),
    "StepOutlier": lambda: steps("checkpoint", spikes()),
}


def verdict(name: str, recording: Recording, rules: ProfilerRules) -> str:
    return next(found.verdict for found in judge(recording, rules) if found.rule == name)


@pytest.mark.parametrize("name", FAULTS)
def test_a_rule_fires_on_its_fault_and_keeps_still_on_a_sound_run(
    name: str, rules: ProfilerRules
) -> None:
    assert verdict(name, sound(), rules) == "passed"
    assert verdict(name, FAULTS[name](), rules) == "triggered"


def test_a_fired_rule_says_where_what_it_means_and_what_to_try(rules: ProfilerRules) -> None:
    found = {made.rule: made for made in judge(FAULTS["StepOutlier"](), rules)}["StepOutlier"]
    assert found.steps == [21, 71, 121, 171]
    assert (
        found.figures["slow_part"] == "checkpoint"
        and "checkpoint" in found.meaning
        and found.advice
    )


def test_a_rule_that_passed_does_not_read_as_if_it_had_fired(rules: ProfilerRules) -> None:
    passed = {made.rule: made for made in judge(sound(), rules)}
    for name, fault in FAULTS.items():
        fired = next(made for made in judge(fault(), rules) if made.rule == name)
        assert (
            passed[name].meaning
            and passed[name].meaning != fired.meaning
            and not passed[name].advice
        )


def test_steps_that_the_profiler_traced_are_no_outliers(rules: ProfilerRules) -> None:
    traced = dataclasses.replace(FAULTS["StepOutlier"](), traced=(21, 71, 121, 171))
    assert verdict("StepOutlier", traced, rules) == "passed"


def test_the_overviews_never_fire_and_tell_the_shares(rules: ProfilerRules) -> None:
    found = {made.rule: made for made in judge(sound(), rules)}
    shares = found["OverallFrameworkMetrics"].figures["shares"]
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=shares.get) == "backward"
    assert found["OverallSystemUsage"].figures["gpu1_percent"]["p50"] == pytest.approx(90, abs=3)
    assert {found[name].verdict for name in ("OverallSystemUsage", "OverallFrameworkMetrics")} == {
        "passed"
    }


def test_without_gpus_the_gpus_rules_say_so(rules: ProfilerRules) -> None:
    empty = np.zeros((SAMPLES, 0))
    found = judge(system(gpu=empty, gpu_memory_gb=empty, gpu_capacity_gb=np.zeros(0)), rules)
    silent = {made.rule: made.meaning for made in found if made.verdict == "not_enough_data"}
    assert set(silent) == {
        "CPUBottleneck",
        "GPUMemoryIncrease",
        "BatchSize",
        "LowGPUUtilization",
        "LoadBalancing",
    }
    assert set(silent.values()) == {"no GPU"}


def test_a_short_run_may_take_its_time_to_begin(rules: ProfilerRules) -> None:
    assert (
        verdict("MaxInitializationTime", system(stage=["Data"] * 60 + ["Training"] * 40), rules)
        == "passed"
    )


def test_a_run_without_a_recording_is_not_enough_for_any_rule(
    rules: ProfilerRules, tmp_path: Path
) -> None:
    found = judge(read(tmp_path), rules)
    assert {made.rule for made in found} == {
        *FAULTS,
        "OverallSystemUsage",
        "OverallFrameworkMetrics",
    }
    assert all(
        made.verdict == "not_enough_data" and made.meaning and not made.advice for made in found
    )


LOOSE = {
    "CPUBottleneck": "cpu_bottleneck.gpu_percent=1",
    "IOBottleneck": "io_bottleneck.io_percent=90",
    "Dataloader": "dataloader.share=0.9",
    "GPUMemoryIncrease": "gpu_memory_increase.increase=0.9",
    "BatchSize": "batch_size.gpu_percent=10",
    "LowGPUUtilization": "low_gpu_utilization.spread=95",
    "LoadBalancing": "load_balancing.difference=60",
    "MaxInitializationTime": "max_initialization_time.seconds=600",
    "StepOutlier": "outlier.share=0.05",
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_threshold_of_the_config_moves_the_verdict(name: str) -> None:
    loose = validate(
        load(["experiment=quickstart", f"profiler.rules.{LOOSE[name]}"])
    ).profiler.rules
    assert verdict(name, FAULTS[name](), loose) == "passed"
