"""What is known of each file once it was read: its content's digest, what is wrong with it, its
hash, and its traits. It is remembered by path, size, and time, so that each file is read once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from breedlab import hardware
from breedlab.data import formats
from breedlab.data.decode import ImageError, decode, read_image
from breedlab.data.near_duplicates import difference_hash
from breedlab.data.odd_images import Traits, traits_of
from breedlab.files import DamagedFile, atomic_write_json, read_json, remove_leftovers

Progress = Callable[[int, int], None]
_VERSION = 5
"""Raised when the decoder learns to judge differently: what an older one said is then read
again."""


@dataclass(frozen=True)
class Facts:
    """What is known of one file.

    Attributes:
        digest: Of its content; empty if it could not be read.
        problem: Why no image could be read from it; else empty.
        hash: As of `near_duplicates.difference_hash`.
        traits: What every image has; None without an image.
    """

    digest: str
    problem: str
    hash: str = ""
    traits: Traits | None = None


def read_all(
    root: Path, paths: Iterable[Path], memory: Path, progress: Progress | None
) -> dict[Path, Facts]:
    """Return what is known of files, reading those that are new or have changed.

    Args:
        root: The data set, by which they are remembered.
        paths: Of the files.
        memory: The folder for what is remembered.
        progress: Called with how many files are done and how many there are.
    """
    book = memory / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}.json"
    results: dict[str, list[object]] = _load(book)
    stamps = {path: _stamp(path) for path in paths}
    fresh = [path for path, stamp in stamps.items() if results.get(str(path), [None])[0] != stamp]
    if fresh:
        try:
            for number, (path, facts) in enumerate(
                zip(fresh, hardware.in_threads(_read, fresh), strict=True), 1
            ):
                traits = astuple(facts.traits) if facts.traits else ()
                results[str(path)] = [stamps[path], facts.digest, facts.problem, facts.hash, traits]
                if progress:
                    progress(number, len(fresh))
        finally:  # after a stop, the next start reads only the rest
            _save(book, results)
    return {path: _facts(results[str(path)]) for path in stamps}


def _facts(entry: list[Any]) -> Facts:
    _, digest, problem, hash_, traits = entry
    return Facts(digest, problem, hash_, Traits(*traits) if traits else None)


def _load(book: Path) -> dict[str, list[object]]:
    try:
        loaded: dict[str, list[object]] = read_json(book)
    except (OSError, DamagedFile):  # every file is read again
        return {}
    return {
        path: entry for path, entry in loaded.items() if isinstance(entry, list) and len(entry) == 5
    }


def _save(book: Path, entries: dict[str, list[object]]) -> None:
    book.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(book.parent, older_than_s=86_400)
    # What could not be read at all may be readable the next time.
    atomic_write_json(book, {path: entry for path, entry in entries.items() if entry[1]})


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:  # a dangling link, or deleted since the scan: reading it will report that
        return ""
    readable = "h" * formats.reads_heic() + "a" * formats.reads_avif()
    return f"{_VERSION}{readable}/{status.st_size}/{status.st_mtime_ns}"


def _read(path: Path) -> Facts:
    try:
        data = read_image(path)
    except ImageError as error:
        return Facts("", str(error))
    except OSError as error:
        return Facts("", f"cannot be read ({error.strerror})")
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    try:
        pixels = decode(data)
    except ImageError as error:
        return Facts(digest, str(error))
    return Facts(digest, "", difference_hash(pixels), traits_of(pixels))
