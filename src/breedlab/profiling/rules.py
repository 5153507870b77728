"""The profiler's rules: what a recording says of the run's use of its machine, and what to do about
it.

Named as in Amazon SageMaker Debugger's profiler report. A rule here is a function and its entry in
`RULES`; one that is registered is one class, a `ProfilerRule`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from breedlab.config.profiler import ProfilerRule, ProfilerRules
from breedlab.profiling.reading import Figures, Recording
from breedlab.registry import PROFILER_RULES
from breedlab.verdicts import NOT_ENOUGH, PASSED, TRIGGERED, NotEnough, Verdict, triggered

Finding = tuple[bool, dict[str, Any], str, str, list[int]]


def cpu_bottleneck(found: Recording, rules: ProfilerRules) -> Finding:
    cpu, gpu = _training(found, rules, found.system.cpu).mean(1), _gpu(found, rules).max(1)
    limits = rules.cpu_bottleneck
    share = float(np.mean((cpu >= limits.cpu_percent) & (gpu <= limits.gpu_percent)))
    return (
        share > limits.share,
        {
            "share_of_samples": share,
            "cpu_percent": float(cpu.mean()),
            "gpu_percent": float(gpu.mean()),
        },
        (
            "The CPU is at its limit while the GPU waits for it, mostly for decoded and augmented"
            " photos."
        ),
        (
            "Raise data.num_workers, use a cheaper data.augment, or a machine with more cores for"
            " each GPU."
        ),
        [],
    )


def io_bottleneck(found: Recording, rules: ProfilerRules) -> Finding:
    waits = _training(found, rules, found.system.io_wait)
    limits, idle = rules.io_bottleneck, np.ones(len(waits), dtype=bool)
    if found.system.gpu.shape[1]:
        idle = _gpu(found, rules).max(1) <= limits.gpu_percent
    share = float(np.mean((waits >= limits.io_percent) & idle))
    reads = _training(found, rules, found.system.disk_read_mb_s)
    return (
        share > limits.share,
        {
            "share_of_samples": share,
            "io_wait_percent": float(waits.mean()),
            "disk_read_mb_s": float(reads.mean()),
        },
        "Processes wait for disks: the photos are read more slowly than they are used.",
        (
            "Put the photos on a local SSD, let the memory hold them, or raise data.num_workers to"
            " wait side by side."
        ),
        [],
    )


def dataloader(found: Recording, rules: ProfilerRules) -> Finding:
    total = _steps(found, rules)
    waits = found.steps.parts["data"]
    share = float(waits.sum() / max(total.sum(), 1e-9))
    return (
        share > rules.dataloader.share,
        {
            "share_of_step_time": share,
            "data_ms": float(waits.mean()),
            "step_ms": float(total.mean()),
        },
        "Training waits for its next batch.",
        (
            "Raise data.num_workers; with a frozen backbone leave cache.mode=auto; use a cheaper"
            " data.augment."
        ),
        _worst(found, waits) if share > rules.dataloader.share else [],
    )


def gpu_memory_increase(found: Recording, rules: ProfilerRules) -> Finding:
    _gpu(found, rules)
    memory = _training(found, rules, found.system.gpu_memory_gb)
    window = rules.gpu_memory_increase.window
    if len(memory) < 2 * window:
        raise NotEnough(f"{len(memory)} samples of the training; two windows take {2 * window}")
    first, last = memory[:window].mean(0), memory[-window:].mean(0)
    rises = (last - first) / found.system.gpu_capacity_gb
    return (
        float(rises.max()) > rules.gpu_memory_increase.increase,
        {
            "rise_of_memory": float(rises.max()),
            "first_gb": float(first.max()),
            "last_gb": float(last.max()),
        },
        (
            "GPU memory keeps growing: something holds on to tensors, often losses kept with their"
            " graphs."
        ),
        (
            "Keep figures as numbers or detached; look for lists that grow each step; compare two"
            " traces (profiler=full)."
        ),
        [],
    )


def batch_size(found: Recording, rules: ProfilerRules) -> Finding:
    gpu, cpu = _gpu(found, rules), _training(found, rules, found.system.cpu).mean(1)
    memory = (
        100 * _training(found, rules, found.system.gpu_memory_gb) / found.system.gpu_capacity_gb
    )
    figures = {
        "cpu_percent_p95": float(np.percentile(cpu, 95)),
        "gpu_percent_p95": float(np.percentile(gpu, 95)),
        "gpu_memory_percent_p95": float(np.percentile(memory, 95)),
    }
    limits = rules.batch_size
    below = (limits.cpu_percent, limits.gpu_percent, limits.gpu_memory_percent)
    return (
        all(value < limit for value, limit in zip(figures.values(), below, strict=True)),
        figures,
        (
            "Neither CPU nor GPU nor its memory is used: the batches are too small to fill the"
            " machine."
        ),
        "Raise data.batch_size (and optim.lr with it), or take a smaller machine.",
        [],
    )


def low_gpu_utilization(found: Recording, rules: ProfilerRules) -> Finding:
    gpu = _gpu(found, rules)
    low, high = np.percentile(gpu, 5, axis=0), np.percentile(gpu, 95, axis=0)
    limits = rules.low_gpu_utilization
    return (
        bool(((high < limits.gpu_percent) | (high - low > limits.spread)).any()),
        {"gpu_percent_p5": float(low.min()), "gpu_percent_p95": float(high.min())},
        (
            "The GPU is little used, or by fits and starts: it waits for data, for the CPU or for"
            " checkpoints."
        ),
        "See Dataloader and CPUBottleneck; raise data.batch_size; checkpoint less often.",
        [],
    )


def load_balancing(found: Recording, rules: ProfilerRules) -> Finding:
    gpu = _gpu(found, rules)
    if gpu.shape[1] < 2:
        raise NotEnough("one GPU; balance takes two")
    means = gpu.mean(0)
    return (
        float(np.ptp(means)) > rules.load_balancing.difference,
        {
            "gpu_percent": [round(float(mean), 1) for mean in means],
            "difference": float(np.ptp(means)),
        },
        "Some GPUs work while others wait.",
        (
            "Give every GPU the same share of each batch, or leave idle ones out"
            " (CUDA_VISIBLE_DEVICES)."
        ),
        [],
    )


def max_initialization_time(found: Recording, rules: ProfilerRules) -> Finding:
    t = found.system.t
    if len(t) < rules.min_samples:
        raise NotEnough(f"{len(t)} samples of the machine; judged from {rules.min_samples}")
    ready = [
        i for i, stage in enumerate(found.system.stage) if stage.startswith(("Search", "Training"))
    ]
    if not ready:
        raise NotEnough("training had not begun")
    limits, before = rules.max_initialization_time, float(t[ready[0]])
    share = before / max(float(t[-1]), 1e-9)
    return (
        share > limits.share and before > limits.seconds,
        {"share_of_run": share, "initialization_s": before, "run_s": float(t[-1])},
        (
            "Much of the run passes before anything is trained: downloading, checking photos,"
            " building the network."
        ),
        (
            "The check of the photos is remembered, so a second run is quicker; train longer for"
            " what is set up."
        ),
        [],
    )


def overall_system_usage(found: Recording, rules: ProfilerRules) -> Finding:
    system = found.system
    if len(system.t) < rules.min_samples:
        raise NotEnough(f"{len(system.t)} samples of the machine; judged from {rules.min_samples}")
    series: dict[str, Figures] = {
        "cpu_percent": system.cpu.mean(1),
        "io_wait_percent": system.io_wait,
        "memory_gb": system.memory_gb,
        "process_memory_gb": system.process_memory_gb,
        "disk_read_mb_s": system.disk_read_mb_s,
        "disk_write_mb_s": system.disk_write_mb_s,
        "net_in_mb_s": system.net_in_mb_s,
        "net_out_mb_s": system.net_out_mb_s,
    }
    for index in range(system.gpu.shape[1]):
        series[f"gpu{index}_percent"] = system.gpu[:, index]
        series[f"gpu{index}_memory_gb"] = system.gpu_memory_gb[:, index]
    figures = {
        name: {
            key: round(float(np.percentile(values, at)), 3)
            for key, at in (("p50", 50), ("p95", 95), ("max", 100))
        }
        for name, values in series.items()
    }
    return False, figures, "How much of the machine the run used.", "", []


def overall_framework_metrics(found: Recording, rules: ProfilerRules) -> Finding:
    total = _steps(found, rules)
    shares = {
        name: float(ms.sum() / max(total.sum(), 1e-9)) for name, ms in found.steps.parts.items()
    }
    figures: dict[str, Any] = {
        "steps": len(total),
        "step_ms": float(np.median(total)),
        "shares": shares,
    }
    if outside := found.framework.get("outside"):
        figures["outside_steps_s"] = outside
    return False, figures, "Where the time of the training's steps went.", "", []


def step_outlier(found: Recording, rules: ProfilerRules) -> Finding:
    total = _steps(found, rules)
    # Steps that the profiler itself made slow say nothing of the training.
    own = ~np.isin(found.steps.step, found.traced)
    steps, total = found.steps.step[own], total[own]
    least = math.ceil(1 / max(rules.outlier.share, 1e-9))
    if len(total) < least:  # where a single one would be too many
        raise NotEnough(f"{len(total)} steps; outliers are judged from {least}")
    limit = float(total.mean() + rules.outlier.deviations * total.std())
    outliers = np.flatnonzero(total > limit)
    share = len(outliers) / len(total)
    figures = {
        "outliers": len(outliers),
        "share_of_steps": share,
        "limit_ms": limit,
        "median_ms": _median(total),
    }
    part = ""
    if len(outliers):
        parts = {name: ms[own] for name, ms in found.steps.parts.items()}
        part = max(
            parts, key=lambda name: float(parts[name][outliers].mean() - np.median(parts[name]))
        )
    return (
        share > rules.outlier.share,
        {**figures, "slow_part": part},
        f"Some steps take far longer than the others, most of it in {part}.",
        (
            "See what runs at those steps: checkpoints, hooks, workers starting, other programs"
            " (profiler=full traces)."
        ),
        [int(steps[index]) for index in outliers[:100]],
    )


RULES: dict[str, Callable[[Recording, ProfilerRules], Finding]] = {
    "CPUBottleneck": cpu_bottleneck,
    "IOBottleneck": io_bottleneck,
    "Dataloader": dataloader,
    "GPUMemoryIncrease": gpu_memory_increase,
    "BatchSize": batch_size,
    "LowGPUUtilization": low_gpu_utilization,
    "LoadBalancing": load_balancing,
    "MaxInitializationTime": max_initialization_time,
    "OverallSystemUsage": overall_system_usage,
    "OverallFrameworkMetrics": overall_framework_metrics,
    "StepOutlier": step_outlier,
}


SOUND = {
    "CPUBottleneck": "The GPU does not wait for the CPU.",
    "IOBottleneck": "Nothing waits for disks to speak of.",
    "Dataloader": "Batches are ready when training asks for them.",
    "GPUMemoryIncrease": "GPU memory stays level.",
    "BatchSize": "The batches make use of the machine.",
    "LowGPUUtilization": "The GPU is kept at work.",
    "LoadBalancing": "The GPUs share the work evenly.",
    "MaxInitializationTime": "Training begins soon enough.",
    "OverallSystemUsage": "How much of the machine the run used.",
    "OverallFrameworkMetrics": "Where the time of the training's steps went.",
    "StepOutlier": "Hardly a step takes far longer than the others.",
}
"""What a rule that did not fire says."""


def judge(recording: Recording, rules: ProfilerRules) -> list[Verdict]:
    """Every rule's verdict: those of `RULES` in their order, then those that are registered."""
    verdicts = []
    for name, rule in RULES.items():
        try:
            fired, figures, meaning, advice, steps = rule(recording, rules)
        except NotEnough as missing:
            verdicts.append(Verdict(name, NOT_ENOUGH, {}, str(missing)))
        else:
            said = (meaning, advice) if fired else (SOUND[name], "")
            verdicts.append(
                Verdict(name, TRIGGERED if fired else PASSED, figures, *said, steps=steps)
            )
    return [
        *verdicts,
        *(_verdict(PROFILER_RULES.made(name, rules), recording) for name in PROFILER_RULES.names()),
    ]


def _verdict(rule: ProfilerRule, recording: Recording) -> Verdict:
    try:
        finding = rule.check(recording)
    except NotEnough as missing:
        return Verdict(rule.title, NOT_ENOUGH, {}, str(missing))
    if not finding.fired:
        return Verdict(rule.title, PASSED, finding.metrics, rule.ok_message)
    return Verdict(
        rule.title, TRIGGERED, finding.metrics, rule.meaning, rule.advice, steps=list(finding.steps)
    )


def headline(recording: Recording, verdicts: list[Verdict]) -> str:
    """The recording in one line."""
    said = []
    if len(recording.system.t):
        said.append(f"CPU {recording.system.cpu.mean():.0f}%")
    if recording.system.gpu.size:
        said.append(f"GPU {recording.system.gpu.mean():.0f}%")
    if total := float(recording.steps.total_ms.sum()):
        said.append(f"{recording.steps.parts['data'].sum() / total:.0%} waiting for data")
    return f"profile: {', '.join(said) or 'nothing recorded'}; {triggered(verdicts)}"


def _training(found: Recording, rules: ProfilerRules, values: Figures) -> Figures:
    """The samples of the search and the training."""
    during = np.array(
        [stage.startswith(("Search", "Training")) for stage in found.system.stage], dtype=bool
    )
    if during.sum() < rules.min_samples:
        raise NotEnough(
            f"{int(during.sum())} samples of the training; judged from {rules.min_samples}"
        )
    kept: Figures = values[during]
    return kept


def _gpu(found: Recording, rules: ProfilerRules) -> Figures:
    if not found.system.gpu.shape[1]:
        raise NotEnough("no GPU")
    return _training(found, rules, found.system.gpu)


def _steps(found: Recording, rules: ProfilerRules) -> Figures:
    total = found.steps.total_ms
    if len(total) < rules.min_samples:
        raise NotEnough(f"{len(total)} steps; judged from {rules.min_samples}")
    return total


def _worst(found: Recording, values: Figures, most: int = 10) -> list[int]:
    return sorted(int(found.steps.step[index]) for index in np.argsort(-values)[:most])


def _median(values: Figures) -> float:
    return float(np.median(values))
