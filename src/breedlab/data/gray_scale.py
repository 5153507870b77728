"""Gray values of other than 8 unsigned bits, as scanners, microscopes, and satellites have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Scale:
    """How gray values of other than 8 unsigned bits become 8 bits.

    Attributes:
        kind: The numpy type that the file's numbers have, where Pillow reads them as another of
            that size.
        black: The value that becomes 0; or 255 where it is larger than `white`, as in a TIFF whose
            zero is white.
        white: The value that becomes 255.
        nothing: The value that means no measurement, and becomes 0.
    """

    kind: str
    black: float
    white: float
    nothing: float | None

    def values(self, image: Image.Image) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return the file's numbers as floats, NaN where there is none."""
        values = np.asarray(image)
        if self.kind and values.dtype.itemsize == np.dtype(self.kind).itemsize:
            values = values.view(self.kind)
        floats = values.astype(np.float64)
        missing = (
            ~np.isfinite(floats)
            if self.nothing is None
            else ~np.isfinite(floats) | (floats == self.nothing)
        )
        floats[missing] = np.nan
        return floats

    def to_8_bits(self, image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
        span = (self.white - self.black) or 1.0
        scaled = np.nan_to_num((self.values(image) - self.black) / span).clip(0, 1) * 255
        return scaled.round().astype(np.uint8)


def scale_of(image: Image.Image) -> Scale | None:
    """Return how an image of many gray values is scaled to 8 bits; None for one of 8 bits.

    Unsigned numbers of up to 16 bits have a full scale, and a dark image stays dark: 65535 is
    white. Signed numbers, those of 32 bits and floats have none that all programs share: the
    smallest is black and the largest white.
    """
    tags = getattr(image, "tag_v2", {})
    bits, sample = _first(tags.get(_BITS, 16)), _first(tags.get(_SAMPLE_FORMAT, 1))
    many = image.mode.startswith(("I", "F"))
    if not many and not (image.mode == "L" and sample == _SIGNED):
        return None
    kind = ""
    if image.mode == "L":
        kind = "int8"
    elif image.mode == "I" and sample == 1 and bits == 32:
        kind = "uint32"
    if many and image.mode != "F" and sample == 1 and bits <= 16:
        black, white, nothing = 0.0, float(2**bits - 1), None
    else:
        nothing = _no_data(tags)
        values = Scale(kind, 0.0, 1.0, nothing).values(image)
        black, white = (
            (float(np.nanmin(values)), float(np.nanmax(values)))
            if np.isfinite(values).any()
            else (0.0, 1.0)
        )
    inverted = many and tags.get(_PHOTOMETRIC) == 0  # which Pillow undoes for 8 bits alone
    return Scale(kind, white, black, nothing) if inverted else Scale(kind, black, white, nothing)


_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _GDAL_NODATA = 258, 262, 339, 42113
"""Tags of TIFF; the last is GDAL's, of maps and satellites."""
_SIGNED = 2


def _first(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def _no_data(tags: Any) -> float | None:
    try:
        return float(str(tags.get(_GDAL_NODATA)).strip("\0 "))
    except ValueError:
        return None
