"""Refuse files from clients that must not be decoded, at a cost that does not grow with their
pixels."""

from __future__ import annotations

import io

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
from breedlab.serving import structure

MAX_PIXELS = 50_000_000
"""Of a served image. The largest of phones have as many; they take 150 MB each as RGB, half a
second to decode."""
_USUAL_SCANS = 10
"""Of a progressive JPEG; one with more weighs as if it had more pixels."""
_TAIL = 65_557
"""How far from the end a ZIP archive's directory may begin."""

_STARTS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF8": "GIF", b"BM": "BMP"}
_STARTS |= {b"II*\0": "TIFF", b"MM\0*": "TIFF"}
_TYPES = {
    "image/jpeg": "JPEG",
    "image/jpg": "JPEG",
    "image/pjpeg": "JPEG",
    "image/png": "PNG",
    "image/x-png": "PNG",
}
_TYPES |= {"image/webp": "WebP", "image/gif": "GIF", "image/bmp": "BMP", "image/tiff": "TIFF"}
_TYPES |= {"image/avif": "AVIF", "image/heic": "HEIC", "image/heif": "HEIC"}
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
_BY_BRAND = ("AVIF", "HEIC")
_RAR, _ZIP = b"Rar!\x1a\x07", b"PK\x05\x06"
_CHECKS = {
    "JPEG": structure.check_jpeg,
    "PNG": structure.check_png,
    "GIF": structure.check_gif,
    "BMP": structure.check_bmp,
    "TIFF": structure.check_tiff,
}


def format_of(image: bytes) -> str:
    """Return the format that the first bytes announce, or an empty text."""
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "WebP"
    kind = formats.kind_by_brand(image)
    if kind and formats.is_read(kind):
        return kind
    return next((name for start, name in _STARTS.items() if image.startswith(start)), "")


def contradiction(image: bytes, content_type: str) -> str:
    """Return the format that an image has instead of the one that its content type names; an empty
    text if they agree."""
    kind = format_of(image)
    return kind if kind and kind != _TYPES.get(content_type, kind) else ""


def inspect(image: bytes) -> int:
    """Return the cost of decoding an image, in pixels, if a server should decode it.

    Raises:
        ImageError: If it is not an image, too large, animated, or also a file of another kind.
            Damage further in shows only when it is decoded.
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
    if check := _CHECKS.get(kind):
        check(image)
    _refuse_other_kinds(image, kind)
    width, height = _size(image, kind)
    if width * height > MAX_PIXELS:
        raise CostlyImage(
            f"is absurdly large ({width}x{height}; at most {MAX_PIXELS:,} pixels are read)"
        )
    if kind == "JPEG" and (scans := structure.count_scans(image, width * height)) > _USUAL_SCANS:
        return width * height * scans // _USUAL_SCANS
    return width * height


def _refuse_other_kinds(image: bytes, name: str) -> None:
    kinds = [kind for mark, kind in _OTHERS_AT_THE_START.items() if mark in image[:1024].lower()]
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


def _size(image: bytes, name: str) -> tuple[int, int]:
    if name == "JPEG":
        try:
            import simplejpeg

            height, width, *_ = simplejpeg.decode_jpeg_header(image)
            return width, height
        except (ImportError, ValueError):
            pass  # Pillow reads more formats
    try:
        with Image.open(
            io.BytesIO(image),
            formats=formats_of_pillow(image) if name in _BY_BRAND else (name.upper(),),
        ) as opened:
            # For a TIFF and a GIF this would read every page; `structure` has looked for a second
            # one.
            frames = getattr(opened, "n_frames", 1) if name in ("PNG", "WebP", *_BY_BRAND) else 1
            width, height = opened.size
            # in the other formats, EXIF is a part of the structure
            if name == "WebP" or name in _BY_BRAND:
                structure.check_directories(opened.info.get("exif") or b"")
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise CostlyImage("is absurdly large") from error
    except Exception as error:  # for hostile bytes, Pillow raises nearly anything
        kind = f"{name}, " if name in _BY_BRAND else ""
        raise DamagedImage(f"is truncated or corrupt ({kind}{reason_of(error)})") from error
    if frames > 1:
        raise SeveralPictures(f"is animated or has several pages ({frames} pictures; expected one)")
    return width, height
