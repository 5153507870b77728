"""What a server may do with a file from a client: refuse one that must not be decoded, and say what
decoding another would cost, before anything decodes it.

A decoder's work follows the parts that a file has, not its bytes: a directory of 12 bytes, a
segment of 4 and a scan of 10 each cost a step, a copy or a pass over all pixels. Every walk here
ends at its own bound.
"""

from __future__ import annotations

import io
import re
import zlib

from PIL import Image

from breedlab.data import formats
from breedlab.data.decode import (
    CostlyImage,
    DamagedImage,
    ImageError,
    NotAnImage,
    OtherContent,
    SeveralPictures,
    formats_of_pillow,
    reason_of,
)
from breedlab.serving.directories import check_directories

MAX_PIXELS = 50_000_000
"""Of a served image. The largest of phones have as many; they take 150 MB each as RGB, half a
second to decode."""

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
MAX_STRIPS = 20_000
"""Strips or tiles of a TIFF: each is a separate step."""
MAX_TILE = 200_000_000
"""Pixels of one tile of a TIFF, which is laid out in memory whole."""

_SCAN = re.compile(rb"\xff\xda")  # three times as fast as bytes.count: it is run over every JPEG
_USUAL_SCANS = 10
"""Of a progressive JPEG; one with more weighs as if it had more pixels."""
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_PADDING = 1000
_STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES = 273, 279, 324, 325
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_WIDTH, _LENGTH, _COMPRESSION, _ROWS_PER_STRIP = 256, 257, 259, 278
_JPEG_COMPRESSIONS = (6, 7)
_TAIL = 65_557
"""How far from the end a ZIP archive's directory may begin."""

STARTS = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF8",),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*"),
}
"""The first bytes of a file of each format; others are recognized by `format_of` alone."""
# What other programs would read the file as. Readers of PDF and web pages look in the first
# kilobyte.
_OTHERS_AT_THE_START = {
    b"%pdf-": "PDF",
    b"<html": "HTML",
    b"<!doctype": "HTML",
    b"<script": "HTML",
    b"<?php": "PHP",
}
_OTHERS_AT_THE_END = {**_OTHERS_AT_THE_START, b"\x7felf": "ELF"}
_RAR, _ZIP = b"Rar!\x1a\x07", b"PK\x05\x06"


def format_of(image: bytes) -> str:
    """Return the format that the first bytes announce, or an empty text."""
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "WebP"
    if image[4:8] == b"ftyp":
        kind = formats.kind_by_brand(image)
        return kind if kind and formats.is_read(kind) else ""
    return next((name for name, starts in STARTS.items() if image.startswith(starts)), "")


def inspect(image: bytes) -> int:
    """Return the cost of decoding an image, in pixels, if a server should decode it.

    Raises:
        ImageError: If it is not an image, too large, takes too many steps, is animated, or also a
            file of another kind. Damage further in shows only when it is decoded.
    """
    if not image:
        raise DamagedImage("is empty")
    kind = format_of(image)
    if not kind:
        if other := formats.kind_by_brand(image):
            raise NotAnImage(
                f"is not an image that is read here (it is {other}: {formats.how_to_read(other)})"
            )
        raise NotAnImage(f"is not an image (expected {formats.in_words('or')})")
    _refuse_other_kinds(image, kind)
    if check := _CHECKS.get(kind):
        check(image)
    width, height = _size(image, kind)
    if width * height > MAX_PIXELS:
        raise CostlyImage(
            f"is absurdly large ({width}x{height}; at most {MAX_PIXELS:,} pixels are read)"
        )
    if kind == "JPEG" and (scans := _count_scans(image, width * height)) > _USUAL_SCANS:
        return width * height * scans // _USUAL_SCANS
    return width * height


def _refuse_other_kinds(image: bytes, name: str) -> None:
    start = image[:1024].lower()
    kinds = [kind for mark, kind in _OTHERS_AT_THE_START.items() if mark in start]
    tail = max(0, len(image) - _TAIL)
    if image.rfind(_ZIP, tail) >= 0:
        kinds.append("ZIP")
    # Phones append videos and their own notes to a JPEG; they append no programs or pages.
    end = max(tail, image.rfind(b"\xff\xd9")) if name == "JPEG" else len(image)
    if image.find(_RAR, end if name == "JPEG" else tail) >= 0:
        kinds.append("RAR")
    after = image[end:].lower()
    kinds += [kind for mark, kind in _OTHERS_AT_THE_END.items() if mark in after]
    if kinds:
        raise OtherContent(f"is a {name} and a {kinds[0]} file at once")


def _check_jpeg(image: bytes) -> None:
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


def _count_scans(image: bytes, pixels: int) -> int:
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


def _check_png(image: bytes) -> None:
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


def _check_gif(image: bytes) -> None:
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


def _check_bmp(image: bytes) -> None:
    """Raise ImageError if a BMP is run-length coded and large: that is undone byte by byte, in
    Python."""
    if image[30:34] in (b"\1\0\0\0", b"\2\0\0\0") and len(image) > 1_000_000:
        raise CostlyImage(
            "is a run-length coded BMP of more than a megabyte; send it as PNG or JPEG"
        )


def _check_tiff(image: bytes) -> None:
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


_CHECKS = {
    "JPEG": _check_jpeg,
    "PNG": _check_png,
    "GIF": _check_gif,
    "BMP": _check_bmp,
    "TIFF": _check_tiff,
}
_BY_BRAND = ("AVIF", "HEIC")


def _size(image: bytes, kind: str) -> tuple[int, int]:
    if kind == "JPEG":
        try:
            import simplejpeg

            height, width, *_ = simplejpeg.decode_jpeg_header(image)
            return width, height
        except (ImportError, ValueError):
            pass  # Pillow reads more formats
    try:
        with Image.open(
            io.BytesIO(image),
            formats=formats_of_pillow(image) if kind in _BY_BRAND else (kind.upper(),),
        ) as opened:
            # For a TIFF and a GIF this would read every page; `_check_tiff` and `_check_gif` have
            # looked for a second one.
            frames = getattr(opened, "n_frames", 1) if kind in ("PNG", "WebP", *_BY_BRAND) else 1
            width, height = opened.size
            # in the other formats, EXIF is a part of the structure
            if kind == "WebP" or kind in _BY_BRAND:
                check_directories(opened.info.get("exif") or b"")
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise CostlyImage("is absurdly large") from error
    except Exception as error:  # for hostile bytes, Pillow raises nearly anything
        name = f"{kind}, " if kind in _BY_BRAND else ""
        raise DamagedImage(f"is truncated or corrupt ({name}{reason_of(error)})") from error
    if frames > 1:
        raise SeveralPictures(f"is animated or has several pages ({frames} pictures; expected one)")
    return width, height
