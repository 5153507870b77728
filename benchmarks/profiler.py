"""What the profiler costs: a step of ResNet34 at 224 px with `profiler=system`, and without.

Both are real trainings by Lightning, every layer of it, that take turns step by step in one
process; while the one without has its turn, the monitor is halted. A busy neighbor still shifts
such pairs by more than the profiler takes, so its parts are also timed alone: the monitor's share
of one core, and what the clock's calls of a step come to.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from _harness import Ratio, machine, parse, report, step
from _turns import in_turns

_TARGET = 1.01


def main() -> None:
    args = parse(__doc__, rounds=5, small_rounds=2)
    here = machine()
    size, steps = (4, 4) if args.small else (16, 12)
    with tempfile.TemporaryDirectory() as folder, _counted() as calls:
        pairs = in_turns(Path(folder), ["profiler=system"], size, steps, args.rounds)
    actions, each = calls[0] / (steps * args.rounds), _clock()
    busy, seconds = _monitor()
    without = median(a for a, _ in pairs) / steps
    # as if all cores waited for the one that the monitor has
    parts = busy / seconds + actions * each / without
    excuse = "targets are for the full size" if args.small else ""
    ratios = [
        Ratio("step with / without, time", [b / a for a, b in pairs], _TARGET, "at most", excuse),
        Ratio(
            "1 + the monitor's share of one core + the clock's share of a step",
            [1 + parts],
            _TARGET,
            "at most",
            excuse,
        ),
    ]
    figures = {
        "batch size": size,
        "steps a round": steps,
        "without, ms a step": 1000 * without,
        "with, ms a step": 1000 * median(b for _, b in pairs) / steps,
        "the monitor, share of one core": busy / seconds,
        "the clock, calls a step": actions,
        "the clock, microseconds a step": 1e6 * actions * each,
    }
    report(args, "profiler", here, ratios, figures)


def _monitor(seconds: float = 10.0) -> tuple[float, float]:
    """CPU seconds that the monitor takes in so many seconds of a run that idles."""
    import psutil

    from breedlab.config import validate
    from breedlab.config.compose import load
    from breedlab.profiling.session import Session

    session = Session(validate(load(["experiment=quickstart", "profiler=system"])))
    with step("the monitor alone"):
        session.begin()
        assert session._process is not None
        watched = psutil.Process(session._process.pid)
        time.sleep(2)  # it has started
        before, began = watched.cpu_times(), time.monotonic()
        time.sleep(seconds)
        after, took = watched.cpu_times(), time.monotonic() - began
        session.end()
    return after.user + after.system - before.user - before.system, took


@contextlib.contextmanager
def _counted() -> Iterator[list[int]]:
    """How many actions of Lightning's the clock was told of, in the one number of the list."""
    from breedlab.profiling.steps import StepClock

    calls, begin = [0], StepClock.start

    def counted(self: StepClock, action: str) -> None:
        calls[0] += 1
        begin(self, action)

    StepClock.start = counted  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        StepClock.start = begin  # type: ignore[method-assign]


def _clock(turns: int = 50_000) -> float:
    """Seconds that the clock takes for one action."""
    from breedlab.profiling.steps import StepClock

    clock = StepClock()
    started = time.perf_counter()
    for _ in range(turns):
        clock.start("[Callback]StepTimes.on_train_batch_start")
        clock.stop("[Callback]StepTimes.on_train_batch_start")
    return (time.perf_counter() - started) / turns


if __name__ == "__main__":
    main()
