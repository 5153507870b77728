"""Trials in processes next to the main one (`tuner.parallel`), each at the end of a pipe.

Only the main process proposes, prunes and records. A worker trains what it is sent, and ends when
the other end of its pipe is gone, even after `kill -9`.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing import get_context, parent_process, set_start_method
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from breedlab import hardware
from breedlab.commands import command
from breedlab.config import Config
from breedlab.data.check import Report
from breedlab.errors import TrainingError
from breedlab.tuning.trial import Outcome, run_trial

StopEarly = Callable[[int, int, float], bool]
"""Takes a trial's number, its epoch and its best objective so far; true prunes the trial."""


class Workers:
    """Processes that each run one trial at a time.

    Args:
        config: The experiment's.
        report: The checked images.
        run: The run directory, for the message.
        stop_early: Asked after each epoch of each trial.
    """

    def __init__(self, config: Config, report: Report, run: Path, stop_early: StopEarly) -> None:
        self._run, self._stop_early = run, stop_early
        self._idle: list[tuple[SpawnProcess, Connection]] = []
        self._busy: dict[Connection, tuple[SpawnProcess, int]] = {}
        spawn = get_context("spawn")
        for _ in range(config.tuner.parallel):
            ours, theirs = spawn.Pipe()
            # Not daemons: those may not have the helper processes that decode images.
            process = spawn.Process(target=_work, args=(config.model_dump(), report, run, theirs))
            process.start()
            theirs.close()  # so that the pipe breaks when the worker ends
            self._idle.append((process, ours))

    def start(self, number: int, values: Mapping[str, Any]) -> None:
        """Send a trial to an idle worker."""
        process, pipe = self._idle.pop(0)
        self._busy[pipe] = process, number
        try:
            pipe.send((number, dict(values)))
        except OSError:
            raise self._lost(process, number) from None

    def ended(self) -> dict[int, Outcome]:
        """Return the trials that ended, waiting until one does.

        Raises:
            TrainingError: If a worker was killed.
            Exception: What a worker raised that would fail every trial alike.
        """
        outcomes: dict[int, Outcome] = {}
        while not outcomes:
            for pipe in wait(list(self._busy)):
                assert isinstance(pipe, Connection)
                process, number = self._busy[pipe]
                try:
                    message = pipe.recv()
                    if isinstance(message, tuple):
                        pipe.send(self._stop_early(number, *message))
                except (EOFError, OSError):
                    raise self._lost(process, number) from None
                if isinstance(message, Exception):
                    raise message
                if isinstance(message, Outcome):
                    outcomes[number] = message
                    del self._busy[pipe]
                    self._idle.append((process, pipe))
        return outcomes

    def close(self) -> None:
        """End all workers now; their trials start over when the search resumes."""
        running = [*self._idle, *((process, pipe) for pipe, (process, _) in self._busy.items())]
        for process, pipe in running:
            pipe.close()
            process.terminate()
        for process, _ in running:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()

    def _lost(self, process: SpawnProcess, number: int) -> TrainingError:
        process.join(5)
        code = process.exitcode
        how = (
            f"was killed by {signal.Signals(-code).name}"
            if code is not None and code < 0
            else "ended"
        )
        likely = ", probably because it ran out of memory" if code == -9 else ""
        return TrainingError(
            f"tuner.parallel: a worker process {how} during trial {number}{likely}; what was done"
            f" is saved, resume with: {command('launch', f'resume={self._run}')} (tuner.parallel=1"
            " takes the least memory)"
        )


def _work(tree: dict[str, Any], report: Report, run: Path, pipe: Connection) -> None:
    """Run trials until the main process has no more of them, or is no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the main process responds to Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if sys.platform.startswith("linux"):
        # As in the main process. By default, what a spawned process starts is spawned, too, and
        # each process that loads images would import torch for every trial.
        set_start_method("fork", force=True)
    try:
        import torch

        from breedlab.config.validate import revive
        from breedlab.training.preparation import prepare

        config = revive(tree)
        torch.set_num_threads(max(1, hardware.available() // config.tuner.parallel))
        context = prepare(config, report)
        context.engines.resume(run)
        gc.freeze()  # as in `quickly_collected`; this process does nothing but trials

        def stop_early(epoch: int, value: float) -> bool:
            pipe.send((epoch, value))
            return bool(pipe.recv())

        while True:
            _, values = pipe.recv()
            pipe.send(run_trial(context, values, stop_early))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:
        pipe.send(error)


def _end_with_parent() -> None:
    """End this process with its parent, in the middle of a step: a trial may be long, and no one
    waits for it."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
