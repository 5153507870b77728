"""The config of the profiler: what it measures, and the thresholds of its rules."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from breedlab.config.section import Percent, PositiveInt, Section, Share


class CpuBottleneck(Section):
    """How busy the CPU and how idle the GPU is, and in which share of samples."""

    cpu_percent: Percent
    gpu_percent: Percent
    share: Share


class IoBottleneck(Section):
    """How long the CPU waits for disks while the GPU idles, and in which share of samples."""

    io_percent: Percent
    gpu_percent: Percent
    share: Share


class ShareLimit(Section):
    """The largest share of the time that is sound."""

    share: Share


class GpuMemoryIncrease(Section):
    """The share of the memory by which its use may rise between the first and the last window."""

    increase: Share
    window: PositiveInt


class BatchSize(Section):
    """Below all of these a larger batch would fit."""

    cpu_percent: Percent
    gpu_percent: Percent
    gpu_memory_percent: Percent


class LowGpuUtilization(Section):
    """The least sound 95th percentile, and the largest sound spread from the 5th to it."""

    gpu_percent: Percent
    spread: Percent


class LoadBalancing(Section):
    """The largest sound difference between GPUs."""

    difference: Percent


class MaxInitializationTime(Section):
    """How long the preparation may take, as a share of the run; shorter than this many seconds it always may."""

    share: Share
    seconds: Annotated[float, Field(ge=0)]


class Outlier(Section):
    """How far from the mean a step is an outlier, and the largest sound share of those."""

    deviations: Annotated[float, Field(gt=0)]
    share: Share


class ProfilerRules(Section):
    """The thresholds of the profiler's rules."""

    min_samples: PositiveInt
    cpu_bottleneck: CpuBottleneck
    io_bottleneck: IoBottleneck
    dataloader: ShareLimit
    gpu_memory_increase: GpuMemoryIncrease
    batch_size: BatchSize
    low_gpu_utilization: LowGpuUtilization
    load_balancing: LoadBalancing
    max_initialization_time: MaxInitializationTime
    outlier: Outlier


class Profiler(Section):
    """What the profiler measures, and from when on its rules speak up."""

    level: Literal["none", "system", "full"]
    interval_ms: Annotated[int, Field(ge=50, le=60_000)]
    trace_steps: list[Annotated[int, Field(ge=0)]]
    rules: ProfilerRules
