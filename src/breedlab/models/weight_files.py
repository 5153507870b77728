"""Whether a file is one of weights, told from its first bytes: in no time, without torch and without unpickling."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")

_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""What torch.save began with before it wrote zip files; many of torchvision's downloads still are such files."""

_LONGEST_HEADER = 100_000_000
"""Bytes; safetensors itself reads no longer one."""


def problem(path: Path) -> str:
    """Why a file cannot be weights, empty if it can: read as `load_file` will read it, by its ending."""
    try:
        if path.suffix == ".safetensors":
            return "" if _is_safetensors(path) else "is no safetensors file, or not a whole one"
        return "" if _is_torch(path) else "is no file that torch.save wrote, or not a whole one"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _is_safetensors(path: Path) -> bool:
    """A length, a JSON header of so many bytes, and the tensors that it places."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
            return False
        try:
            header = json.loads(file.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
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
