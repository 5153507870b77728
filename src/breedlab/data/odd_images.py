"""Images unlike the rest by what every image has: its size, shape, brightness, and contrast. They
are found before any network has seen them; `evaluation.outliers` compares what images show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from breedlab.data.layout import listed

_FEWEST = 20
"""Images below which nothing is called unusual."""
_FENCE = 3.0
"""How many interquartile ranges beyond a quartile is "far out" (Tukey 1977)."""
_BLANK = 2.0
"""The standard deviation of gray values, of 255, below which an image shows one color."""
_RARE = 0.05
"""Up to this share of images is unlike the rest; more of a kind belong to the data."""
_SAMPLED = 64
"""Rows and columns that brightness and contrast are taken from."""
_FEW = 3


@dataclass(frozen=True)
class Traits:
    """What every image has.

    Attributes:
        width, height: In pixels.
        brightness: The mean gray value, 0 to 255.
        contrast: The standard deviation of the gray values.
    """

    width: int
    height: int
    brightness: float
    contrast: float


def traits_of(pixels: np.ndarray[Any, Any]) -> Traits:
    """Return the traits of an image, uint8 (height, width, 3)."""
    height, width = pixels.shape[:2]
    some = pixels[:: max(1, height // _SAMPLED), :: max(1, width // _SAMPLED)]
    grays = some.mean(axis=2, dtype=np.float32)
    return Traits(width, height, round(float(grays.mean()), 2), round(float(grays.std()), 2))


@dataclass(frozen=True)
class Odd:
    """One way in which a few images are unlike the rest.

    Attributes:
        what: In words, such as "of one color only".
        paths: The images.
        details: Of each, to be put behind its name; may be empty.
    """

    what: str
    paths: tuple[Path, ...]
    details: tuple[str, ...]

    def describe(self) -> str:
        """Return it in a line."""
        several = "1 image is" if len(self.paths) == 1 else f"{len(self.paths):,} images are"
        pairs = zip(self.paths, self.details, strict=True)
        names = [f"{path}{detail}" for path, detail in pairs]
        return f"{several} {self.what}: {listed(names, _FEW)}"


def odd_images(traits: Mapping[Path, Traits]) -> Iterator[Odd]:
    """Yield each way in which a few images are unlike the rest."""
    if len(traits) < _FEWEST:
        return
    paths = np.array(list(traits), dtype=object)
    table = np.array([(t.width, t.height, t.brightness, t.contrast) for t in traits.values()])
    width, height, brightness, contrast = table.T
    blank = contrast < _BLANK
    shorter = np.minimum(width, height)
    length = np.maximum(width, height) / shorter  # portrait and landscape are one shape
    usual = float(np.median(shorter))
    smaller = _far_out(np.log(shorter), least=np.log(4)) & (shorter < usual)
    sizes = [f" ({w:.0f} x {h:.0f})" for w, h in zip(width, height, strict=True)]
    for odd, what, details in (
        (blank, "of one color only", [""] * len(paths)),
        (
            smaller,
            f"far smaller than the rest (whose shorter side is mostly about {usual:,.0f} pixels)",
            sizes,
        ),
        (
            _far_out(np.log(length), least=np.log(2.5)) & (length > np.median(length)),
            "far longer than wide, or wider than long, unlike the rest",
            sizes,
        ),
        (
            _far_out(brightness, least=60) & ~blank,
            "far darker or lighter than the rest",
            [f" (mean gray {gray:.0f} of 255)" for gray in brightness],
        ),
    ):
        rows = np.flatnonzero(odd)
        if 0 < len(rows) <= _RARE * len(paths):
            yield Odd(what, tuple(paths[rows]), tuple(details[row] for row in rows))


def _far_out(values: np.ndarray[Any, Any], *, least: float) -> np.ndarray[Any, Any]:
    """Return which values are far from the middle of all, and by at least so much."""
    lower, middle, upper = np.quantile(values, [0.25, 0.5, 0.75])
    fence = _FENCE * (upper - lower)
    beyond = (values < lower - fence) | (values > upper + fence)
    return np.asarray(beyond & (np.abs(values - middle) >= least))
