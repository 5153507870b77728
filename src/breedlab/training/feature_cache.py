"""The files of the feature cache: written so that a full disk is an error, and recognized as ours
before they are deleted.

`<name>.npy` holds one view of one split, where `<name>` is a hash of everything it depends on.
`<name>.json`, written first, says what that is and how many bytes it makes; a file without it may
be anyone's, and is never deleted. A pass that is not finished has `<name>.part`, and in
`<name>.done` how many images of it are safely on the disk. `<name>.rows` is of `feature_rows`.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from breedlab.console import note
from breedlab.errors import DiskFull
from breedlab.files import atomic_write_json, atomic_write_text, read_json_if_whole, sync_folder

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_MADE_BY = "breedlab feature cache"
_NAME = re.compile(r"[0-9a-f]{24}")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SAVE_EVERY_S = 10.0
_ABANDONED_AFTER_S = 86_400
"""A pass that no one has resumed for this long is removed to make room like any other file."""


@dataclass(frozen=True)
class FeatureFile:
    """One view of one split: the features of its images, in their order.

    Attributes:
        folder: The cache's.
        key: All that the numbers depend on, as plain data.
        shape: (images, ...).
        dtype: numpy's name of the numbers' type.
    """

    folder: Path
    key: Mapping[str, Any]
    shape: tuple[int, ...]
    dtype: str

    @cached_property
    def name(self) -> str:
        return hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()[:24]

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.npy"

    @property
    def part(self) -> Path:
        return self.path.with_suffix(".part")

    @property
    def marker(self) -> Path:
        return self.path.with_suffix(".done")

    @property
    def manifest(self) -> Path:
        return self.path.with_suffix(".json")

    @cached_property
    def header(self) -> bytes:
        buffer = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(np.dtype(self.dtype))
        np.lib.format.write_array_header_1_0(
            buffer, {"descr": descr, "fortran_order": False, "shape": self.shape}
        )
        return buffer.getvalue()

    @property
    def row_bytes(self) -> int:
        return prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def nbytes(self) -> int:
        return len(self.header) + self.shape[0] * self.row_bytes

    def is_whole(self) -> bool:
        """Return whether the file is complete on disk."""
        try:
            return self.path.stat().st_size == self.nbytes
        except FileNotFoundError:
            return False

    def rows_done(self) -> int:
        """Return how many images of an unfinished pass are safely on disk."""
        try:
            rows = int(self.marker.read_text("utf-8"))
            size = self.part.stat().st_size
        except (OSError, ValueError):
            return 0
        return (
            rows
            if 0 < rows <= self.shape[0] and size >= len(self.header) + rows * self.row_bytes
            else 0
        )

    def missing_bytes(self) -> int:
        if self.is_whole():
            return 0
        rows = self.rows_done()
        return self.nbytes - (len(self.header) + rows * self.row_bytes if rows else 0)

    def write_manifest(self) -> None:
        """Record that the file is ours, and what it holds."""
        atomic_write_json(
            self.manifest, {"made_by": _MADE_BY, "bytes": self.nbytes, "key": self.key}, indent=1
        )


class FeatureWriter:
    """Write a file from its first missing image on.

    It uses ordinary writes, since a memory-mapped file on a full disk ends the process with SIGBUS.

    Raises:
        DiskFull: If the disk, or the user's quota of it, is full; what was written before is kept.
    """

    def __init__(self, file: FeatureFile) -> None:
        self._file = file
        self._saved_at = time.monotonic()
        self.rows = file.rows_done()
        self._number = os.open(file.part, os.O_RDWR | os.O_CREAT, 0o666)
        os.ftruncate(
            self._number, len(file.header) + self.rows * file.row_bytes if self.rows else 0
        )
        os.lseek(self._number, 0, os.SEEK_END)
        if not self.rows:
            self._write(file.header)

    def append(self, rows: np.ndarray[Any, Any]) -> None:
        assert rows.shape[1:] == self._file.shape[1:] and rows.dtype == self._file.dtype
        self._write(np.ascontiguousarray(rows).data.cast("B"))
        self.rows += len(rows)
        if time.monotonic() - self._saved_at > _SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Flush what was written so far to the disk, for another start to resume from."""
        self._saved_at = time.monotonic()
        with _told_if_full(self._file.folder):
            os.fsync(self._number)
            if self.rows:
                atomic_write_text(self._file.marker, str(self.rows))

    def finish(self) -> None:
        """Give the file, which is whole now, its name."""
        assert self.rows == self._file.shape[0]
        with _told_if_full(self._file.folder):
            os.fsync(self._number)
        self._file.marker.unlink(
            missing_ok=True
        )  # first: it must never be taken for a later file's
        self._file.part.replace(self._file.path)
        sync_folder(self._file.folder)

    def close(self) -> None:
        os.close(self._number)

    def _write(self, content: bytes | memoryview) -> None:
        remaining = memoryview(content)
        with _told_if_full(self._file.folder):
            while remaining:
                remaining = remaining[os.write(self._number, remaining) :]


@contextmanager
def writing(file: FeatureFile) -> Iterator[FeatureWriter]:
    """Give a writer of a file's missing rows; the file gets its name at the end, and a part of it
    is kept otherwise."""
    writer = FeatureWriter(file)
    try:
        yield writer
        writer.finish()
    except BaseException:
        with suppress(DiskFull):
            writer.save()
        raise
    finally:
        writer.close()


@contextmanager
def alone(files: Sequence[FeatureFile]) -> Iterator[None]:
    """Let one process at a time write each file; the others wait, and then find it."""
    with ExitStack() as stack:
        # in the same order everywhere, or two processes wait for each other
        for file in sorted(files, key=lambda file: file.name):
            stack.enter_context(_alone(file))
        yield


@contextmanager
def _alone(file: FeatureFile) -> Iterator[None]:
    with _told_if_full(file.folder):
        file.folder.mkdir(parents=True, exist_ok=True)
        if not file.manifest.exists():
            file.write_manifest()
        part = file.part.open("ab")  # which, renamed, keeps its lock
    with part:
        if fcntl is not None:
            try:
                fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                note("another process is computing the same activations; waiting for them")
                fcntl.flock(part, fcntl.LOCK_EX)
            except OSError:
                pass  # a file system without locks
        try:
            yield
        finally:
            if file.is_whole():
                file.part.unlink(missing_ok=True)  # made by opening it


def make_room(files: Sequence[FeatureFile], max_gb: float, free: Callable[[], int]) -> None:
    """Delete what was least recently used until all files of a set fit, together with what is there
    of them.

    Args:
        files: Of one set; none of them is deleted for another.
        max_gb: What the cache may take.
        free: Returns how many bytes the disk has left.

    Raises:
        DiskFull: If the disk has no room for what is missing.
    """
    folder = files[0].folder
    _note_unknown(folder)
    missing = sum(file.missing_bytes() for file in files)
    others = _deletable(folder, {file.name for file in files})
    used_bytes = sum(file.nbytes for file in files) + sum(other.size for other in others)
    while others and (used_bytes > max_gb * 1e9 or free() < missing):
        oldest = others.pop(0)
        used_bytes -= oldest.size
        oldest.delete()
    if free() < missing:
        raise _full(folder, sum(file.nbytes for file in files), missing)


def _note_unknown(folder: Path) -> None:
    """Report what look like files of versions that wrote no manifest: nothing shows that they are
    ours to delete."""
    names = [path for path in folder.glob("*.npy") if _NAME.fullmatch(path.stem)]
    unknown = [path for path in names if not path.with_suffix(".json").exists()]
    if unknown:
        size = sum(path.stat().st_size for path in unknown)
        note(
            f"{folder} holds {len(unknown)} .npy files ({_size(size)}) that an older breedlab may"
            " have cached; they are no longer used, and not deleted either, since they could be"
            " yours"
        )


@dataclass(frozen=True)
class _Deletable:
    """A file that this cache made, whole or abandoned."""

    path: Path
    size: int
    used: float

    def delete(self) -> None:
        # the manifest last, since it marks the rest as ours
        for ending in (self.path.suffix, ".done", ".rows", ".json"):
            self.path.with_suffix(ending).unlink(missing_ok=True)


def _deletable(folder: Path, needed: set[str]) -> list[_Deletable]:
    """Return what may be deleted, the least recently used first."""
    files = []
    for manifest in folder.glob("*.json"):
        name = manifest.stem
        if name in needed or not _NAME.fullmatch(name):
            continue
        tree = read_json_if_whole(manifest)
        if tree is None or tree.get("made_by") != _MADE_BY:
            continue
        for ending in (".npy", ".part"):
            path = manifest.with_suffix(ending)
            try:
                status = path.stat()
            except OSError:
                continue
            whole = status.st_size == tree.get("bytes")
            if (
                whole
                if ending == ".npy"
                else time.time() - status.st_mtime > _ABANDONED_AFTER_S and not _locked(path)
            ):
                files.append(_Deletable(path, status.st_size, status.st_mtime))
    return sorted(files, key=lambda each: each.used)


def _locked(part: Path) -> bool:
    """Return whether a process is working on it; one paused for long still counts."""
    if fcntl is None:
        return False
    with part.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


@contextmanager
def _told_if_full(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        quota = ", or your quota of it," if error.errno == errno.EDQUOT else ""
        raise _full(folder, quota=quota) from error


def _full(folder: Path, needed: int = 0, missing: int = 0, quota: str = "") -> DiskFull:
    mount = Path(os.path.realpath(folder))
    while not mount.exists() or not os.path.ismount(mount):
        mount = mount.parent
    usage = shutil.disk_usage(mount)
    state = "has no room for" if missing else "became full while writing"
    sizes = f" ({_size(needed)}, {_size(missing)} of it not cached yet)" if missing else ""
    return DiskFull(
        f"cache.dir: the disk{quota} of {folder} {state} the frozen part's activations{sizes};"
        f" {_size(usage.free)} of {_size(usage.total)} are free on {mount}. Free some space there,"
        " set cache.dir to a folder on another disk, or have them computed live: cache.mode=off,"
        " or cache.max_gb below what they take"
    )


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
