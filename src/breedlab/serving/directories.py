"""The directories of a TIFF, and of EXIF, which is one: followed within bounds, before a decoder
does."""

from __future__ import annotations

import struct
from typing import Literal

from breedlab.data.decode import CostlyImage, DamagedImage

MAX_ENTRIES = 500
"""Of one directory of a TIFF or of EXIF; cameras write about 60."""
MAX_VALUES = 200_000
"""Numbers in one entry of a directory."""

_SUB_DIRECTORIES = {0x8769, 0x8825, 0xA005}
# Bytes of a value, by its type.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}
_SINGLE_BYTES = (1, 2, 6, 7)
_INTEGERS = {3: "H", 4: "I", 16: "Q"}
"""Types of a TIFF that offsets and sizes have."""
_BYTE_ORDERS: dict[str, Literal["little", "big"]] = {"<": "little", ">": "big"}


class Directory:
    """The first directory: by tag, the number of values, the value if it is a single inline one,
    and where integers are; and the offset of the next directory."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.values: dict[int, int] = {}
        self.places: dict[int, tuple[str, int]] = {}
        self.following = 0

    def numbers(self, data: bytes, tag: int) -> list[int]:
        """Return the values of a tag of integers; none where it is missing or of another type."""
        kind, at = self.places.get(tag, ("", 0))
        if not kind:
            return []
        size = struct.calcsize(kind)
        count = min(self.counts[tag], max(0, len(data) - at) // size)
        return [number for (number,) in struct.iter_unpack(kind, data[at : at + count * size])]


def check_directories(data: bytes, chained: bool = True) -> Directory:
    """Follow the directories of a TIFF, or of EXIF, which is one.

    Args:
        data: From the byte order on.
        chained: Whether to follow those after the first, too.

    Raises:
        ImageError: If one has too many entries, or entries that claim more bytes than there are:
            several that share the same bytes are copied once for each.
    """
    data = data.removeprefix(b"Exif\0\0")
    directory = Directory()
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return directory  # no decoder continues from here
    big = struct.unpack(order + "H", data[2:4])[0] == 43
    at = _number(data, 8 if big else 4, order, big)
    waiting, offsets, claimed = [at], set[int](), 0
    while waiting:
        at = waiting.pop()
        if at in offsets:
            continue
        offsets.add(at)
        if len(offsets) > 16:
            raise CostlyImage("is absurdly split up (more than 16 directories)")
        head, size = (8, 20) if big else (2, 12)
        count = int.from_bytes(data[at : at + head], _BYTE_ORDERS[order])
        if count > MAX_ENTRIES:
            raise CostlyImage(
                f"is absurdly split up (a directory of {count:,} entries; at most {MAX_ENTRIES} are"
                " read)"
            )
        for start in range(at + head, at + head + count * size, size):
            entry = data[start : start + size]
            if len(entry) < size:
                break
            tag, kind = struct.unpack(order + "HH", entry[:4])
            values = _number(entry, 4, order, big)
            width = _SIZES.get(kind, 0)
            # what a decoder copies; past the end there is nothing to copy
            if values * width > (8 if big else 4):
                offset = _number(data, start + (12 if big else 8), order, big)
                claimed += min(values * width, max(0, len(data) - offset))
            if values > MAX_VALUES and kind not in _SINGLE_BYTES:
                raise CostlyImage(f"is absurdly split up (a directory entry of {values:,} values)")
            inline = entry[12:] if big else entry[8:]
            value = int.from_bytes(inline[:width], _BYTE_ORDERS[order])
            if len(offsets) == 1:
                directory.counts[tag] = values
                if kind in _INTEGERS:
                    inside = start + (12 if big else 8)
                    outside = values * width > (8 if big else 4)
                    place = _number(data, inside, order, big) if outside else inside
                    directory.places[tag] = (order + _INTEGERS[kind], place)
                if values == 1:
                    directory.values[tag] = value
            if tag in _SUB_DIRECTORIES and values == 1:
                waiting.append(value)
        if claimed > len(data) + 65_536:
            raise DamagedImage(
                "is truncated or corrupt (its directories claim more bytes than it has)"
            )
        following = _number(data, at + head + count * size, order, big)
        if len(offsets) == 1:
            directory.following = following
        if chained and following and following < len(data):
            waiting.append(following)
    return directory


def _number(data: bytes, at: int, order: str, big: bool) -> int:
    """Read an offset or a count: 4 bytes, in a BigTIFF 8; 0 at the end of the data."""
    size = 8 if big else 4
    part = data[at : at + size]
    return int.from_bytes(part, _BYTE_ORDERS[order]) if len(part) == size else 0
