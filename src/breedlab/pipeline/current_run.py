"""The run that a process works on: locked against other processes, linked as the latest, and named
when the process is stopped."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

from breedlab.commands import command
from breedlab.config import Config
from breedlab.console import note
from breedlab.errors import RunInUse, remember_run
from breedlab.files import read_json_if_whole

_LOCK_WAIT_S = 10.0
"""The helpers of a killed process hold its lock until they notice, which takes five seconds."""


class CurrentRun:
    """The run directory that is being worked on, once there is one; left at the end of a `with`.

    Attributes:
        path: The run directory.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self._lock: TextIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and self.path is not None:
            remember_run(error, self.path)
        self.leave()

    def enter(self, config: Config, run: Path, *, only_if_newest: bool = False) -> None:
        """Lock a run directory, and link it as the latest.

        Args:
            config: The run's.
            run: The directory.
            only_if_newest: Leave the link at a run that was started later, as after fetching an old
                job.

        Raises:
            ConfigError: If another process works on it.
        """
        self.leave()
        self._take(run)
        self.path = run
        link = link_if_newest if only_if_newest else link_latest
        link(Path(config.runs_dir), run)

    def leave(self) -> None:
        """Give up the run directory, if there is one."""
        self.path = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def how_to_resume(self) -> str | None:
        """Return the command that resumes the run; None before there is one."""
        return command("launch", f"resume={self.path}") if self.path else None

    def _take(self, run: Path) -> None:
        """Lock a run's config.yaml until the run is left or this process ends, however it ends."""
        if fcntl is None:
            return
        # opened for writing, since NFS locks nothing else
        self._lock = (run / "config.yaml").open("r+")
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RunInUse(
                        f"resume: another process is working on {run}; wait until it has ended, or"
                        " stop it first"
                    ) from None
                time.sleep(0.2)
            except OSError:
                return  # a file system without locks


def link_if_newest(runs: Path, run: Path) -> None:
    """Point `<runs_dir>/latest` at a run, unless it points at one that was started later."""
    latest = runs / "latest"
    if not (latest / "config.yaml").is_file() or _start_of(latest) <= _start_of(run):
        link_latest(runs, run)


def _start_of(run: Path) -> float:
    """Return when a run was started, in seconds, by its lineage; without one, by its config."""
    lineage = read_json_if_whole(run / "lineage.json") or {}
    try:
        return datetime.fromisoformat(lineage["started"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return (run / "config.yaml").stat().st_mtime


def link_latest(runs: Path, run: Path) -> None:
    """Point `<runs_dir>/latest` at a run, atomically except on Windows. Where the file system has
    no links, print a note instead: a run does not need it."""
    runs.mkdir(parents=True, exist_ok=True)
    latest, scratch = runs / "latest", runs / f".latest.{os.getpid()}"
    scratch.unlink(missing_ok=True)
    try:
        scratch.symlink_to(os.path.relpath(run, runs), target_is_directory=True)
    except OSError as error:  # Windows without developer mode, exFAT, some network drives
        note(f"{latest} cannot link to the run here ({error.strerror}); name it: {run}")
        return
    try:
        scratch.replace(latest)
    except PermissionError:  # Windows replaces no link to a folder
        if not latest.is_symlink():
            raise
        latest.unlink()
        scratch.rename(latest)
