"""The profiler of one run, from its first line to its verdicts. What goes wrong here warns once and
stops nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from breedlab.config import Config
from breedlab.console import note, warn


class Session:
    """Start and stop the system monitor, and apply the rules to the recording.

    Attributes:
        started_at: When the run began by `time.monotonic`, in seconds.
    """

    def __init__(self, config: Config) -> None:
        self.config = config.profiler
        self.run: Path | None = None
        self.started_at = time.monotonic()
        self._process: subprocess.Popen[str] | None = None
        self._failed = False

    def begin(self) -> None:
        if self.config.level != "none":
            self._safely(self._begin)

    def stage(self, name: str) -> None:
        """Label the samples from now on."""
        self._safely(lambda: self._tell("stage", name))

    def write_to(self, run: Path) -> None:
        """Set the run directory; a resumed run's recording continues."""
        if self.config.level == "none":
            return
        self.run = run

        def write() -> None:
            (run / "profile").mkdir(exist_ok=True)
            self._tell("write", str((run / "profile" / "system.jsonl").resolve()))

        self._safely(write)

    def finish(self) -> None:
        """End the recording, apply the rules, and print a one-line summary."""
        self.end()
        if self.run is not None:
            self._safely(self._judge)

    def end(self) -> None:
        """Stop the monitor; its files stay."""
        process, self._process = self._process, None
        if process is not None:
            self._safely(lambda: process.communicate(timeout=5))
            if process.poll() is None:
                process.kill()
                process.wait()

    def _begin(self) -> None:
        self.started_at = time.monotonic()
        # By path, so that nothing of the package is imported: it starts in a tenth of a second.
        script = str(Path(__file__).with_name("sampler.py"))
        words = [str(os.getpid()), str(self.config.interval_ms), str(self.started_at)]
        self._process = subprocess.Popen(
            [sys.executable, "-P", script, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def _tell(self, *command: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()

    def _judge(self) -> None:
        from breedlab.profiling.judging import headline, judge
        from breedlab.profiling.reading import read
        from breedlab.verdicts import write_verdicts

        assert self.run is not None
        recording = read(self.run)
        verdicts = judge(recording, self.config.rules)
        write_verdicts(self.run / "profile" / "verdicts.json", verdicts)
        note(headline(recording, verdicts))

    def _safely(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            if not self._failed:
                self._failed = True
                warn(
                    "the profiler stopped, and the run continues:"
                    f" {' '.join(str(error).split()) or repr(error)}"
                )


@contextmanager
def watched(config: Config) -> Iterator[Session]:
    """Profile a run; however it ends, the monitor ends with it."""
    session = Session(config)
    session.begin()
    try:
        yield session
    finally:
        session.end()
