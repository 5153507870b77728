"""The same training with and without `profiler=system`, in turn: what the profiler costs.

ResNet34 at 224 px, nothing frozen, on photos, as `launch.py` trains it: the monitor's own process, the clock of each
step, their files. A busy neighbour shifts such pairs by far more than the profiler takes, so its parts are also timed
alone: the monitor's share of one core, and what the clock's calls of a step come to.
"""

from __future__ import annotations

import contextlib
import io
import resource
import tempfile
import time
from pathlib import Path
from statistics import median

from _harness import Ratio, interleave, machine, parse, report, step
from _photos import photos

_CLASSES, _TARGET = 8, 1.01


def main() -> None:
    args = parse(__doc__, rounds=5, small_rounds=2)
    here = machine()
    size, train = (8, 16) if args.small else (16, 192)
    root = photos(_CLASSES, train, _CLASSES)
    work: dict[str, list[float]] = {"none": [], "system": []}
    with tempfile.TemporaryDirectory() as folder:

        def run(profiler: str) -> None:
            before = _cpu_seconds()
            _train(root, Path(folder), size, profiler)
            work[profiler].append(_cpu_seconds() - before)

        pairs = interleave("training, without and with", lambda: run("none"), lambda: run("system"), args.rounds)
    busy, seconds = _monitor()
    actions, each = _clock(root, size)
    alone = busy / seconds / here["cores"] + actions * each / median(a for a, _ in pairs) * (train // size)
    excuse = "targets are for the full size" if args.small else ""
    cpu = [b / a for a, b in zip(work["none"][1:], work["system"][1:], strict=True)]
    ratios = [
        Ratio("with the profiler / without, time", [b / a for a, b in pairs], _TARGET, "at most", excuse),
        Ratio(
            "1 + the monitor's share of all cores + the clock's share of a step",
            [1 + alone],
            _TARGET,
            "at most",
            excuse,
        ),
        Ratio("with the profiler / without, CPU time of all its processes", cpu, _TARGET, "at most", excuse),
    ]
    figures = {
        "steps a training": train // size,
        "without, ms a step": 1000 * median(a for a, _ in pairs) / (train // size),
        "with, ms a step": 1000 * median(b for _, b in pairs) / (train // size),
        "the monitor, share of one core": busy / seconds,
        "the clock, calls a step": actions,
        "the clock, microseconds a step": 1e6 * actions * each,
    }
    report(args, "profiler", here, ratios, figures)


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended, the monitor among them."""
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in found)


def _train(root: Path, folder: Path, size: int, profiler: str) -> None:
    from breedlab.config import validate
    from breedlab.config.compose import load
    from breedlab.profiling.session import watched
    from breedlab.training.fit import fit
    from breedlab.training.prepare import prepare
    from breedlab.training.run import checked_photos

    words = [
        *("experiment=resnet34", "model.weights=none", "model.freeze=none", "debugger=none", "trainer.max_epochs=1"),
        *("data=image_folder", f"data.root={root}", f"data.batch_size={size}", "data.num_workers=1"),
        *(f"cache.dir={folder / 'cache'}", "cache.mode=off", f"profiler={profiler}"),
    ]
    config = validate(load(words))
    place = Path(tempfile.mkdtemp(dir=folder))
    with contextlib.redirect_stdout(io.StringIO()), watched(config) as watch:
        prepared = prepare(config, checked_photos(config))
        classifier = prepared.classifier(config)
        learner, _ = prepared.learner(classifier, config, 1)
        watch.write_to(place)
        watch.stage("Training")
        data = prepared.data(config)
        fit(learner, data, config, place, accelerator=prepared.accelerator, precision=prepared.precision)


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


def _clock(root: Path, size: int) -> tuple[float, float]:
    """How many actions of Lightning's a step consists of, and the seconds that the clock takes for one."""
    from breedlab.profiling.steps import StepClock

    calls, begin = 0, StepClock.start

    def counted(self: StepClock, action: str) -> None:
        nonlocal calls
        calls += 1
        begin(self, action)

    StepClock.start = counted  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            _train(root, Path(folder), size, "system")
    finally:
        StepClock.start = begin  # type: ignore[method-assign]
    steps = len(list((root / "train").rglob("*.jpg"))) // size
    clock, turns = StepClock(), 50_000
    started = time.perf_counter()
    for _ in range(turns):
        clock.start("[Callback]StepTimes.on_train_batch_start")
        clock.stop("[Callback]StepTimes.on_train_batch_start")
    return calls / steps, (time.perf_counter() - started) / turns


if __name__ == "__main__":
    main()
