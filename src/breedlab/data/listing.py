"""Which files of a folder are images, and what is reported of the others."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from breedlab.data import formats
from breedlab.names import printable

_ENDINGS = {
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".jfi",
    ".jif",
    ".png",
    ".apng",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
}
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")

_LITTER = {
    "@eadir",
    "#recycle",
    "#snapshot",
    "@recycle",
    "@recently-snapshot",
    "@tmp",
    "__macosx",
    "lost+found",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "network trash folder",
    "temporary items",
    "thumbs.db",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "desktop.ini",
    "picasa.ini",
    "icon\r",
    "__pycache__",
    "__pypackages__",
    "lightning_logs",
    "mlruns",
    "node_modules",
    "site-packages",
    "wandb",
}
"""What systems and programs leave among users' files, in lowercase; hidden files (`.DS_Store`) are
skipped, too."""

_SIGNS_OF_TOOLS = ("pyvenv.cfg", "conda-meta/history", "latest/config.yaml")
"""What is in folders that people name as they like: environments of Python (`venv`, `my-env`) and
breedlab's own runs, which lie next to the classes after `breedlab .`."""


@dataclass
class Leftovers:
    """What a listing passed over.

    Attributes:
        litter: How often each name of system litter and hidden files was met.
        endings: Of files that are no images by their endings, how many there are of each (`.heic`,
            or empty for none).
        loose: Images outside the class folders, by folder.
    """

    litter: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    loose: Counter[str] = field(default_factory=Counter)

    def unread(self) -> str:
        """Return the files left out by their endings in words, such as `20 .heic, 3 without an
        ending`."""
        counts = sorted(self.endings.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(
            f"{count:,} {printable(ending) or 'without an ending'}" for ending, count in counts[:8]
        )

    def passed_over(self) -> str:
        """Return one line of the litter; empty if there was none."""
        if not self.litter:
            return ""
        names = [
            f"{printable(name)} ({count:,})" if count > 1 else printable(name)
            for name, count in sorted(self.litter.items())
        ]
        more = f" and {len(names) - 8} other names" if len(names) > 8 else ""
        return f"passed over: {', '.join(names[:8])}{more}"


def is_litter(name: str) -> bool:
    """Return whether a file or folder is hidden, or left there by an operating system."""
    return name.startswith(".") or name.lower() in _LITTER


def is_litter_folder(folder: Path) -> bool:
    """Return whether a folder is litter, by its name or by files that a tool put there."""
    return is_litter(folder.name) or any((folder / sign).is_file() for sign in _SIGNS_OF_TOOLS)


def is_image(path: Path) -> bool:
    """Return whether a file is an image by its extension, or by its first bytes if that says
    nothing."""
    ending = path.suffix.lower()
    if ending in _ENDINGS or ending in formats.more_endings():
        return True
    says_something = ending[1:].isalnum() and len(ending) <= 6
    if says_something or ending.endswith("~"):
        return False
    return _has_signature(path)


def subfolders(folder: Path, leftovers: Leftovers | None = None) -> list[Path]:
    """Return the folders in a folder, sorted, without litter."""
    folders = []
    for entry in sorted(folder.iterdir()):
        if is_litter(entry.name) or (entry.is_dir() and is_litter_folder(entry)):
            _count_litter(leftovers, entry.name)
        elif entry.is_dir():
            folders.append(entry)
    return folders


def loose_images(folder: Path) -> int:
    """Return how many images are directly in a folder."""
    return sum(
        1
        for entry in folder.iterdir()
        if not is_litter(entry.name) and is_image(entry) and not entry.is_dir()
    )


def find_images(folder: Path, leftovers: Leftovers | None = None) -> list[Path]:
    """Return all image files under a folder, sorted, without hidden files and litter.

    Args:
        folder: Where to look; links to folders are followed.
        leftovers: Collects what was left out.
    """
    images = []
    for parent, names in _walk(folder, leftovers):
        for name in names:
            path = Path(parent, name)
            if is_litter(name):
                _count_litter(leftovers, name)
            elif is_image(path):
                images.append(path)
            elif leftovers is not None:
                leftovers.endings[path.suffix.lower()] += 1
    return sorted(images)


def _walk(folder: Path, leftovers: Leftovers | None) -> Iterator[tuple[str, list[str]]]:
    """Yield folders and their files, each folder once: a link back into its own folder would loop
    forever."""
    real_paths = {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        entered = []
        for name in sorted(folders):
            if is_litter_folder(Path(parent, name)):
                _count_litter(leftovers, name)
                continue
            path = os.path.realpath(os.path.join(parent, name))
            if path not in real_paths:
                real_paths.add(path)
                entered.append(name)
        folders[:] = entered
        yield parent, files


def _refuse(error: OSError) -> None:
    raise error  # a folder that cannot be read is not an empty one


def _count_litter(leftovers: Leftovers | None, name: str) -> None:
    if leftovers is not None:
        leftovers.litter["._*" if name.startswith("._") else name] += 1


def _has_signature(path: Path) -> bool:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a FIFO would wait forever
            return False
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return False
    is_webp = head[:4] == b"RIFF" and head[8:] == b"WEBP"
    is_bmp = head[:2] == b"BM" and head[6:10] == bytes(4)
    kind = formats.kind_by_brand(head)
    return (
        head.startswith(_SIGNATURES) or is_webp or is_bmp or (kind != "" and formats.is_read(kind))
    )
