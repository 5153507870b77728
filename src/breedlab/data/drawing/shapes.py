"""Colors, curves and limbs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Color = tuple[int, int, int]
Points = NDArray[np.float64]
Values = NDArray[np.float64]
Place = Callable[[Values, Values], Points]

BLACK: Color = (0, 0, 0)
WHITE: Color = (255, 255, 255)
DARK: Color = (34, 26, 28)


def mix(first: Color, second: Color, share: float) -> Color:
    """Return ``first`` mixed with ``share`` (0 to 1) of ``second``."""
    r, g, b = (round(a + (c - a) * share) for a, c in zip(first, second, strict=True))
    return r, g, b


@functools.lru_cache(maxsize=8)
def _basis(steps: int) -> Points:
    t = np.arange(steps) / steps
    weights = [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]
    return np.stack(weights, 1) / 2


@functools.lru_cache(maxsize=64)
def _around(n: int, ring: bool) -> NDArray[np.int64]:
    """Return the indices of the four control points that shape each stretch of a curve."""
    rows = np.arange(n if ring else n - 1)[:, None] + np.arange(-1, 3)
    return rows % n if ring else rows.clip(0, n - 1)


def closed_curve(control: Points, steps: int = 6) -> Points:
    """Return a smooth closed curve through the control points."""
    curve: Points = (_basis(steps) @ control[_around(len(control), True)]).reshape(
        -1, control.shape[1]
    )
    return curve


def _open(control: Points, steps: int = 4) -> Points:
    """Return a smooth open curve through the control points."""
    curve: Points = (_basis(steps) @ control[_around(len(control), False)]).reshape(
        -1, control.shape[1]
    )
    return np.concatenate([curve, control[-1:]])


@functools.lru_cache(maxsize=8)
def unit_ring(n: int) -> Points:
    angle = np.arange(n) * (2 * math.pi / n)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def disc(center: Points, radius: float, n: int = 14) -> Points:
    disc: Points = unit_ring(n) * radius + center
    return disc


def ragged(outline: Points, amount: float, curly: bool) -> Points:
    """Return the outline with tufts (or curls) of hair, ``amount`` long, standing off it."""
    if amount <= 0:
        return outline
    ring = np.concatenate([outline, outline[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(ring, axis=0).T))])
    tufts = max(8, int(along[-1] / (amount * (2.6 if curly else 2.0))))
    k = np.repeat(np.arange(tufts), 4)
    within = np.tile([0.0, 0.25, 0.5, 0.75] if curly else [0.05, 0.3, 0.65, 0.95], tufts)
    at = (k + within + 0.25 * np.sin(k * 2.4)) / tufts * along[-1]
    even = np.stack([np.interp(at, along, ring[:, 0]), np.interp(at, along, ring[:, 1])], 1)
    tangent = np.roll(even, -2, 0) - np.roll(even, 2, 0)
    tangent /= np.maximum(np.hypot(*tangent.T), 1e-9)[:, None]
    # Curls bulge; straight hair ends in a tip and falls away from it.
    height = np.sin(within * math.pi) if curly else np.tile([1.0, 0.62, 0.3, 0.0], tufts)
    out = height * (0.75 + 0.25 * np.sin(k * 5.1)) * amount
    area = np.sum(even[:, 0] * np.roll(even[:, 1], -1) - np.roll(even[:, 0], -1) * even[:, 1])
    hairy: Points = (
        even + np.stack([tangent[:, 1], -tangent[:, 0]], 1) * (out * np.sign(area))[:, None]
    )
    return hairy


@dataclass(frozen=True)
class Tube:
    """A limb: a smooth line with a thickness, and the places along (0 to 1) and across (-1 to 1)
    it."""

    outlines: list[Points]
    left: Points
    right: Points

    def place(self, along: Values, across: Values) -> Points:
        at = np.clip(along, 0.0, 1.0) * (len(self.left) - 1)
        i = np.minimum(at.astype(np.int64), len(self.left) - 2)
        share = (at - i)[:, None]
        left = self.left[i] + (self.left[i + 1] - self.left[i]) * share
        right = self.right[i] + (self.right[i + 1] - self.right[i]) * share
        place: Points = (left + right) / 2 + (left - right) / 2 * across[:, None]
        return place


def tube_through(control: Sequence[Sequence[float]] | Points, fluff: float = 0.0) -> Tube:
    """Return a limb through ``control``, rows of (x, y, radius)."""
    line = _open(np.asarray(control, dtype=np.float64))
    spine, radius = line[:, :2], line[:, 2]
    if fluff > 0:
        radius = radius + fluff * (0.5 + 0.5 * np.sin(np.arange(len(radius)) * 2.1))
    beside = _around(len(line), False)
    tangent = np.concatenate([spine[beside[:, 2]] - spine[beside[:, 0]], spine[-1:] - spine[-2:-1]])
    length = np.sqrt((tangent * tangent).sum(1))
    normal = tangent[:, ::-1] * (-1.0, 1.0) * (radius / np.maximum(length, 1e-9))[:, None]
    left, right = spine + normal, spine - normal
    # Piece by piece: one long outline would cross itself at a sharp knee and leave holes there.
    pieces = np.concatenate([left[:-1], left[1:], right[1:], right[:-1]], 1).reshape(-1, 4, 2)
    ends = [disc(spine[i], radius[i]) for i in (0, -1)]
    return Tube([*pieces, *ends], left, right)


def joint(
    start: Points, end: Points, upper: float, lower: float, bend: float
) -> tuple[Points, Points]:
    """Return the knee and foot of a two-bone leg from ``start`` toward ``end``; ``bend`` is +1 or
    -1."""
    reach = end - start
    far = math.hypot(reach[0], reach[1])
    d = min(max(far, abs(upper - lower) + 1e-3), (upper + lower) * 0.999)
    unit = reach / max(far, 1e-9)
    a = (upper**2 - lower**2 + d**2) / (2 * d)
    h = math.sqrt(max(upper**2 - a**2, 0.0)) * bend
    return start + unit * a + np.array([-unit[1], unit[0]]) * h, start + unit * d
