"""How many steps a decoder would take for an image, counted from its structure before anything
decodes it.

A decoder's work follows the parts that a file has, not its bytes: a directory of 12 bytes, a
segment of 4 and a scan of 10 each cost a step, a copy or a pass over all pixels. Every walk here
ends at its own bound.
"""

from __future__ import annotations

import re
import struct
import zlib

from breedlab.data.decode import CostlyImage, DamagedImage, ImageError, SeveralPictures

MAX_SCANS = 100
"""Of a progressive JPEG; cameras write about ten."""
MAX_SCANNED = 600_000_000
"""Scans times pixels: each scan is a pass over all of them, however few bytes it has."""
MAX_SEGMENTS = 400
"""Before a JPEG's pixels; a color profile and a depth map in pieces of 64 kB take some 200."""
MAX_CHUNKS = 10_000
"""Of a PNG. libpng writes one for every 8 kB."""
MAX_ANCILLARY = 200
"""Chunks of a PNG that hold no pixels; each may be a megabyte once inflated."""
MAX_ENTRIES = 500
"""Of one directory of a TIFF or of EXIF; cameras write about 60."""
MAX_VALUES = 200_000
"""Numbers in one entry of a directory."""
MAX_STRIPS = 20_000
"""Strips or tiles of a TIFF: each is a separate step."""
MAX_TILE = 200_000_000
"""Pixels of one tile of a TIFF, which is laid out in memory whole."""

_SCAN = re.compile(rb"\xff\xda")  # three times as fast as bytes.count: it is run over every JPEG
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_PADDING = 1000
_SUB_DIRECTORIES = {0x8769, 0x8825, 0xA005}
_STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES = 273, 279, 324, 325
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_WIDTH, _LENGTH, _COMPRESSION, _ROWS_PER_STRIP = 256, 257, 259, 278
_JPEG_COMPRESSIONS = (6, 7)
_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_SINGLE_BYTES = (1, 2, 6, 7)
_INTEGERS = {3: "H", 4: "I", 16: "Q"}
"""Types of a TIFF that offsets and sizes have."""


def check_jpeg(image: bytes) -> None:
    """Raise ImageError if what comes before a JPEG's pixels takes too many steps."""
    at, count, padding, exif = 2, 0, 0, []
    while at + 4 <= len(image):
        if image[at] != 0xFF or image[at + 1] in (0x00, 0xFF):  # decoders skip these byte by byte
            at, padding = at + 1, padding + 1
            if padding > _PADDING:
                raise DamagedImage(
                    "is truncated or corrupt (its segments do not follow one another)"
                )
            continue
        kind = image[at + 1]
        if kind in (0xDA, 0xD9):
            break
        if kind == 0x01 or 0xD0 <= kind <= 0xD8:  # they have no length
            at, length = at + 2, 0
        else:
            length = int.from_bytes(image[at + 2 : at + 4], "big")
            if kind == 0xE1 and image[at + 4 : at + 10] == b"Exif\0\0":
                exif.append(image[at + 10 : at + 2 + length])
            elif kind == 0xE2 and image[at + 4 : at + 8] == b"MPF\0":
                check_directories(image[at + 8 : at + 2 + length])
            at += 2 + length
        count += 1
        if count > MAX_SEGMENTS:
            raise CostlyImage(
                f"is absurdly split up (more than {MAX_SEGMENTS} segments before its pixels)"
            )
    if exif:
        check_directories(b"".join(exif))


def count_scans(image: bytes, pixels: int) -> int:
    """Return the number of passes over a JPEG's pixels.

    Raises:
        ImageError: If they take too long for so many pixels.
    """
    scans = len(_SCAN.findall(image))
    if scans <= MAX_SCANS and scans * pixels <= MAX_SCANNED:
        return scans
    # the video that a phone appends contains these two bytes by chance
    scans = _scans_of_the_picture(image)
    if scans > MAX_SCANS or scans * pixels > MAX_SCANNED:
        most = min(MAX_SCANS, MAX_SCANNED // max(1, pixels))
        raise CostlyImage(
            f"is absurdly drawn out ({scans} scans; at most {most} are read of {pixels:,} pixels)"
        )
    return scans


def _scans_of_the_picture(image: bytes) -> int:
    at, scans = 2, 0
    while (marker := _MARKER.search(image, at)) is not None:
        kind, at = image[marker.start() + 1], marker.end()
        if kind == 0xD9:
            break
        scans += kind == 0xDA
        if scans > MAX_SCANS:
            break
        if kind != 0x01 and kind != 0xD8:
            at += int.from_bytes(image[at : at + 2], "big")
    return scans


def check_png(image: bytes) -> None:
    """Raise ImageError if a PNG has too many chunks, or directories in them that take too many
    steps."""
    at, count, ancillary = 8, 0, 0
    while at + 8 <= len(image):
        length, kind = int.from_bytes(image[at : at + 4], "big"), image[at + 4 : at + 8]
        content = (
            image[at + 8 : at + 8 + length] if kind in (b"eXIf", b"zTXt", b"tEXt", b"iTXt") else b""
        )
        if kind == b"eXIf":
            check_directories(content)
        elif content.startswith(b"Raw profile type"):
            _check_raw_profile(kind, content)
        count, ancillary = count + 1, ancillary + (kind != b"IDAT")
        if count > MAX_CHUNKS or ancillary > MAX_ANCILLARY:
            raise CostlyImage(
                f"is absurdly split up (more than {MAX_CHUNKS:,} chunks, or {MAX_ANCILLARY} without"
                " pixels)"
            )
        if kind == b"IEND":
            break
        at += 12 + length


def _check_raw_profile(kind: bytes, content: bytes) -> None:
    """Check EXIF as ImageMagick writes it: a name, its length, and hexadecimal digits in lines,
    mostly compressed."""
    _, _, text = content.partition(b"\0")
    if kind == b"zTXt":
        try:
            text = zlib.decompressobj().decompress(text[1:], 1 << 20)
        except zlib.error:
            return  # Pillow does not read it either
    try:
        check_directories(bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:])))
    except ValueError:
        return


def check_gif(image: bytes) -> None:
    """Raise ImageError if a GIF holds more than one picture, or is cut into too many blocks."""
    most = 1000 + len(image) // 100  # complete blocks have 255 bytes
    at = 13 + (3 << (image[10] & 7) + 1 if len(image) > 10 and image[10] & 0x80 else 0)
    pictures = blocks = 0
    while at < len(image) and image[at] != 0x3B:
        if image[at] == 0x2C:
            pictures += 1
            if pictures > 1:
                raise SeveralPictures("is animated or has several pages (expected one picture)")
            flags = image[at + 9] if at + 9 < len(image) else 0
            at += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        elif image[at] == 0x21:
            at += 2
        else:  # decoders look for the next block byte by byte
            at, blocks = at + 1, blocks + 1
            if blocks > most:
                raise _too_many_blocks()
            continue
        while at < len(image):
            length = image[at]
            at, blocks = at + 1 + length, blocks + 1
            if blocks > most:
                raise _too_many_blocks()
            if not length:
                break


def _too_many_blocks() -> ImageError:
    return CostlyImage("is absurdly split up (its blocks hold next to nothing)")


def check_bmp(image: bytes) -> None:
    """Raise ImageError if a BMP is run-length coded and large: that is undone byte by byte, in
    Python."""
    if image[30:34] in (b"\1\0\0\0", b"\2\0\0\0") and len(image) > 1_000_000:
        raise CostlyImage(
            "is a run-length coded BMP of more than a megabyte; send it as PNG or JPEG"
        )


def check_tiff(image: bytes) -> None:
    """Raise ImageError if a TIFF has several pages, or a directory that takes too many steps."""
    directory = check_directories(image, chained=False)
    if directory.following:
        raise SeveralPictures("is animated or has several pages (expected one picture)")
    counts, values = directory.counts, directory.values
    strips = max(
        counts.get(tag, 0) for tag in (_STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES)
    )
    if strips > MAX_STRIPS:
        raise CostlyImage(
            f"is absurdly split up ({strips:,} strips; at most {MAX_STRIPS:,} are read)"
        )
    width, length = values.get(_TILE_WIDTH, 0), values.get(_TILE_LENGTH, 0)
    if width * length > MAX_TILE:
        raise CostlyImage(f"is absurdly large (tiles of {width}x{length})")
    sizes = max(sum(directory.numbers(image, tag)) for tag in (_STRIP_SIZES, _TILE_SIZES))
    if sizes > len(image) + 65_536:
        raise DamagedImage("is truncated or corrupt (its strips claim more bytes than it has)")
    if values.get(_COMPRESSION) in _JPEG_COMPRESSIONS:
        _check_jpeg_strips(image, strips, values)


def _check_jpeg_strips(image: bytes, strips: int, values: dict[int, int]) -> None:
    """Raise ImageError if the JPEGs in a TIFF's strips or tiles would be passed over too often.

    All scans may be in one strip: each, beyond one per strip, counts as a pass over the largest.
    """
    tile = values.get(_TILE_WIDTH, 0) * values.get(_TILE_LENGTH, 0)
    rows = min(values.get(_ROWS_PER_STRIP, values.get(_LENGTH, 0)), values.get(_LENGTH, 0))
    largest = tile or values.get(_WIDTH, 0) * rows
    scans = len(_SCAN.findall(image))
    if (scans - strips) * largest > MAX_SCANNED:
        raise CostlyImage(f"is absurdly drawn out ({scans} scans of strips of {largest:,} pixels)")


class _Directory:
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


def check_directories(data: bytes, chained: bool = True) -> _Directory:
    """Follow the directories of a TIFF, or of EXIF, which is one.

    Args:
        data: From the byte order on.
        chained: Whether to follow those after the first, too.

    Raises:
        ImageError: If one has too many entries, or entries that claim more bytes than there are:
            several that share the same bytes are copied once for each.
    """
    data = data.removeprefix(b"Exif\0\0")
    directory = _Directory()
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
        count = int.from_bytes(data[at : at + head], "little" if order == "<" else "big")
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
            value = (
                int.from_bytes(inline[:width], "little" if order == "<" else "big") if width else 0
            )
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
    return int.from_bytes(part, "little" if order == "<" else "big") if len(part) == size else 0
