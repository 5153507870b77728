"""From the bytes of a photo to the RGB pixels that a person sees. One way, in training and in serving."""

from __future__ import annotations

import ctypes
import io
import os
import re
import warnings
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from breedlab.errors import DataError

MAX_PIXELS = 100_000_000
"""Larger photos are refused before they are decoded: 100 megapixels take 300 MB as RGB."""

# Pillow writes of EXIF oddities and of large photos to stderr; both are judged here.
warnings.filterwarnings("ignore", module=r"PIL\.")

MAX_ASPECT = 100
"""A photo longer than this many times its width would grow beyond all memory when its short side is resized."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 32 * 2**20
"""The largest that glibc takes for M_MMAP_THRESHOLD."""
_STRIP = 1_000_000
"""Pixels that are converted at once."""
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
# libjpeg's warnings of a damaged body. A few bytes too many are padding, a run of them is what it lost its way in.
_DAMAGE = re.compile(r"[Pp]remature end|bad Huffman|(?:[3-9]\d|\d{3,}) extraneous bytes before marker")
_JPEG = b"\xff\xd8\xff"
# How EXIF orientations 2 to 8 are undone on an (height, width, 3) array.
_UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


class BadPhoto(DataError):
    """Bytes that are no usable photo. The text says why, without naming the file."""


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decodes a JPEG, PNG, WebP, BMP, GIF or TIFF.

    EXIF rotation is applied, transparency is laid on white, 16-bit is scaled, the first frame of an animation
    is taken, CMYK and palettes are converted.

    Args:
        data: The file's content.
        max_pixels: Width times height that is still accepted.

    Returns:
        uint8 RGB of shape (height, width, 3), contiguous.

    Raises:
        BadPhoto: If the bytes are empty, no image, truncated, corrupt or too large.
    """
    if not data:
        raise BadPhoto("is empty")
    if data.startswith(_JPEG):
        pixels = _decode_plain_jpeg(data, max_pixels)
        if pixels is not None:
            return pixels
    return _decode_with_pillow(data, max_pixels)


def keep_memory() -> None:
    """Lets this process keep the memory of photos that it is done with, for the next ones.

    A photo's pixels are large enough for glibc to hand them back to the system each time; getting them anew, page by
    page, took a quarter of the decoding. The numbers are `malloc.h`'s.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:  # other C libraries have none, and no need of it
        for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            mallopt(parameter, _KEPT_BYTES)


def _decode_plain_jpeg(data: bytes, max_pixels: int) -> np.ndarray[Any, Any] | None:
    """simplejpeg's fast path, None for what it cannot read as a person would see it."""
    try:
        import simplejpeg
    except ImportError:  # AWS's inference image may lack it; Pillow reads the same pixels, slower
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if colorspace not in ("YCbCr", "Gray", "RGB"):
            return None
        _check_size(width, height, max_pixels)
        orientation = _orientation(data)
        pixels: np.ndarray[Any, Any] = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    except ValueError as error:
        if _DAMAGE.search(str(error)):  # Pillow would fill up with gray and say nothing
            raise BadPhoto(f"is truncated or corrupt ({error})") from error
        return None  # merely unusual
    return np.ascontiguousarray(_UPRIGHT[orientation](pixels)) if orientation in _UPRIGHT else pixels


def _orientation(data: bytes) -> int:
    """How the photo is turned, 1 to 8; raises ValueError where that is not to be read."""
    head = _head(data)
    if b"Exif\0\0" not in head and b"tiff:Orientation" not in head:
        return 1
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as error:  # EXIF is a format of its own, and as often broken
        raise ValueError("EXIF") from error


def _head(data: bytes) -> bytes:
    """What a JPEG says before its pixels, which are most of it; all of it where its segments are not to be followed."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data[:at] if data[at : at + 2] == b"\xff\xda" else data


def _decode_with_pillow(data: bytes, max_pixels: int) -> np.ndarray[Any, Any]:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(image.width, image.height, max_pixels)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _rgb_pixels(image)
    except BadPhoto:
        raise
    except Image.DecompressionBombError as error:
        raise BadPhoto(f"is absurdly large ({error})") from error
    except UnidentifiedImageError as error:
        raise BadPhoto("is not an image (expected JPEG, PNG, WebP, BMP, GIF or TIFF)") from error
    # Decoders of hostile bytes raise nearly anything; each means the same to the person.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise BadPhoto(f"is truncated or corrupt ({reason})") from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadPhoto(f"is absurdly large ({width}x{height}; at most {max_pixels:,} pixels are read)")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadPhoto(f"is absurdly narrow ({width}x{height}; at most 1:{MAX_ASPECT} is read)")


def _rgb_pixels(image: Image.Image) -> np.ndarray[Any, Any]:
    """The image in RGB, converted a strip at a time: what that takes on the way is several times the image."""
    white = _white(image)
    rows = max(1, _STRIP // image.width)
    if rows >= image.height:
        return np.array(_rgb(image, white))
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, rows):
        bottom = min(image.height, top + rows)
        pixels[top:bottom] = np.asarray(_rgb(image.crop((0, top, image.width, bottom)), white))
    return pixels


def _rgb(image: Image.Image, white: float) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bits(np.asarray(image), white)).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, image).convert("RGB")
    return image.convert("RGB")


def _white(image: Image.Image) -> float:
    """The value that is white: of 16 bits the full scale; of floats, which have none, the largest."""
    if not image.mode.startswith("F"):
        return 65535.0
    return max(float(np.nanmax(np.asarray(image), initial=0.0)), 1e-12)


def _to_8_bits(values: np.ndarray[Any, Any], white: float) -> np.ndarray[Any, np.dtype[np.uint8]]:
    scaled = np.nan_to_num(values.astype(np.float64) / white).clip(0, 1) * 255
    return scaled.round().astype(np.uint8)
