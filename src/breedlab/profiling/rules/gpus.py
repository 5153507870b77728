"""Rules about GPUs: how busy they are, and their memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from breedlab.config.profiler import ProfilerRule
from breedlab.config.section import Percent, PositiveInt, Share
from breedlab.registry import PROFILER_RULES
from breedlab.verdicts import Finding, NotEnough

if TYPE_CHECKING:
    from breedlab.profiling.reading import Recording


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
