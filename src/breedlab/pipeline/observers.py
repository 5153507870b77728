"""The callbacks that watch a training and change nothing in it: the debugger's hook, the
profiler."""

from __future__ import annotations

from pathlib import Path

import lightning

from breedlab import distributed
from breedlab.config import Config
from breedlab.debugging.recorder import Recorder, records


def observers(
    config: Config, run: Path, started_at: float | None = None
) -> list[lightning.Callback]:
    """Return what the config's `debugger` and `profiler` ask for, writing below the run directory.

    Args:
        config: The experiment.
        run: The run directory.
        started_at: When the run began by `time.monotonic`; when training begins by default.
    """
    watching: list[lightning.Callback] = []
    if records(config):
        # On every rank, although only rank 0 records: all have to agree on whether a rule ends the
        # training.
        watching.append(Recorder(config.debugger, run))
    if not distributed.is_main():
        return watching
    if config.profiler.level != "none":
        from breedlab.profiling.steps import StepTimes

        watching.append(StepTimes(run / "profile", started_at))
    if config.profiler.level == "full" and config.profiler.trace_steps:
        from breedlab.profiling.traces import Traces

        watching.append(Traces(run, config.profiler.trace_steps))
    return watching
