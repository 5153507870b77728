"""Refuse files from clients that must not be decoded, at a cost that does not grow with their
pixels."""

from __future__ import annotations

from breedlab.data import formats
from breedlab.data.decode import DamagedImage, NotAnImage, OtherContent
from breedlab.serving import structure

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
_RAR, _ZIP = b"Rar!\x1a\x07", b"PK\x05\x06"


def format_of(image: bytes) -> str:
    """Return the format that the first bytes announce, or an empty text."""
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "WebP"
    if image[4:8] == b"ftyp":
        kind = formats.kind_by_brand(image)
        return kind if kind and formats.is_read(kind) else ""
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
    _refuse_other_kinds(image, kind)
    return structure.cost(image, kind)


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
