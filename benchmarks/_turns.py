"""Two trainings that take turns step by step, so that a neighbor's load slows both alike."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

from _harness import say, wait
from _images import drawn_images

CLASSES = 133
_BEFORE, _AFTER = 1, 4
"""Steps that do not count: the first allocates, and the last few are not in turn."""


def in_turns(
    folder: Path, more: list[str], size: int, steps: int, rounds: int
) -> list[tuple[float, float]]:
    """Seconds of each round of `steps` steps without and with what `more` asks for, a profiler
    among it.

    ResNet34 at 224 px, nothing frozen, trained by Lightning, every layer of it, in one process,
    with no debugger and no profiler but those of `more`. Its profiler's monitor is halted while the
    other has its turn.
    """
    import lightning
    import torch
    from torch.utils.data import DataLoader

    from breedlab.config import validate
    from breedlab.config.compose import load
    from breedlab.pipeline.checked_images import checked_images
    from breedlab.profiling.session import watched
    from breedlab.training.fit import fit
    from breedlab.training.preparation import prepare

    root = drawn_images(CLASSES, CLASSES, CLASSES)
    batch = (
        torch.randint(0, 256, (size, 3, 224, 224), dtype=torch.uint8),
        torch.randint(0, CLASSES, (size,)),
    )
    shared = [
        "experiment=resnet34",
        "model.weights=none",
        "model.freeze=none",
        "data=image_folder",
        f"data.root={root}",
    ]
    shared += [f"data.batch_size={size}", f"cache.dir={folder}/cache", "trainer.max_epochs=1"]
    total = _BEFORE + steps * rounds + _AFTER
    configs = [
        validate(load([*shared, "debugger=none", "profiler=none", *added])) for added in ([], more)
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
                return _Batches(self.who, turns, batch, total)

            def val_dataloader(self) -> Any:
                return DataLoader([batch], batch_size=None)  # type: ignore[arg-type]

        learners = []
        for config in configs:
            context = prepare(config, checked_images(config))
            learner, _ = context.learner(context.classifier(config), config, epochs=1)
            learners.append((learner, context))
        watch.write_to(_made(folder / "1"))
        failures: list[BaseException] = []

        def train(who: int) -> None:
            learner, context = learners[who]
            try:
                run = _made(folder / str(who))
                given = {"accelerator": context.accelerator, "precision": context.precision}
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
    without, with_more = (taken[1:] for taken in turns.taken)
    parts = [slice(number * steps, (number + 1) * steps) for number in range(rounds)]
    return [(sum(without[part]), sum(with_more[part])) for part in parts]


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


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder
