"""Files that are whole or not there: atomic writes, and readers that say which file is damaged."""

from __future__ import annotations

import errno
import itertools
import json
import os
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from breedlab.errors import BreedlabError

_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)
"""What file systems without fsync answer; a full or broken disk answers something else, which is
raised."""

_numbers = itertools.count()


class DamagedFile(BreedlabError):
    """A file that was to be read is empty, cut off or holds something else."""

    code = "BL112"

    exit_code = 1


@contextmanager
def atomic_open(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the place of `path` when the block ends without an error.

    A process that reads `path` sees the old content or the new one, after a kill, a full disk and a
    power cut as well. What a kill leaves is named `.<name>.<process>.tmp`; see `remove_leftovers`.
    A link is followed, permissions are kept, and what is no regular file (`/dev/stdout`) is written
    in place.

    Args:
        path: The file; its folder has to exist.

    Raises:
        OSError: If it cannot be written; `path` is then what it was before.
    """
    target = Path(os.path.realpath(path))
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and not stat.S_ISREG(mode):
        with target.open("wb") as file:
            yield file
        return
    scratch = target.with_name(f".{target.name}.{os.getpid()}-{next(_numbers)}.tmp")
    try:
        with scratch.open("xb") as file:
            yield file
            file.flush()
            _sync(file.fileno())
        if mode is not None:
            scratch.chmod(stat.S_IMODE(mode))
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
    sync_folder(target.parent)


def atomic_write_bytes(path: str | Path, content: bytes) -> None:
    """Write a whole file, or leave the old one as it was; see `atomic_open`."""
    with atomic_open(path) as file:
        file.write(content)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write a whole UTF-8 file, or leave the old one as it was; see `atomic_open`."""
    # Names of files that are no UTF-8 come out of `os.fsdecode` as lone surrogates, and go back as
    # the bytes they were.
    atomic_write_bytes(path, text.encode("utf-8", "surrogateescape"))


def atomic_write_json(path: str | Path, tree: Any, indent: int | None = None) -> None:
    """Write a tree as a whole JSON file, or leave the old one as it was; see `atomic_open`."""
    atomic_write_text(path, json.dumps(tree, indent=indent))


def read_json(path: str | Path, kind: type = dict, hint: str = "") -> Any:
    """Return what a JSON file holds.

    Args:
        path: The file.
        kind: The type that its outermost value must have.
        hint: What to do when it is damaged, for the message.

    Raises:
        DamagedFile: If it is not JSON of that type: empty, cut off, or something else.
        OSError: If it cannot be read; a FileNotFoundError where there is none.
    """
    with Path(path).open("rb") as file:
        content = file.read()
    try:
        tree = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, or no UTF-8
        raise damaged(path, "it is empty" if not content.strip() else str(error), hint) from error
    if not isinstance(tree, kind):
        raise damaged(
            path, f"it holds {_NAMES.get(type(tree), 'a value')} instead of {_NAMES[kind]}", hint
        )
    return tree


def read_json_if_whole(path: str | Path, kind: type = dict, needs: Collection[str] = ()) -> Any:
    """Return what a JSON file holds, or None where there is none or a damaged one, for files that
    can be written again.

    Args:
        path: The file.
        kind: The type that its outermost value must have.
        needs: Names that an object must have; one that lacks some is damaged.
    """
    try:
        tree = read_json(path, kind)
    except (DamagedFile, FileNotFoundError, NotADirectoryError):
        return None
    return tree if all(name in tree for name in needs) else None


_NAMES = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number"}


def damaged(path: str | Path, reason: str, hint: str = "") -> DamagedFile:
    """Return the error for a file that cannot be used, in one line."""
    reason = " ".join(reason.split())[:120]
    then = f"; {hint}" if hint else ""
    return DamagedFile(f"{path} is damaged ({reason}){then}")


def why_no_folder(path: Path) -> str:
    """Return what is in the place of a folder: `is a file` or `does not exist`."""
    if not path.exists():
        return "does not exist"
    packed = path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
    return "is a file (unpack it first, and name the folder)" if packed else "is a file"


def remove_leftovers(folder: Path, older_than_s: float = 0) -> None:
    """Remove what killed writers left in a folder and the folders below it.

    Args:
        folder: Nothing happens where it does not exist.
        older_than_s: Where other processes may be writing: the age from which no one can be any
            more.
    """
    for scratch in folder.rglob(".*.tmp"):
        try:
            if time.time() - scratch.stat().st_mtime >= older_than_s:
                scratch.unlink()
        except OSError:  # gone meanwhile, or a folder, or not ours to remove: it does no harm
            continue


def sync_folder(folder: Path) -> None:
    """Have a folder's names on the disk: without this a power cut may undo a rename."""
    try:
        number = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except OSError:  # Windows opens no folders, and some are not to be read
        return
    try:
        _sync(number)
    finally:
        os.close(number)


def _sync(number: int) -> None:
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
