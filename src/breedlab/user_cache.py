"""Texts that take long to make, kept in the user's cache folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from breedlab.files import atomic_write_text


def cached_text(
    name: str,
    make: Callable[[], str],
    is_whole: Callable[[str], bool] = bool,
    most: int | None = None,
) -> str:
    """Return a text from the user's cache folder; make it and keep it there the first time.

    The folder is $XDG_CACHE_HOME/breedlab, by default ~/.cache/breedlab. If it cannot be read or
    written, the text is made each time.

    Args:
        name: The file's path in that folder.
        make: Makes the text.
        is_whole: Whether a text from the folder is not damaged; a damaged one is made again.
        most: How many files the file's own folder may have; the oldest are removed.
    """
    try:
        file = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "breedlab", name).expanduser()
    except RuntimeError:  # the user has no home
        return make()
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if is_whole(text := file.read_text(encoding="utf-8")):
            return text
    text = make()
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(file, text)
        if most is not None:
            _remove_oldest(file.parent, most)
    return text


def _remove_oldest(folder: Path, most: int) -> None:
    files = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime)
    for file in files[:-most]:
        file.unlink()
