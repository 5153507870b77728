"""From the bytes of an image to the RGB pixels that a person sees. The same way in training and in
serving."""

from __future__ import annotations

import ctypes
import io
import os
import re
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from breedlab.data import formats
from breedlab.data.gray_scale import Scale, scale_of
from breedlab.errors import DataError

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: 100 megapixels take 300 MB as RGB."""

# Pillow warns on stderr about odd EXIF data and large images; both are checked here.
warnings.filterwarnings("ignore", module=r"PIL\.")

MAX_BYTES = 200_000_000
"""Larger files are not read: they are hardly images, and would fill the memory."""

MAX_ASPECT = 100
"""Longest side over shortest: a longer image would not fit in memory once its short side is
resized."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 32 * 2**20
"""The largest M_MMAP_THRESHOLD that every glibc accepts."""
KEPT_BY_TRAINING = 2**30
"""Bytes; newer ones take as much, which holds the activations of a batch."""
_STRIP = 1_000_000
"""Pixels that are converted at once."""
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
# libjpeg's warnings of a damaged body. A few bytes too many are padding, a run of them is what it
# lost its way in.
_DAMAGE = re.compile(
    r"[Pp]remature end|bad Huffman|(?:[3-9]\d|\d{3,}) extraneous bytes before marker"
)
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
_ON_ITS_SIDE = (5, 6, 7, 8)


class ImageError(DataError):
    """Bytes that are not a usable image. The text says why, without naming the file."""

    code = "BL201"


class DamagedImage(ImageError):
    """The image is empty, truncated, or corrupt."""

    code = "BL205"


class CostlyImage(ImageError):
    """The image is too large, or takes too much work to decode."""

    code = "BL206"


class SeveralPictures(ImageError):
    """The file contains several images: it is animated, or has pages."""

    code = "BL207"


class NotAnImage(ImageError):
    """The file is not an image, or its format is not supported here."""

    code = "BL208"


class OtherContent(ImageError):
    """The image is also a file of another kind, such as a ZIP or a web page."""

    code = "BL209"


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode a JPEG, PNG, WebP, BMP, GIF or TIFF; AVIF and HEIC where `formats` says that they are
    read.

    EXIF rotation is applied, transparency is laid on white, 16-bit is scaled, the first frame of an
    animation is taken, CMYK and palettes are converted.

    Args:
        data: The file's content.
        max_pixels: Width times height that is still accepted.

    Returns:
        uint8 RGB of shape (height, width, 3), contiguous.

    Raises:
        ImageError: If the bytes are empty, no image, truncated, corrupt or too large.
    """
    if not data:
        raise DamagedImage("is empty")
    if data.startswith(_JPEG):
        pixels = _decode_plain_jpeg(data, max_pixels)
        if pixels is not None:
            return pixels
    return _decode_with_pillow(data, max_pixels)


def size(data: bytes) -> tuple[int, int]:
    """Return (height, width) of what `decode` returns for a file, from its first bytes.

    Raises:
        ImageError: If they do not say.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            # Pillow gives a TIFF's size as it is shown, and that of other formats as it is in the
            # file.
            turned = (
                image.format != "TIFF"
                and image.getexif().get(ExifTags.Base.Orientation, 1) in _ON_ITS_SIDE
            )
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception as error:  # as in `decode`
        raise DamagedImage(f"has no size that can be read ({reason_of(error)})") from error


def read_image(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        ImageError: If it is not a regular file (a FIFO, a link to /dev/zero), or larger than
            `MAX_BYTES`.
        OSError: If it cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("is not a regular file")
    if status.st_size > MAX_BYTES:
        raise CostlyImage(
            f"is too large ({status.st_size / 1e6:,.0f} MB; at most {MAX_BYTES / 1e6:.0f} MB are"
            " read)"
        )
    return path.read_bytes()


def keep_memory(largest: int = _KEPT_BYTES) -> None:
    """Let this process keep the memory of images that it is done with, for the next ones.

    An image's pixels are large enough for glibc to hand them back to the system each time; getting
    them again, page by page, took a quarter of the decoding, and of EfficientNet-Lite0's training
    in fp32 more than a third. The numbers are `malloc.h`'s.

    Args:
        largest: Bytes of the largest block to keep.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:  # other C libraries have none, and no need of it
        for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            mallopt(parameter, largest) or mallopt(parameter, _KEPT_BYTES)


def _decode_plain_jpeg(data: bytes, max_pixels: int) -> np.ndarray[Any, Any] | None:
    """Decode with simplejpeg, which is fast; None if it cannot, or not as a viewer would show the
    image."""
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
            raise DamagedImage(f"is truncated or corrupt ({error})") from error
        return None  # merely unusual
    return (
        np.ascontiguousarray(_UPRIGHT[orientation](pixels)) if orientation in _UPRIGHT else pixels
    )


def _orientation(data: bytes) -> int:
    """Return the EXIF orientation, 1 to 8; raise ValueError if it cannot be read."""
    head = _head(data)
    if b"Exif\0\0" not in head and b"tiff:Orientation" not in head:
        return 1
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as error:  # EXIF is a format of its own, and as often broken
        raise ValueError("EXIF") from error


def _head(data: bytes) -> bytes:
    """Return a JPEG's header, a small part of it; all of it if its segments cannot be followed."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data[:at] if data[at : at + 2] == b"\xff\xda" else data


def _decode_with_pillow(data: bytes, max_pixels: int) -> np.ndarray[Any, Any]:
    try:
        with Image.open(io.BytesIO(data), formats=formats_of_pillow(data)) as image:
            _check_size(image.width, image.height, max_pixels)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _rgb_pixels(image)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise CostlyImage(f"is absurdly large ({error})") from error
    except UnidentifiedImageError as error:
        if (kind := formats.kind_by_brand(data)) and formats.is_read(kind):
            raise DamagedImage(
                f"is truncated or corrupt ({kind} that cannot be decoded)"
            ) from error
        kind = _other_kind(data)
        raise NotAnImage(f"is not an image ({kind}expected {formats.in_words('or')})") from error
    # Decoders of hostile bytes raise nearly anything; each means the same to the user.
    except Exception as error:
        raise DamagedImage(f"is truncated or corrupt ({reason_of(error)})") from error


def reason_of(error: Exception) -> str:
    """Return what a decoder says is wrong, without addresses in memory such as `<_io.BytesIO
    object at 0x7f59>`."""
    return re.sub(r" *<[^<>]* at 0x[0-9a-f]+>", "", str(error)) or type(error).__name__


def formats_of_pillow(data: bytes) -> tuple[str, ...]:
    """Return what Pillow may take some bytes for."""
    kind = formats.kind_by_brand(data)
    if not kind or not formats.is_read(kind):
        return _FORMATS
    if kind == "AVIF":
        return (*_FORMATS, "AVIF")
    import pillow_heif  # here, since few images need it

    pillow_heif.register_heif_opener()
    return (*_FORMATS, "HEIF")


def _other_kind(data: bytes) -> str:
    """Return a clause for the message with the format of bytes that are not a supported image;
    empty if it is not recognized."""
    if data[4:8] == b"ftyp":
        if kind := formats.kind_by_brand(data):
            return f"it is {kind}: {formats.how_to_read(kind)}; "
        return "it is a video or a camera raw file, which has to be converted; "
    name = next(
        (
            kind
            for start, kind in _OTHER_KINDS.items()
            if data[:16].lstrip().lower().startswith(start)
        ),
        None,
    )
    return f"it is {name}; " if name else ""


_OTHER_KINDS = {
    b"%pdf": "a PDF",
    b"<svg": "a drawing in SVG",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cjxl ": "JPEG XL",
    b"\0\0\0\x0cjp  ": "JPEG 2000",
    b"ii*\0": "a TIFF of a kind that is not read",
    b"mm\0*": "a TIFF of a kind that is not read",
    b"version https://": "a Git LFS pointer whose file was not downloaded: git lfs pull",
}


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise CostlyImage(
            f"is absurdly large ({width}x{height}; at most {max_pixels:,} pixels are read)"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise CostlyImage(f"is absurdly narrow ({width}x{height}; at most 1:{MAX_ASPECT} is read)")


def _rgb_pixels(image: Image.Image) -> np.ndarray[Any, Any]:
    """Return the image in RGB, converted a strip at a time: what that takes on the way is several
    times the image."""
    scale = scale_of(image)
    rows = max(1, _STRIP // image.width)
    if rows >= image.height:
        return np.array(_rgb(image, scale))
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, rows):
        bottom = min(image.height, top + rows)
        pixels[top:bottom] = np.asarray(_rgb(image.crop((0, top, image.width, bottom)), scale))
    return pixels


def _rgb(image: Image.Image, scale: Scale | None) -> Image.Image:
    if scale is not None:
        return Image.fromarray(scale.to_8_bits(image)).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, image).convert("RGB")
    return image.convert("RGB")
