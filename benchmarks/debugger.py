"""What the debugger costs: a step of ResNet34 at 224 px with `debugger=default` and `profiler=system`, and without.

Both are real trainings by Lightning, every layer of it, that take turns step by step in one process; while the one
without has its turn, the profiler's monitor is halted. A round is as many steps as lie between two savings of tensors,
so it holds one of those. Then the reading: 1,000 steps of losses and 20 of tensors, read and judged as at a run's end.
Then the report of a run with that recording, 133 classes and 20 trials, by `scripts/report.py` as a whole process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from _harness import ROOT, Ratio, machine, parse, report, say, wait
from _photos import photos

_CLASSES, _EVERY, _COST, _READING_S, _REPORT_S, _REPORT_MB = 133, 50, 1.03, 10.0, 5.0, 3.0


def main() -> None:
    args = parse(__doc__, rounds=1, small_rounds=1)
    here = machine()
    size, every = (4, 10) if args.small else (16, _EVERY)
    with tempfile.TemporaryDirectory() as folder:
        pairs = _trainings(Path(folder), size, every, args.rounds)
        reading, tensors = _reading(Path(folder), *((100, 5) if args.small else (1000, 50)))
        writing, megabytes = _report(Path(folder), 100 if args.small else 1000)
    figures = {
        "batch size": size,
        "steps a round": every,
        "without, ms a step": 1000 * median(without for without, _ in pairs) / every,
        "with, ms a step": 1000 * median(both for _, both in pairs) / every,
        "read and judged, s": reading,
        "tensors": tensors,
        "report without photos, MB": megabytes,
    }
    excuse = "targets are for the full size" if args.small else ""
    ratios = [
        Ratio("step with / without, time", [b / a for a, b in pairs], _COST, "at most", excuse),
        Ratio("read and judged, s", [reading], _READING_S, "at most", excuse),
        Ratio("report written, s", writing, _REPORT_S, "at most", excuse),
        Ratio("report without photos, MB", [megabytes], _REPORT_MB, "at most", excuse),
    ]
    report(args, "debugger", here, ratios, figures)


class _Turns:
    """Two threads that run one after the other, a step each; notes how long each step took."""

    def __init__(self, on_turn: Callable[[int], None]) -> None:
        self.on_turn = on_turn
        self.taken: tuple[list[float], list[float]] = ([], [])
        self._free = threading.Condition()
        self._whose: int | None = 0
        self._began = [0.0, 0.0]

    def next(self, who: int) -> None:
        """Ends a step and waits for the next turn."""
        with self._free:
            if self._began[who]:
                wait()
                self.taken[who].append(perf_counter() - self._began[who])
                self._whose = 1 - who
                self._free.notify_all()
            self._free.wait_for(lambda: self._whose in (who, None))
            self.on_turn(who)
            self._began[who] = perf_counter()

    def leave(self) -> None:
        """From now on nobody waits."""
        with self._free:
            self._whose = None
            self._free.notify_all()


class _Batches:
    """The same batch again and again, each at its turn."""

    def __init__(self, who: int, turns: _Turns, batch: Any, steps: int) -> None:
        self.who, self.turns, self.batch, self.steps = who, turns, batch, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        for number in range(self.steps):
            self.turns.next(self.who)
            if self.who and number % 10 == 0:
                say(f"step {number} of {self.steps}")
            if number == self.steps - 1:  # nobody asks after the last
                self.turns.leave()
            yield self.batch


def _trainings(folder: Path, size: int, every: int, rounds: int) -> list[tuple[float, float]]:
    """Seconds of a round without and with."""
    import lightning
    import torch
    from torch.utils.data import DataLoader

    from breedlab.config import validate
    from breedlab.config.compose import load
    from breedlab.profiling.session import watched
    from breedlab.training.fit import fit
    from breedlab.training.prepare import prepare
    from breedlab.training.run import checked_photos

    root = photos(_CLASSES, _CLASSES, _CLASSES)
    batch = (torch.randint(0, 256, (size, 3, 224, 224), dtype=torch.uint8), torch.randint(0, _CLASSES, (size,)))
    words = ["experiment=resnet34", "model.weights=none", "model.freeze=none", "data=image_folder", f"data.root={root}"]
    words += [f"data.batch_size={size}", f"cache.dir={folder}/cache", "trainer.max_epochs=1", f"debugger.every={every}"]
    # The first allocates and is one that saves tensors, and so is the last of each round; the last few are not in turn.
    steps = 5 + every * rounds
    configs = [
        validate(load([*words, "debugger=none", "profiler=none"])),
        validate(load([*words, "debugger=default", "profiler=system"])),
    ]
    with watched(configs[1]) as watch:
        monitor = watch._process
        assert monitor is not None
        turns = _Turns(lambda who: os.kill(monitor.pid, signal.SIGCONT if who else signal.SIGSTOP))

        class Data(lightning.LightningDataModule):
            def __init__(self, who: int) -> None:
                super().__init__()
                self.who = who

            def train_dataloader(self) -> Any:
                return _Batches(self.who, turns, batch, steps)

            def val_dataloader(self) -> Any:
                return DataLoader([batch], batch_size=None)  # type: ignore[arg-type]

        learners = []
        for config in configs:
            prepared = prepare(config, checked_photos(config))
            learner, _ = prepared.learner(prepared.classifier(config), config, epochs=1)
            learners.append((learner, prepared))
        watch.write_to(_made(folder / "1"))
        failures: list[BaseException] = []

        def train(who: int) -> None:
            learner, prepared = learners[who]
            try:
                run = _made(folder / str(who))
                given = {"accelerator": prepared.accelerator, "precision": prepared.precision}
                fit(learner, Data(who), configs[who], run, **given)
            except BaseException as error:
                failures.append(error)
                turns.leave()

        threads = [threading.Thread(target=train, args=(who,)) for who in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os.kill(monitor.pid, signal.SIGCONT)
    if failures:
        raise failures[0]
    # Lightning asks for a batch ahead, so the first two times are no steps.
    found = [taken[1:] for taken in turns.taken]
    return [
        (sum(found[0][n * every : (n + 1) * every]), sum(found[1][n * every : (n + 1) * every])) for n in range(rounds)
    ]


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def _reading(folder: Path, steps: int, every: int) -> tuple[float, int]:
    """Seconds to read and judge a recording of ResNet34, and how many tensors it has."""
    import torch
    from torch import nn
    from torchvision.models import resnet34

    from breedlab.config import validate
    from breedlab.config.compose import load
    from breedlab.debugging.collections import hook_from_config
    from breedlab.debugging.judging import judge_run

    config = validate(load(["experiment=resnet34", f"debugger.every={every}"])).debugger
    run, network, loss = folder / "recorded", resnet34(num_classes=_CLASSES), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    hook = hook_from_config(config, run / "debug" / "0", network, outputs=True)
    hook.start_at(0, 0)
    hook.register(network, network, loss)
    images, labels = torch.randn(4, 3, 32, 32), torch.randint(0, _CLASSES, (4,))

    from smdebug import modes

    for step in range(steps):
        if step % 100 == 0:
            say(f"recording: step {step} of {steps}")
            hook.set_mode(modes.EVAL)
            with torch.no_grad():
                loss(network(images), labels)
            hook.set_mode(modes.TRAIN)
        optimizer.zero_grad()
        loss(network(images), labels).backward()
        optimizer.step()
        hook.step_is_over()
    hook.end()
    started = perf_counter()
    tape, verdicts = judge_run(run)
    assert len(tape.losses("TRAIN")) == steps and len(verdicts) == 15
    return perf_counter() - started, len(tape.trial.tensor_names())


def _report(folder: Path, steps: int) -> tuple[list[float], float]:
    """Seconds to write the report of a run with the recording that was read, three times, and its megabytes."""
    sys.path.append(str(ROOT / "tests" / "reporting"))
    from made_runs import write_run  # type: ignore[import-not-found]  # the tests'

    from breedlab.debugging.judging import conclude

    classes = [f"{kind} dog of color {color}" for color in range(7) for kind in range(19)]
    run = write_run(folder / "made", classes=classes, trials=20, steps=steps)
    (folder / "recorded" / "debug").rename(run / "debug")
    conclude(run)  # as a run does when it ends
    taken = []
    for number in range(3):
        started = perf_counter()
        command = [sys.executable, str(ROOT / "scripts" / "report.py"), str(run)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken.append(perf_counter() - started)
        say(f"the report, {number + 1} of 3: {taken[-1]:.2f} s")
    return taken, (run / "report.html").stat().st_size / 1e6


if __name__ == "__main__":
    main()
