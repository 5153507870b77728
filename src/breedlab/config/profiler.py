"""The config of the profiler: what it measures, and the thresholds of its rules."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from breedlab.config.section import Percent, PositiveInt, Section, Share


class CpuBottleneck(Section):
    """How busy the CPU and how idle the GPU is, and in which share of samples."""

    cpu_percent: Percent = 90.0
    gpu_percent: Percent = 10.0
    share: Share = 0.5


class IoBottleneck(Section):
    """How long the CPU waits for disks while the GPU idles, and in which share of samples."""

    io_percent: Percent = 50.0
    gpu_percent: Percent = 10.0
    share: Share = 0.5


class ShareLimit(Section):
    """The largest share of the time that is sound."""

    share: Share = 0.2


class GpuMemoryIncrease(Section):
    """The share of the memory by which its use may rise between the first and the last window."""

    increase: Share = 0.05
    window: PositiveInt = 20


class BatchSize(Section):
    """Below all of these a larger batch would fit."""

    cpu_percent: Percent = 70.0
    gpu_percent: Percent = 70.0
    gpu_memory_percent: Percent = 70.0


class LowGpuUtilization(Section):
    """The least sound 95th percentile, and the largest sound spread from the 5th to it."""

    gpu_percent: Percent = 70.0
    spread: Percent = 40.0


class LoadBalancing(Section):
    """The largest sound difference between GPUs."""

    difference: Percent = 20.0


class MaxInitializationTime(Section):
    """How long the preparation may take, as a share of the run; shorter than this many seconds it always may."""

    share: Share = 0.2
    seconds: Annotated[float, Field(ge=0)] = 60.0


class Outlier(Section):
    """How far from the mean a step is an outlier, and the largest sound share of those."""

    deviations: Annotated[float, Field(gt=0)] = 3.0
    share: Share = 0.01


class ProfilerRules(Section):
    """The thresholds of the profiler's rules."""

    min_samples: PositiveInt = 10
    cpu_bottleneck: CpuBottleneck = Field(default_factory=CpuBottleneck)
    io_bottleneck: IoBottleneck = Field(default_factory=IoBottleneck)
    dataloader: ShareLimit = Field(default_factory=ShareLimit)
    gpu_memory_increase: GpuMemoryIncrease = Field(default_factory=GpuMemoryIncrease)
    batch_size: BatchSize = Field(default_factory=BatchSize)
    low_gpu_utilization: LowGpuUtilization = Field(default_factory=LowGpuUtilization)
    load_balancing: LoadBalancing = Field(default_factory=LoadBalancing)
    max_initialization_time: MaxInitializationTime = Field(default_factory=MaxInitializationTime)
    outlier: Outlier = Field(default_factory=Outlier)


class Profiler(Section):
    """What the profiler measures, and from when on its rules speak up."""

    level: Literal["none", "system", "full"] = "none"
    interval_ms: Annotated[int, Field(ge=50, le=60_000)] = 500
    trace_steps: list[Annotated[int, Field(ge=0)]] = Field(default_factory=lambda: [5, 6, 7])
    rules: ProfilerRules = Field(default_factory=ProfilerRules)
