"""Rules about what training waits for: the CPU, disks, and batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from breedlab.config.profiler import ProfilerRule
from breedlab.config.section import Percent, Share
from breedlab.registry import PROFILER_RULES
from breedlab.verdicts import Finding

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


def _slowest(recording: Recording, values: Figures, most: int = 10) -> list[int]:
    return sorted(int(recording.steps.step[index]) for index in (-values).argsort()[:most])
