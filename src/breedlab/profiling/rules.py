"""The profiler's rules: how a run used its machine, and what to do about it.

Named as in Amazon SageMaker Debugger's profiler report. A rule is one class: its thresholds, what
it measures, and what it says. NumPy is imported where it is used, so that a typo and a dry run
still answer at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from breedlab.config.profiler import ProfilerRule
from breedlab.config.section import Percent, PositiveInt, Share
from breedlab.registry import PROFILER_RULES
from breedlab.verdicts import Finding, NotEnough

if TYPE_CHECKING:
    from breedlab.profiling.reading import Figures, Recording


@PROFILER_RULES.register("cpu_bottleneck")
class CpuBottleneck(ProfilerRule):
    """How busy the CPU and how idle the GPU is, and in which share of samples."""

    title = "CPUBottleneck"
    meaning = "The CPU is at its limit while the GPU waits, mostly for decoding and augmentation."
    advice = (
        "Raise data.num_workers, use a cheaper data.augment, or a machine with more cores per GPU."
    )
    ok_message = "The GPU does not wait for the CPU."

    cpu_percent: Percent = 90.0
    """The CPU is busy from here on."""
    gpu_percent: Percent = 10.0
    """The GPU is idle up to here."""
    share: Share = 0.5
    """The largest acceptable share of samples with both."""

    def check(self, recording: Recording) -> Finding:
        cpu = recording.during_training(recording.system.cpu).mean(1)
        gpu = recording.gpu_during_training().max(1)
        share = float(((cpu >= self.cpu_percent) & (gpu <= self.gpu_percent)).mean())
        metrics = {
            "share_of_samples": share,
            "cpu_percent": float(cpu.mean()),
            "gpu_percent": float(gpu.mean()),
        }
        return Finding(share > self.share, metrics)


@PROFILER_RULES.register("io_bottleneck")
class IoBottleneck(ProfilerRule):
    """How long the CPU waits for disks while the GPU idles, and in which share of samples."""

    title = "IOBottleneck"
    meaning = "Processes wait for disks: images are read more slowly than they are used."
    advice = (
        "Put the images on a local SSD, let memory hold them, or raise data.num_workers so that"
        " reads overlap."
    )
    ok_message = "Disks are fast enough."

    io_percent: Percent = 50.0
    """The CPU waits for disks from here on."""
    gpu_percent: Percent = 10.0
    """The GPU is idle up to here."""
    share: Share = 0.5
    """The largest acceptable share of samples with both."""

    def check(self, recording: Recording) -> Finding:
        waits = recording.during_training(recording.system.io_wait)
        slow = waits >= self.io_percent
        if recording.system.gpu.shape[1]:
            slow = slow & (recording.gpu_during_training().max(1) <= self.gpu_percent)
        share = float(slow.mean())
        reads = recording.during_training(recording.system.disk_read_mb_s)
        metrics = {
            "share_of_samples": share,
            "io_wait_percent": float(waits.mean()),
            "disk_read_mb_s": float(reads.mean()),
        }
        return Finding(share > self.share, metrics)


@PROFILER_RULES.register("dataloader")
class Dataloader(ProfilerRule):
    """The share of the steps' time that is spent waiting for data."""

    title = "Dataloader"
    meaning = "Training waits for its next batch."
    advice = (
        "Raise data.num_workers; with a frozen backbone leave cache.mode=auto; use a cheaper"
        " data.augment."
    )
    ok_message = "Batches are ready when training asks for them."

    share: Share = 0.2
    """The largest acceptable share of the steps' time that is spent waiting for data."""

    def check(self, recording: Recording) -> Finding:
        total = recording.step_ms()
        waits = recording.steps.parts["data"]
        share = float(waits.sum() / max(total.sum(), 1e-9))
        metrics = {
            "share_of_step_time": share,
            "data_ms": float(waits.mean()),
            "step_ms": float(total.mean()),
        }
        fired = share > self.share
        return Finding(fired, metrics, steps=_slowest(recording, waits) if fired else ())


@PROFILER_RULES.register("gpu_memory_increase")
class GpuMemoryIncrease(ProfilerRule):
    """How much the use of GPU memory may rise between the first and the last window."""

    title = "GPUMemoryIncrease"
    meaning = (
        "GPU memory keeps growing: something holds on to tensors, often losses kept with their"
        " graphs."
    )
    advice = (
        "Keep metrics as numbers or detached; look for lists that grow each step; compare two"
        " traces (profiler=full)."
    )
    ok_message = "GPU memory stays level."

    increase: Share = 0.05
    """The share of the memory by which its use may rise."""
    window: PositiveInt = 20
    """Samples in the first and in the last window."""

    def check(self, recording: Recording) -> Finding:
        recording.gpu_during_training()
        memory = recording.during_training(recording.system.gpu_memory_gb)
        if len(memory) < 2 * self.window:
            raise NotEnough(
                f"{len(memory)} samples of the training; two windows take {2 * self.window}"
            )
        first, last = memory[: self.window].mean(0), memory[-self.window :].mean(0)
        rise = float(((last - first) / recording.system.gpu_capacity_gb).max())
        metrics = {
            "rise_of_memory": rise,
            "first_gb": float(first.max()),
            "last_gb": float(last.max()),
        }
        return Finding(rise > self.increase, metrics)


@PROFILER_RULES.register("batch_size")
class BatchSize(ProfilerRule):
    """Below all of these a larger batch would fit."""

    title = "BatchSize"
    meaning = (
        "Neither CPU nor GPU nor its memory is used: the batches are too small to fill the machine."
    )
    advice = "Raise data.batch_size (and optim.lr with it), or take a smaller machine."
    ok_message = "The batches make use of the machine."

    cpu_percent: Percent = 70.0
    """The 95th percentile of CPU use, below which it has room."""
    gpu_percent: Percent = 70.0
    """The 95th percentile of GPU use, below which it has room."""
    gpu_memory_percent: Percent = 70.0
    """The 95th percentile of GPU memory, below which it has room."""

    def check(self, recording: Recording) -> Finding:
        import numpy as np

        gpu = recording.gpu_during_training()
        cpu = recording.during_training(recording.system.cpu).mean(1)
        memory = recording.during_training(recording.system.gpu_memory_gb)
        metrics = {
            "cpu_percent_p95": float(np.percentile(cpu, 95)),
            "gpu_percent_p95": float(np.percentile(gpu, 95)),
            "gpu_memory_percent_p95": float(
                np.percentile(100 * memory / recording.system.gpu_capacity_gb, 95)
            ),
        }
        has_room = (
            metrics["cpu_percent_p95"] < self.cpu_percent
            and metrics["gpu_percent_p95"] < self.gpu_percent
            and metrics["gpu_memory_percent_p95"] < self.gpu_memory_percent
        )
        return Finding(has_room, metrics)


@PROFILER_RULES.register("low_gpu_utilization")
class LowGpuUtilization(ProfilerRule):
    """The least acceptable 95th percentile, and the largest acceptable spread from the 5th."""

    title = "LowGPUUtilization"
    meaning = (
        "The GPU is little used, or in bursts: it waits for data, for the CPU, or for checkpoints."
    )
    advice = "See Dataloader and CPUBottleneck; raise data.batch_size; checkpoint less often."
    ok_message = "The GPU is kept busy."

    gpu_percent: Percent = 70.0
    """The least acceptable 95th percentile of GPU use."""
    spread: Percent = 40.0
    """The largest acceptable difference between that and the 5th."""

    def check(self, recording: Recording) -> Finding:
        import numpy as np

        gpu = recording.gpu_during_training()
        low, high = np.percentile(gpu, 5, axis=0), np.percentile(gpu, 95, axis=0)
        fired = bool(((high < self.gpu_percent) | (high - low > self.spread)).any())
        metrics = {"gpu_percent_p5": float(low.min()), "gpu_percent_p95": float(high.min())}
        return Finding(fired, metrics)


@PROFILER_RULES.register("load_balancing")
class LoadBalancing(ProfilerRule):
    """The largest acceptable difference between GPUs."""

    title = "LoadBalancing"
    meaning = "Some GPUs work while others wait."
    advice = (
        "Give every GPU the same share of each batch, or leave idle ones out"
        " (CUDA_VISIBLE_DEVICES)."
    )
    ok_message = "The GPUs share the work evenly."

    difference: Percent = 20.0
    """The largest acceptable difference between two GPUs' use, in percent."""

    def check(self, recording: Recording) -> Finding:
        gpu = recording.gpu_during_training()
        if gpu.shape[1] < 2:
            raise NotEnough("one GPU; balance takes two")
        means = gpu.mean(0)
        difference = float(means.max() - means.min())
        metrics = {
            "gpu_percent": [round(float(mean), 1) for mean in means],
            "difference": difference,
        }
        return Finding(difference > self.difference, metrics)


@PROFILER_RULES.register("max_initialization_time")
class MaxInitializationTime(ProfilerRule):
    """How long the time before training may be, as a share of the run and in seconds."""

    title = "MaxInitializationTime"
    meaning = (
        "Much of the run passes before anything is trained: downloading, checking images, building"
        " the network."
    )
    advice = (
        "The data check is remembered, so a second run starts sooner; train longer for the same"
        " setup."
    )
    ok_message = "Training begins soon enough."

    share: Share = 0.2
    """The largest acceptable share of the run before training begins."""
    seconds: Annotated[float, Field(ge=0)] = 60.0
    """Shorter than this it may always be."""

    def check(self, recording: Recording) -> Finding:
        from breedlab.profiling.reading import is_training

        t = recording.sample_times()
        trained = [i for i, stage in enumerate(recording.system.stage) if is_training(stage)]
        if not trained:
            raise NotEnough("training had not begun")
        before = float(t[trained[0]])
        share = before / max(float(t[-1]), 1e-9)
        metrics = {"share_of_run": share, "initialization_s": before, "run_s": float(t[-1])}
        return Finding(share > self.share and before > self.seconds, metrics)


@PROFILER_RULES.register("overall_system_usage")
class OverallSystemUsage(ProfilerRule):
    """How much of the machine the run used; it never fires."""

    title = "OverallSystemUsage"
    ok_message = "How much of the machine the run used."

    def check(self, recording: Recording) -> Finding:
        import numpy as np

        recording.sample_times()
        system = recording.system
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
        metrics: dict[str, Any] = {}
        for name, values in series.items():
            p50, p95, most = (round(float(np.percentile(values, at)), 3) for at in (50, 95, 100))
            metrics[name] = {"p50": p50, "p95": p95, "max": most}
        return Finding(False, metrics)


@PROFILER_RULES.register("overall_framework_metrics")
class OverallFrameworkMetrics(ProfilerRule):
    """Where the time of training steps went; it never fires."""

    title = "OverallFrameworkMetrics"
    ok_message = "Where the time of the training's steps went."

    def check(self, recording: Recording) -> Finding:
        import numpy as np

        total = recording.step_ms()
        all_ms = max(float(total.sum()), 1e-9)
        metrics: dict[str, Any] = {
            "steps": len(total),
            "step_ms": float(np.median(total)),
            "shares": {
                name: float(ms.sum()) / all_ms for name, ms in recording.steps.parts.items()
            },
        }
        if outside := recording.framework.get("outside"):
            metrics["outside_steps_s"] = outside
        return Finding(False, metrics)


@PROFILER_RULES.register("outlier")
class StepOutlier(ProfilerRule):
    """How far from the mean a step is an outlier, and the largest acceptable share of those."""

    title = "StepOutlier"
    meaning = "Some steps take far longer than the others."
    advice = (
        "See what runs at those steps: checkpoints, hooks, workers starting, other programs"
        " (profiler=full traces)."
    )
    ok_message = "Hardly any step takes far longer than the others."

    deviations: Annotated[float, Field(gt=0)] = 3.0
    """How many standard deviations above the mean a step is an outlier."""
    share: Share = 0.01
    """The largest acceptable share of those."""

    def check(self, recording: Recording) -> Finding:
        import numpy as np

        total = recording.step_ms()
        # Steps that the profiler itself made slow say nothing of the training.
        untraced = ~np.isin(recording.steps.step, recording.traced)
        steps, total = recording.steps.step[untraced], total[untraced]
        least = math.ceil(1 / max(self.share, 1e-9))
        if len(total) < least:  # where a single one would be too many
            raise NotEnough(f"{len(total)} steps; outliers are judged from {least}")
        limit = float(total.mean() + self.deviations * total.std())
        outliers = np.flatnonzero(total > limit)
        share = len(outliers) / len(total)
        slow_part = ""
        if len(outliers):
            slower_by = {
                name: float(ms[untraced][outliers].mean() - np.median(ms[untraced]))
                for name, ms in recording.steps.parts.items()
            }
            slow_part = max(slower_by, key=slower_by.__getitem__)
        metrics = {
            "outliers": len(outliers),
            "share_of_steps": share,
            "limit_ms": limit,
            "median_ms": float(np.median(total)),
            "slow_part": slow_part,
        }
        slow_steps = [int(steps[index]) for index in outliers[:100]]
        meaning = f"Some steps take far longer than the others, most of it in {slow_part}."
        return Finding(share > self.share, metrics, steps=slow_steps, meaning=meaning)


def _slowest(recording: Recording, values: Figures, most: int = 10) -> list[int]:
    return sorted(int(recording.steps.step[index]) for index in (-values).argsort()[:most])
