"""Rules about the whole run: its start, what it used on average, and steps that stand out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from breedlab.config.profiler import ProfilerRule
from breedlab.config.section import Share
from breedlab.registry import PROFILER_RULES
from breedlab.verdicts import Finding, NotEnough

if TYPE_CHECKING:
    from breedlab.profiling.reading import Figures, Recording


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
