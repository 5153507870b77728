"""The config of the profiler: what it measures, and the thresholds of its rules."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from breedlab.config.section import Percent, PositiveInt, Section, Share

if TYPE_CHECKING:
    from breedlab.profiling.reading import Recording
    from breedlab.verdicts import Finding


class ProfilerRule(Section):
    """A rule of the profiler that is one class: its thresholds, and what it makes of a recording.

    Attributes:
        title: Its name in verdicts.
        meaning: What it usually means that it fired.
        advice: What to try then.
        ok_message: What it means that it did not fire.
    """

    title: ClassVar[str]
    meaning: ClassVar[str] = ""
    advice: ClassVar[str] = ""
    ok_message: ClassVar[str] = ""

    @abstractmethod
    def check(self, recording: Recording) -> Finding:
        """Return whether the rule fires, and what it measured.

        Args:
            recording: `recording.system` has the samples of the machine, `recording.steps` the time
                of each step.

        Raises:
            NotEnough: If there is too little to judge, which `breedlab.verdicts` has.
        """


class CpuBottleneck(Section):
    """How busy the CPU and how idle the GPU is, and in which share of samples."""

    cpu_percent: Percent = 90.0
    """From here on the CPU is busy."""
    gpu_percent: Percent = 10.0
    """Up to here the GPU is idle."""
    share: Share = 0.5
    """The share of samples with both that is sound."""


class IoBottleneck(Section):
    """How long the CPU waits for disks while the GPU idles, and in which share of samples."""

    io_percent: Percent = 50.0
    """From here on the CPU waits for disks."""
    gpu_percent: Percent = 10.0
    """Up to here the GPU is idle."""
    share: Share = 0.5
    """The share of samples with both that is sound."""


class ShareLimit(Section):
    """The largest share of the time that is sound."""

    share: Share = 0.2
    """The largest sound share of the steps' time that is spent on waiting for data."""


class GpuMemoryIncrease(Section):
    """The share of the memory by which its use may rise between the first and the last window."""

    increase: Share = 0.05
    """The share of the memory by which its use may rise."""
    window: PositiveInt = 20
    """Samples of the first and the last window."""


class BatchSize(Section):
    """Below all of these a larger batch would fit."""

    cpu_percent: Percent = 70.0
    """The 95th percentile of the CPU's use, below which it has room."""
    gpu_percent: Percent = 70.0
    """Likewise of the GPU's."""
    gpu_memory_percent: Percent = 70.0
    """Likewise of its memory's."""


class LowGpuUtilization(Section):
    """The least sound 95th percentile, and the largest sound spread from the 5th to it."""

    gpu_percent: Percent = 70.0
    """The least sound 95th percentile of the GPU's use."""
    spread: Percent = 40.0
    """The largest sound difference between that and the 5th."""


class LoadBalancing(Section):
    """The largest sound difference between GPUs."""

    difference: Percent = 20.0
    """The largest sound difference between two GPUs' use, in percent."""


class MaxInitializationTime(Section):
    """How long the preparation may take, as a share of the run; shorter than this many seconds it
    always may."""

    share: Share = 0.2
    """The largest sound share of the run before training begins."""
    seconds: Annotated[float, Field(ge=0)] = 60.0
    """What it may take in any case."""


class Outlier(Section):
    """How far from the mean a step is an outlier, and the largest sound share of those."""

    deviations: Annotated[float, Field(gt=0)] = 3.0
    """So many standard deviations above the mean a step is an outlier."""
    share: Share = 0.01
    """The largest sound share of those."""


class ProfilerRules(Section):
    """The thresholds of the profiler's rules."""

    min_samples: PositiveInt = 10
    """Samples of the machine, or steps, from which a rule judges."""
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
    """How much is measured: nothing, the machine and the steps, or also traces of operators."""
    interval_ms: Annotated[int, Field(ge=50, le=60_000)] = 500
    """Milliseconds between two samples of the machine."""
    trace_steps: list[Annotated[int, Field(ge=0)]] = Field(default_factory=lambda: [5, 6, 7])
    """With `level=full` the training steps to trace, counted from 0."""
    rules: ProfilerRules = Field(default_factory=ProfilerRules)
