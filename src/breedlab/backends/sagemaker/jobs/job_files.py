"""What a job keeps: its run directory is on a disk of its own, and whole files of it in the
folder that is kept.

SageMaker uploads what it sees in `/opt/ml/checkpoints` whenever it looks, half-written files as
well, and many small rewrites make it fall behind. So a job works elsewhere; every few seconds, and
at its end, what changed goes there.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not on Windows, from where jobs are only sent
    fcntl = None  # type: ignore[assignment]

EVERY_S = 10.0
"""Seconds between two copies."""

_STUDY = "study.db"
"""Optuna's SQLite file, which is never copied while it may be written: a snapshot is taken of
it."""

_UNFINISHED = (".tmp", ".part", "-journal", "-wal", "-shm")

_CHUNK = 1 << 20

FileFilter = Callable[[str], bool]
"""Whether a file is kept, by its name in the run directory."""

_Stamp = tuple[int, int, int]


def trial_file(name: str, number: int) -> str | None:
    """Return where a file of a trial's own run directory is in that of the whole experiment; None
    if nowhere."""
    if match := re.match(r"tensorboard/(?:final/)?(.+)", name):
        return f"tensorboard/trial_{number:03}/{match[1]}"
    # debug/N of the run itself are the final training's registrations, in order.
    return f"trials/{number}/{name}" if name.startswith("debug/") else None


def is_of_a_trial(name: str) -> bool:
    """Return whether a trial's file is part of its experiment's run directory."""
    return trial_file(name, 0) is not None


def everything(_: str) -> bool:
    """Return that a file is kept."""
    return True


@contextmanager
def kept_in_step(
    run: Path, destination: Path, is_needed: FileFilter = everything
) -> Iterator[None]:
    """Copy what changes in a run directory while the block runs, and once more when it ends,
    however it does.

    Args:
        run: The run directory.
        destination: The folder that outlives the job.
        is_needed: Which files are kept.
    """
    copier = Copier(run, destination, is_needed)
    enough = threading.Event()

    def copy() -> None:
        while not enough.wait(EVERY_S):
            with suppress(OSError):  # the last copy reports a full disk
                copier.copy()

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()
        copier.copy()


def restore(copy: Path, run: Path) -> None:
    """Bring a run directory back from the folder that outlived the job's last start, once a
    machine."""
    run.parent.mkdir(parents=True, exist_ok=True)
    # several processes of a machine may come
    with run.with_name(f".{run.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if run.exists() or not copy.is_dir():
            return
        scratch = run.with_name(f".{run.name}.restored")
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(copy, scratch, ignore=shutil.ignore_patterns(".*"))
        scratch.rename(run)


class Copier:
    """A copier of what changed since its last copy.

    Args:
        run: The run directory.
        copy: Where to.
        is_needed: Which files.
    """

    def __init__(self, run: Path, copy: Path, is_needed: FileFilter = everything) -> None:
        self._run, self._target, self._is_needed = run, copy, is_needed
        self._copied: dict[str, _Stamp] = {}

    def copy(self) -> None:
        """Copy what changed, in the order in which it changed, and delete what is gone.

        Whenever this is interrupted, the copy is what the run directory was at some moment, as
        after a kill. The study comes first: it may be older than the trials next to it, never
        newer.
        """
        if self._is_needed(_STUDY):
            self._copy_study()
        changed = []
        names = {_STUDY}
        for name in _finished_files(self._run):
            if not self._is_needed(name) or (stamp := _stamp(self._run / name)) is None:
                continue
            names.add(name)
            if self._copied.get(name) != stamp:
                changed.append((stamp, name))
        for stamp, name in sorted(changed):
            with suppress(FileNotFoundError):  # another has just taken its place
                put_whole(self._run / name, self._target / name)
                self._copied[name] = stamp
        for name in sorted(self._copied.keys() - names):
            (self._target / name).unlink(missing_ok=True)
            del self._copied[name]

    def _copy_study(self) -> None:
        source = self._run / _STUDY
        stamp = _stamp(source)
        if stamp is None or self._copied.get(_STUDY) == stamp:
            return
        with tempfile.TemporaryDirectory() as scratch:
            snapshot = Path(scratch, _STUDY)
            try:
                with (
                    closing(sqlite3.connect(source)) as live,
                    closing(sqlite3.connect(snapshot)) as still,
                ):
                    live.backup(still)
            except sqlite3.Error:  # being written, or damaged: what is kept of it stays
                return
            put_whole(snapshot, self._target / _STUDY)
        self._copied[_STUDY] = stamp


def put_whole(source: Path, target: Path) -> None:
    """Copy a file so that anyone who looks at the target's folder sees the old one or the whole new
    one.

    Where the file system allows it, the copy has no name until it is complete.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    scratch.unlink(missing_ok=True)
    try:
        with source.open("rb") as old:
            _write_nameless(old, scratch)
            if not scratch.exists():  # not on Linux, or not on this file system
                old.seek(0)
                with scratch.open("xb") as new:
                    shutil.copyfileobj(old, new, _CHUNK)
        scratch.replace(target)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def _write_nameless(old: BinaryIO, path: Path) -> None:
    """Copy to a file that gets its name when it is complete; leave none where that is not
    possible."""
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o644)
    except (AttributeError, OSError):
        return
    with os.fdopen(descriptor, "w+b") as new:
        shutil.copyfileobj(old, new, _CHUNK)
        new.flush()
        with suppress(OSError):
            # Only with a folder's descriptor does Python follow the link, which names the file
            # itself.
            os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor)


def _finished_files(run: Path) -> Iterator[str]:
    """Yield the names of a run directory's files, without those that are being written."""
    for folder, folders, files in os.walk(run):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in files:
            if file != _STUDY and not file.startswith(".") and not file.endswith(_UNFINISHED):
                yield Path(folder, file).relative_to(run).as_posix()


def _stamp(path: Path) -> _Stamp | None:
    """Return when a file changed, with its inode and size for changes within the clock's
    resolution; None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
