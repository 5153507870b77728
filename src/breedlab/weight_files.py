"""Whether a file is one of weights, by its first bytes: fast, without torch and without
unpickling."""

from __future__ import annotations

import json
import os
import tarfile
import zipfile
from pathlib import Path

ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar.gz", ".tgz")

_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""What torch.save began with before it wrote zip files; many of torchvision's downloads still are
such files."""

_LONGEST_HEADER = 100_000_000
"""Bytes; safetensors itself reads no longer one."""


_IN_A_RUN = (
    "model.tar.gz",
    # of a run that ended before its export, what it would have exported
    "fine_tune/checkpoints/refit.ckpt",
    "fine_tune/checkpoints/averaged.ckpt",
    "checkpoints/refit.ckpt",
    "checkpoints/best.ckpt",
    "model.safetensors",
)
"""What a run directory, or an archive's content, has its weights in; the first that is there is
taken."""


def names_file(weights: str) -> bool:
    """Return whether `model.weights` names a file or a run rather than weights that a library
    knows."""
    return (
        Path(weights).name.endswith(ENDINGS)
        or Path(weights).is_file()
        or file_of(weights) != weights
    )


def file_of(weights: str) -> str:
    """Return the file that `model.weights` means, which for a run is its archive or its best
    checkpoint; else as given.

    Links to folders are followed: `runs/latest` is another run tomorrow.
    """
    path = Path(weights)
    if path.is_dir():
        inside = [path / name for name in _IN_A_RUN if (path / name).is_file()]
        if not inside:
            return weights
        path = inside[0]
    elif not path.is_file():
        return weights
    real = Path(os.path.realpath(path.parent), path.name)
    return str(real) if path.is_absolute() else os.path.relpath(real)


def problem(path: Path) -> str:
    """Return why a file cannot be weights, empty if it can: it is read as `weights.read` will read
    it, by its extension."""
    if path.is_dir():
        is_run = (path / "config.yaml").is_file()
        what = "run that has no" if is_run else "folder without"
        return f"is a {what} model.tar.gz and no checkpoints/best.ckpt"
    try:
        if path.name.endswith((".tar.gz", ".tgz")):
            return "" if _is_archive(path) else "was not exported by breedlab, or is incomplete"
        if path.suffix == ".safetensors":
            return "" if _is_safetensors(path) else "is not a safetensors file, or is incomplete"
        return "" if _is_torch(path) else "was not written by torch.save, or is incomplete"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _is_safetensors(path: Path) -> bool:
    """Return whether a file is safetensors: a length, a JSON header of that many bytes, and the
    tensors that it places."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
            return False
        try:
            header = json.loads(file.read(length))
            ends = [
                tensor["data_offsets"][1]
                for name, tensor in header.items()
                if name != "__metadata__"
            ]
            return bool(8 + length + max(ends, default=0) == size)
        except (ValueError, AttributeError, KeyError, TypeError, IndexError):
            return False


def _is_torch(path: Path) -> bool:
    with path.open("rb") as file:
        if file.read(len(_LEGACY)) == _LEGACY:
            return True
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] == "data.pkl" for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _is_archive(path: Path) -> bool:
    """Return whether the first member can be read; reading all would take as long as unpacking."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            return archive.next() is not None
    except (tarfile.TarError, EOFError):
        return False
