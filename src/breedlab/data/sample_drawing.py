"""How the made-up dogs and the places they stand in are drawn.

Everything about a dog is laid out in dog units first (x forward, y up, the paws at y = 0, a body about one
unit long) and only then scaled into the photo, so that any build fills the frame equally.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Points = NDArray[np.float64]
Values = NDArray[np.float64]
Place = Callable[[Values, Values], Points]
Mark = tuple[Points, Colour]

SUPERSAMPLING = 2
# Pixels around a part that its blurred outline may fade out in.
_MARGIN = 10
_BLACK: Colour = (0, 0, 0)
_WHITE: Colour = (255, 255, 255)
_DARK: Colour = (34, 26, 28)
_TONGUE: Colour = (226, 116, 124)
_COLLARS: list[Colour] = [
    (206, 52, 48), (44, 110, 190), (60, 150, 84), (236, 186, 52), (150, 78, 170), (40, 40, 46),
]  # fmt: skip


@dataclass(frozen=True)
class Coat:
    """Colours and pattern: ``base`` covers the dog, ``accent`` contrasts with it, ``light`` is the white."""

    base: Colour
    accent: Colour
    light: Colour
    pattern: str


@dataclass(frozen=True)
class Build:
    """Proportions in dog units (``muzzle`` and ``ear_size``: in skull radii and as a factor)."""

    leg: float
    length: float
    depth: float
    tuck: float
    neck: float
    head: float
    muzzle: float
    limb: float
    ear: str
    tail: str
    ear_size: float = 1.0
    fluff: float = 0.0
    curly: bool = False


@dataclass(frozen=True)
class _Part:
    """One overlapping piece of a dog; later pieces cover earlier ones."""

    outlines: list[Points]
    ground: Colour
    marks: list[Mark] = field(default_factory=list)
    shade: float = 1.0
    flat: bool = False


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """``first`` with ``share`` (0 to 1) of ``second`` stirred in."""
    r, g, b = (round(a + (c - a) * share) for a, c in zip(first, second, strict=True))
    return r, g, b


# ---------------------------------------------------------------- curves


@functools.lru_cache(maxsize=8)
def _basis(steps: int) -> Points:
    t = np.arange(steps) / steps
    weights = [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]
    return np.stack(weights, 1) / 2


@functools.lru_cache(maxsize=64)
def _around(n: int, ring: bool) -> NDArray[np.int64]:
    """For each stretch of a curve the four control points that shape it."""
    rows = np.arange(n if ring else n - 1)[:, None] + np.arange(-1, 3)
    return rows % n if ring else rows.clip(0, n - 1)


def _closed(control: Points, steps: int = 6) -> Points:
    """A smooth closed curve through the control points."""
    curve: Points = (_basis(steps) @ control[_around(len(control), True)]).reshape(-1, control.shape[1])
    return curve


def _open(control: Points, steps: int = 4) -> Points:
    """A smooth open curve through the control points."""
    curve: Points = (_basis(steps) @ control[_around(len(control), False)]).reshape(-1, control.shape[1])
    return np.concatenate([curve, control[-1:]])


@functools.lru_cache(maxsize=8)
def _ring(n: int) -> Points:
    angle = np.arange(n) * (2 * math.pi / n)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _disc(centre: Points, radius: float, n: int = 14) -> Points:
    disc: Points = _ring(n) * radius + centre
    return disc


def _ragged(outline: Points, amount: float, curly: bool) -> Points:
    """The outline with tufts (or curls) of hair, ``amount`` long, standing off it."""
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
    hairy: Points = even + np.stack([tangent[:, 1], -tangent[:, 0]], 1) * (out * np.sign(area))[:, None]
    return hairy


@dataclass(frozen=True)
class _Tube:
    """A limb: a smooth line with a thickness, and the places along (0 to 1) and across (-1 to 1) it."""

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


def _tube(control: Sequence[Sequence[float]] | Points, fluff: float = 0.0) -> _Tube:
    """A limb through ``control``, rows of (x, y, radius)."""
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
    ends = [_disc(spine[i], radius[i]) for i in (0, -1)]
    return _Tube([*pieces, *ends], left, right)


def _joint(start: Points, end: Points, upper: float, lower: float, bend: float) -> tuple[Points, Points]:
    """Knee and foot of a two-bone leg from ``start`` towards ``end``; ``bend`` is +1 or -1."""
    reach = end - start
    far = math.hypot(reach[0], reach[1])
    d = min(max(far, abs(upper - lower) + 1e-3), (upper + lower) * 0.999)
    unit = reach / max(far, 1e-9)
    a = (upper**2 - lower**2 + d**2) / (2 * d)
    h = math.sqrt(max(upper**2 - a**2, 0.0)) * bend
    return start + unit * a + np.array([-unit[1], unit[0]]) * h, start + unit * d


# ---------------------------------------------------------------- coats

# Spots per zone; one that is missing here (the muzzle) stays clear of them.
_MARKS = {"body": 24, "neck": 5, "leg": 5, "tail": 5, "skull": 5, "ear": 3}


def _patch(place: Place, along: float, across: float, rx: float, ry: float, rng: np.random.Generator) -> Points:
    """An irregular patch around a place, radii in the zone's own units."""
    x, y = (_ring(9) * rng.uniform(0.78, 1.2, (9, 1))).T
    return _closed(place(along + rx * x, across + ry * y), 4)


def _scatter(
    place: Place, count: int, low: float, high: float, rng: np.random.Generator, rough: float = 0.18
) -> list[Points]:
    """``count`` roundish (or rough) spots, evenly strewn, of radii between ``low`` and ``high`` dog units."""
    order = np.arange(count, dtype=np.float64)
    along = (order + rng.uniform(0.0, 1.0, count)) / max(count, 1)
    # The golden ratio spreads them across without the clumps that plain chance would leave.
    across = (rng.uniform() + order * 0.618034) % 1.0 * 1.9 - 0.95
    centres = place(along, across)
    radii = rng.uniform(low, high, (count, 1, 1))
    ring = _ring(8) * rng.uniform(1 - rough, 1 + rough, (count, 8, 1))
    return list(centres[:, None] + ring * radii)


def _stripes(place: Place, count: int, rng: np.random.Generator) -> list[Points]:
    """Wavy stripes from the back down, thinning out towards the belly."""
    down = np.linspace(0.0, 1.0, 5)
    middle = (np.arange(count)[:, None] + rng.uniform(0.25, 0.75, (count, 1))) / count
    across = 1.1 - down * rng.uniform(1.2, 2.1, (count, 1))
    along = middle + (rng.normal(0.0, 0.16, (count, 5)) + (down - 0.5) * 0.35) / count
    half = np.array([0.26, 0.25, 0.2, 0.14, 0.03]) / count
    edges = np.concatenate([along - half, (along + half)[:, ::-1]], 1)
    spots = place(edges.ravel(), np.concatenate([across, across[:, ::-1]], 1).ravel())
    return list(spots.reshape(count, 10, 2))


def _coat(zone: str, place: Place, coat: Coat, rng: np.random.Generator) -> tuple[Colour, list[Mark]]:
    """Ground colour of one zone of a dog and the marks on it."""
    base, accent, light = coat.base, coat.accent, coat.light
    count = _MARKS.get(zone, 0)
    # Ears are a shade deeper, else they would be lost against the cheek.
    ground, marks = mix(base, accent, 0.22) if zone == "ear" else base, []
    if coat.pattern == "solid":
        if zone == "body":
            marks = [(_patch(place, 0.55, -1.1, 0.6, 0.5, rng), mix(base, light, 0.16))]
    elif coat.pattern == "brindle":
        count = {"body": 17, "neck": 5, "skull": 4, "leg": 8, "tail": 8}.get(zone, 0)
        stripes = _stripes(place, count, rng) if count else []
        marks = [(stripe, mix(base, accent, 0.75)) for stripe in stripes]
    elif coat.pattern == "spotted":
        ground = mix(base, light, 0.35)
        marks = [(spot, accent) for spot in _scatter(place, count, 0.026, 0.052, rng)]
    elif coat.pattern == "freckled":
        ground = accent if zone == "ear" else light
        tint = mix(base, accent, 0.35)
        marks = [(spot, tint) for spot in _scatter(place, count * 5, 0.009, 0.019, rng) if zone != "ear"]
    elif coat.pattern == "merle":
        tones = (mix(base, accent, 0.75), mix(base, light, 0.65), accent)
        spots = _scatter(place, count, 0.03, 0.1, rng, 0.45)
        marks = [(spot, tones[i % 3]) for i, spot in enumerate(spots)]
    elif coat.pattern == "pied":
        # A coat that is nearly white itself would not show on white.
        patch = base if sum(light) - sum(base) > 150 else mix(base, accent, 0.65)
        ground = patch if zone == "ear" else light
        at = rng.uniform(-0.08, 0.08, 4)
        if zone == "body":
            marks = [(_patch(place, 0.2 + at[0], 0.4, 0.22, 0.8, rng), patch)]
            marks.append((_patch(place, 0.75 + at[1], 0.5 + at[2], 0.19, 0.75, rng), patch))
        elif zone == "skull":
            marks = [(_patch(place, 0.45 + at[3], 0.3, 0.42, 0.7, rng), patch)]
        elif zone == "tail":
            marks = [(_patch(place, 0.0, 0.0, 0.4, 1.5, rng), patch)]
    elif coat.pattern == "saddled":
        if zone == "body":
            marks = [(_patch(place, 0.5, 1.0, 0.52, 1.05, rng), accent)]
        elif zone in ("neck", "tail"):
            marks = [(_patch(place, 0.0, 0.8, 0.75, 0.9, rng), accent)]
    elif coat.pattern == "masked":
        ground = accent if zone in ("ear", "muzzle") else base
        if zone == "skull":
            marks = [(_patch(place, 0.95, -0.35, 0.42, 0.85, rng), accent)]
    elif coat.pattern == "belted":
        if zone == "body":
            along = np.array([0.36, 0.68, 0.7, 0.34]) + rng.uniform(-0.05, 0.05)
            band = place(along, np.array([1.6, 1.6, -1.6, -1.6]))
            marks = [(_closed(band), light)]
    elif coat.pattern == "socked":
        ground = light if zone == "muzzle" else base
        if zone == "leg":
            marks = [(_patch(place, 1.0, 0.0, 0.42, 2.5, rng), light)]
        elif zone == "tail":
            marks = [(_patch(place, 1.0, 0.0, 0.32, 3.0, rng), light)]
        elif zone == "body":
            marks = [(_patch(place, 1.0, -0.7, 0.25, 0.8, rng), light)]
        elif zone == "skull":
            marks = [(_patch(place, 0.85, 0.35, 0.12, 0.95, rng), light)]
    else:
        raise ValueError(f"unknown coat pattern {coat.pattern!r}")
    return ground, marks


# ---------------------------------------------------------------- dogs

# One ear, the near one: (forward, up, sideways) in skull radii around the skull's centre.
_EARS: dict[str, list[tuple[float, float, float]]] = {
    "prick": [(-0.6, 0.4, 0.8), (-0.5, 1.1, 0.9), (-0.24, 1.8, 0.75), (-0.16, 1.82, 0.7), (0.14, 1.25, 0.4),
              (0.3, 0.75, 0.25), (-0.1, 0.3, 0.5)],
    "drop": [(-0.4, 0.75, 0.55), (0.1, 0.72, 0.7), (0.2, 0.2, 0.98), (0.0, -0.6, 1.05), (-0.35, -0.75, 1.0),
             (-0.65, -0.1, 0.9), (-0.65, 0.45, 0.75)],
    "long": [(-0.45, 0.5, 0.7), (0.05, 0.55, 0.8), (0.2, -0.2, 1.0), (0.2, -1.2, 1.15), (-0.15, -1.6, 1.15),
             (-0.6, -1.2, 1.05), (-0.7, -0.2, 0.95)],
    "button": [(-0.5, 0.5, 0.75), (-0.4, 1.05, 0.65), (0.1, 1.15, 0.4), (0.6, 0.75, 0.6), (0.6, 0.3, 0.9),
               (0.1, 0.5, 0.95)],
    "bat": [(-0.45, 0.35, 0.8), (-0.55, 1.0, 0.95), (-0.4, 1.5, 0.95), (-0.1, 1.6, 0.85), (0.12, 1.25, 0.6),
            (0.2, 0.75, 0.35), (-0.1, 0.35, 0.5)],
    "rose": [(0.0, 0.75, 0.5), (-0.5, 1.0, 0.65), (-1.25, 0.7, 0.85), (-1.35, 0.45, 0.85), (-0.7, 0.3, 0.85),
             (-0.1, 0.35, 0.8)],
    "puff": [(-0.4, 0.95, 0.45), (0.15, 0.75, 0.8), (0.35, -0.1, 1.1), (0.1, -0.95, 1.2), (-0.5, -1.05, 1.15),
             (-0.95, -0.2, 1.0), (-0.75, 0.55, 0.75)],
}  # fmt: skip

# Tails: the line leaves the rump at an angle (degrees, 0 = straight back, 90 = up), bends by so much on its
# way, and has a length and three radii.
_TAILS: dict[str, tuple[float, float, float, tuple[float, float, float]]] = {
    "straight": (18, 10, 0.62, (0.05, 0.035, 0.012)),
    "curl": (100, -250, 0.75, (0.07, 0.13, 0.08)),
    "sabre": (50, 45, 0.6, (0.06, 0.05, 0.02)),
    "stub": (75, 5, 0.22, (0.06, 0.055, 0.04)),
    "brush": (-35, -25, 0.72, (0.06, 0.13, 0.03)),
    "feather": (5, 35, 0.68, (0.06, 0.12, 0.03)),
    "whip": (-30, 60, 0.66, (0.04, 0.028, 0.014)),
    "pom": (60, 15, 0.42, (0.045, 0.035, 0.12)),
}


class _Dog:
    """Lays out the parts of one dog in one pose, back to front."""

    def __init__(self, build: Build, coat: Coat, pose: np.random.Generator, marks: np.random.Generator) -> None:
        self.build, self.coat, self.rng, self.marks = build, coat, pose, marks
        self.parts: list[_Part] = []
        self._stance()
        for near in (False, True):
            self._hind_leg(near)
            self._front_leg(near)
            if not near:
                self._tail()
                self._torso()
        self._head()

    def extent(self, head_only: bool = False) -> tuple[Points, Points]:
        """Lowest and highest x and y of the dog or of its head."""
        parts = self.parts[self.body_parts :] if head_only else self.parts
        everything = np.concatenate([outline for part in parts for outline in part.outlines])
        return everything.min(0), everything.max(0)

    def _add(self, zone: str, outlines: list[Points], place: Place, shade: float = 1.0) -> None:
        ground, marks = _coat(zone, place, self.coat, self.marks)
        self.parts.append(_Part(outlines, ground, marks, shade))

    def _stance(self) -> None:
        b, rng = self.build, self.rng
        self.pose = str(rng.choice(["stand", "walk", "sit", "lie", "bow"], p=[0.32, 0.26, 0.2, 0.12, 0.1]))
        tall, low = b.leg + 0.12 * b.depth, 0.46 * b.depth
        hip = low if self.pose in ("sit", "lie") else tall
        shoulder = low + 0.03 if self.pose in ("lie", "bow") else tall + 0.02
        rise = float(np.clip(shoulder - hip + rng.normal(0, 0.01), -0.8 * b.length, 0.8 * b.length))
        self.hip = np.array([0.0, hip])
        self.axis = np.array([math.sqrt(b.length**2 - rise**2), rise])
        self.up = np.array([-self.axis[1], self.axis[0]]) / b.length * b.depth
        self.stride = float(rng.uniform(-1, 1)) * (0.42 if self.pose == "walk" else 0.1) * b.leg

    def _body(self, along: Values, across: Values) -> Points:
        place: Points = self.hip + along[:, None] * self.axis + across[:, None] * self.up
        return place

    def _torso(self) -> None:
        b = self.build
        shape = np.array([
            (-0.2, 0.02), (-0.19, 0.3), (-0.04, 0.47), (0.3, 0.46), (0.7, 0.48), (1.0, 0.52), (1.17, 0.3),
            (1.19, -0.05), (1.08, -0.42), (0.8, -0.56), (0.45, -0.48 + b.tuck), (0.15, -0.36 + 1.3 * b.tuck),
            (-0.08, -0.3),
        ])  # fmt: skip
        outline = _ragged(_closed(self._body(*shape.T)), b.fluff, b.curly)
        lean = {"sit": 78.0, "bow": 50.0, "lie": 66.0}.get(self.pose, 54.0) + self.rng.normal(0, 8)
        reach = np.array([math.cos(math.radians(lean)), math.sin(math.radians(lean))])
        base = self._body(np.array([0.96]), np.array([0.16]))[0]
        self.skull = base + reach * (b.neck + 0.55 * b.head + 0.25 * b.depth)
        middle = (base + self.skull) / 2
        neck = _tube([(*base, 0.36 * b.depth), (*middle, (0.3 * b.depth + 0.7 * b.head) / 2),
                      (*self.skull, 0.72 * b.head)], b.fluff)  # fmt: skip
        ground, marks = _coat("body", lambda x, y: self._body(x * 1.4 - 0.2, y * 0.52), self.coat, self.marks)
        marks += _coat("neck", neck.place, self.coat, self.marks)[1]
        if self.rng.uniform() < 0.5:
            colour = mix(_COLLARS[int(self.rng.integers(len(_COLLARS)))], _DARK, self.rng.uniform(0, 0.3))
            band = neck.place(np.array([0.42, 0.42, 0.56, 0.56]), np.array([-1.2, 1.2, 1.2, -1.2]))
            marks.append((band, colour))
        self.parts.append(_Part([outline, *neck.outlines], ground, marks))

    def _tail(self) -> None:
        b = self.build
        angle, bend, length, (r0, r1, r2) = _TAILS[b.tail]
        slope = math.degrees(math.atan2(self.axis[1], self.axis[0]))
        angle = angle - 0.6 * slope + self.rng.normal(0, 10)
        steps = np.radians(angle + bend * np.linspace(0, 1, 5))
        line = np.cumsum(np.stack([-np.cos(steps), np.sin(steps)], 1) * length / 5, 0)
        start = self._body(np.array([-0.12]), np.array([0.28]))[0]
        line = np.concatenate([start[None], start + line])
        radii = np.interp(np.linspace(0, 1, 6), [0, 0.55, 1], [r0, r1, r2])
        line[:, 1] = np.maximum(line[:, 1], radii * 0.8)
        tube = _tube(np.column_stack([line, radii]), 1.2 * b.fluff)
        outlines = tube.outlines
        if b.tail == "pom":
            outlines = [*outlines, _ragged(_disc(line[-1], r2), b.fluff, True)]
        self._add("tail", outlines, tube.place, 0.93)

    def _hind_leg(self, near: bool) -> None:
        b = self.build
        shift = self.stride if near else -self.stride
        if self.pose in ("sit", "lie"):
            foot = np.array([0.3 * b.leg + 0.14 + (0.0 if near else 0.07), 0.05])
        else:
            foot = np.array([-0.1 * b.leg + shift, 0.05])
        start = self._body(np.array([0.03]), np.array([-0.08]))[0]
        hock = foot + np.array([-0.14, 0.28]) * (0.4 if self.pose in ("sit", "lie") else 1.0) * b.leg
        knee, hock = _joint(start, hock, 0.5 * b.leg, 0.46 * b.leg, 1.0)
        foot = np.array([foot[0], b.limb * 0.8])
        tube = _tube([(*start, 0.34 * b.depth), (*knee, 0.2 * b.depth), (*hock, b.limb * 0.95),
                      (*foot, b.limb * 0.9), (foot[0] + 1.3 * b.limb, b.limb * 0.75, b.limb * 0.8)],
                     0.5 * b.fluff)  # fmt: skip
        self._add("leg", tube.outlines, tube.place, 1.0 if near else 0.74)

    def _front_leg(self, near: bool) -> None:
        b = self.build
        shift = -self.stride if near else self.stride
        ahead = {"lie": 0.62, "bow": 0.66}.get(self.pose, 0.0) * b.leg + (0.0 if near else 0.05)
        start = self._body(np.array([0.98]), np.array([-0.14]))[0]
        if self.pose == "sit":
            ahead = 0.06 - 0.1 * b.leg
        foot = np.array([start[0] + ahead + shift, b.limb * 0.8])
        elbow, foot = _joint(start, foot, 0.5 * b.leg, 0.54 * b.leg, -1.0)
        foot[1] = b.limb * 0.8
        tube = _tube([(*start, 0.2 * b.depth + 0.3 * b.limb), (*elbow, b.limb * 1.2), (*foot, b.limb * 0.95),
                      (foot[0] + 1.3 * b.limb, b.limb * 0.75, b.limb * 0.8)], 0.5 * b.fluff)  # fmt: skip
        self._add("leg", tube.outlines, tube.place, 1.0 if near else 0.74)

    def _head(self) -> None:
        b, rng = self.build, self.rng
        yaw = math.radians(rng.uniform(22, 82))
        tilt = math.radians(rng.normal(0, 9) + (12 if self.pose == "bow" else 0))
        turn = np.array([[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]]) * b.head

        def view(points: Sequence[Sequence[float]] | Points) -> Points:
            """(forward, up, sideways) around the skull, seen by the camera, in dog units."""
            f, u, s = np.asarray(points, dtype=np.float64).T
            depth = f * math.cos(yaw) + s * math.sin(yaw)
            across = f * math.sin(yaw) - s * math.cos(yaw)
            seen: Points = self.skull + np.stack([across, u - 0.12 * depth], 1) @ turn.T
            return seen

        def on_skull(along: Values, across: Values) -> Points:
            # Along: back to front, which for the camera is across the face.
            x = (along * 2 - 1) * 0.95
            place: Points = self.skull + np.stack([x, across], 1) @ turn.T
            return place

        self.body_parts = len(self.parts)
        self._ear(turn, yaw, near=False)
        skull = _ragged(_disc(self.skull, b.head, 28), 0.8 * b.fluff, b.curly)
        self._add("skull", [skull], on_skull)
        m = b.muzzle
        snout = view([(0.45, -0.25, 0), (0.75 + 0.45 * m, -0.34, 0), (0.8 + m, -0.38, 0)])
        radii = np.array([0.62, 0.5, 0.42 if m > 0.5 else 0.5]) * b.head
        if rng.uniform() < 0.4:
            tip = view([(0.65 + m, -0.62, 0), (0.8 + m, -1.05, 0)])
            tongue = _tube(np.column_stack([tip, np.full(2, 0.17 * b.head)]))
            self.parts.append(_Part(tongue.outlines, _TONGUE))
        muzzle = _tube(np.column_stack([snout, radii]))
        self._add("muzzle", muzzle.outlines, muzzle.place)
        # A black dog's black eyes and lips would be lost in its face.
        line, iris = ((126, 112, 108), (176, 116, 52)) if sum(self.coat.base) < 230 else (_DARK, (64, 42, 29))
        mouth = view([(1.05 + m, -0.35, 0.05), (0.75 + m, -0.6, 0.25), (0.5 + 0.6 * m, -0.55, 0.42)])
        lips = _tube(np.column_stack([mouth, np.full(3, 0.035 * b.head)]))
        features = [(piece, line) for piece in lips.outlines]
        sides = [s for s in (0.46, -0.46) if 0.74 * math.cos(yaw) + s * math.sin(yaw) > 0.12]
        spots = [((1.1 + m, -0.14, 0.0), 0.21, _DARK), ((1.13 + m, -0.07, 0.05), 0.06, (150, 140, 140))]
        for s in sides:
            spots += [((0.72, 0.2, s), 0.17, iris), ((0.76, 0.2, s), 0.11, (14, 10, 12)),
                      ((0.8, 0.27, s * 0.9), 0.045, (250, 250, 250))]  # fmt: skip
        for at, (_, radius, colour) in zip(view([place for place, _, _ in spots]), spots, strict=True):
            features.append((_disc(at, radius * b.head), colour))
        self.parts.append(_Part([outline for outline, _ in features], _DARK, features, flat=True))
        self._ear(turn, yaw, near=True)

    def _ear(self, turn: Points, yaw: float, near: bool) -> None:
        b = self.build
        side = 1.0 if near else -1.0
        shape = np.array(_EARS[b.ear])
        root = np.array([shape[:, 0].mean(), 0.6, shape[:, 2].mean()])
        f, u, s = ((shape - root) * b.ear_size).T
        # Ears are cups, not boards: they never show their edge, so this is not a true projection.
        facing = (0.6 + 0.4 * math.sin(yaw)) * (1.0 if near or yaw > 0.9 else -1.0)
        x = root[0] * math.sin(yaw) + f * facing - side * math.cos(yaw) * (root[2] + 0.8 * s)
        outline = self.skull + _closed(np.stack([x, root[1] + u], 1)) @ turn.T
        middle = outline.mean(0)

        def place(along: Values, across: Values) -> Points:
            place: Points = middle + np.stack([along - 0.5, across * 0.5], 1) * b.head
            return place

        hairy = _ragged(outline, b.fluff * (1.0 if b.curly else 0.5), b.curly)
        self._add("ear", [hairy], place, 0.96 if near else 0.82)
        if b.ear in ("prick", "bat"):
            inner = mix(self.parts[-1].ground, (222, 150, 140), 0.55)
            self.parts[-1].marks.append((middle + (outline - middle) * 0.56, inner))


def _paint(part: _Part, photo: Image.Image, to_pixels: Callable[[Points], Points], reach: float, sun: float) -> None:
    """Put one part on the photo, rounded by light from above and from ``sun``, ``reach`` pixels deep."""
    shapes = [*part.outlines, *(outline for outline, _ in part.marks)]
    ends = np.cumsum([len(shape) for shape in shapes]).tolist()
    pixels = to_pixels(np.concatenate(shapes))
    own = pixels[: ends[len(part.outlines) - 1]]
    x0, y0 = (max(math.floor(v), 0) - _MARGIN for v in own.min(0).tolist())
    x1, y1 = (min(math.ceil(v), photo.width) + _MARGIN for v in own.max(0).tolist())
    if x1 - x0 <= 2 * _MARGIN or y1 - y0 <= 2 * _MARGIN:
        return  # Wholly outside the frame.
    size = ((x1 - x0) * SUPERSAMPLING, (y1 - y0) * SUPERSAMPLING)
    flat = ((pixels - (x0, y0)) * SUPERSAMPLING).ravel().tolist()
    polygons = [flat[2 * start : 2 * end] for start, end in zip([0, *ends], ends, strict=False)]
    mask, coat = Image.new("L", size), Image.new("RGB", size, mix(_BLACK, part.ground, part.shade))
    pen = ImageDraw.Draw(mask)
    for polygon in polygons[: len(part.outlines)]:
        pen.polygon(polygon, fill=255)
    pen = ImageDraw.Draw(coat)
    for polygon, (_, colour) in zip(polygons[len(part.outlines) :], part.marks, strict=True):
        pen.polygon(polygon, fill=mix(_BLACK, colour, part.shade))
    mask, coat = mask.reduce(SUPERSAMPLING), coat.reduce(SUPERSAMPLING)
    if not part.flat:
        # How far the blurred outline leans towards the light stands in for the slope of a round body.
        soft = mask.reduce(2).filter(ImageFilter.BoxBlur(max(reach / 2, 0.5)))
        dx, dy = round(sun * reach / 2), max(round(reach / 2), 1)
        lit, dim = ImageChops.offset(soft, dx, dy), ImageChops.offset(soft, -dx, -dy)
        lean = ImageChops.subtract(lit, dim, 2.2, 122)
        lean = lean.resize(mask.size, Image.Resampling.BILINEAR)
        coat = ImageChops.soft_light(coat, Image.merge("RGB", (lean, lean, lean)))
    photo.paste(coat, (x0, y0), mask)


def draw_photo(build: Build, coat: Coat, seed: int, size: int) -> Image.Image:
    """A photo of one dog somewhere.

    Args:
        build: What the dog is shaped like.
        coat: What it is coloured like.
        seed: Chooses pose, place, light and the individual's markings; at least 0.
        size: Side of the photo in pixels.

    Returns:
        An RGB image, ``size`` x ``size``.
    """
    # Streams of their own, so that the same seed gives every breed the same place and light.
    where, pose, marks, look = (np.random.default_rng([seed, stream]) for stream in range(4))
    photo, light = _scene(where, size)
    dog = _Dog(build, coat, pose, marks)
    portrait, zoom, across, floor, drop, sun = where.uniform(0, 1, 6).tolist()
    low, high = dog.extent()
    wide, tall = (high - low).tolist()
    floor = size * (0.86 + 0.11 * floor)
    if portrait < 0.22:
        # Head and chest fill the frame, the rest runs out of it.
        low, high = dog.extent(head_only=True)
        scale = size * (0.5 + 0.18 * zoom) / float(max(high - low))
        floor = size * (0.38 + 0.1 * drop) + scale * float((low + high)[1]) / 2
        slack = 0.4 * (size - float((high - low)[0]) * scale)
    else:
        scale = size * (0.7 + 0.27 * zoom) / max(wide, tall)
        floor = max(floor, (tall + 0.02) * scale)
        slack = max(size - wide * scale, 0.1 * size)
    centre = size / 2 + slack * (across - 0.5) * 0.84
    sideways = scale if where.uniform() < 0.5 else -scale
    flip, shift = (sideways, -scale), np.array([centre - sideways * float((low + high)[0]) / 2, floor])

    def to_pixels(points: Points) -> Points:
        pixels: Points = points * flip + shift
        return pixels

    sun = 1.6 * sun - 0.8
    shadow = Image.new("L", (size, size))
    x, half = centre + 0.1 * sun * size, wide * scale / 2
    ImageDraw.Draw(shadow).ellipse((x - half, floor - 0.05 * size, x + half, floor + 0.035 * size), fill=120)
    photo.paste((22, 24, 34), (0, 0), shadow.filter(ImageFilter.BoxBlur(size / 50)))
    for part in dog.parts:
        _paint(part, photo, to_pixels, 0.045 * scale, sun)
    return _develop(photo, light, look)


def _develop(photo: Image.Image, light: Values, rng: np.random.Generator) -> Image.Image:
    """The hour's light and the camera's weaknesses."""
    size = photo.width
    if rng.uniform() < 0.4:
        photo = photo.filter(ImageFilter.BoxBlur(float(rng.uniform(0.2, 0.9)) * size / 192))
    warmth = rng.normal(0, 0.08)
    tint = light * rng.uniform(0.72, 1.16) * (1 + warmth, 1.0, 1 - warmth)
    ramp = np.linspace(-1, 1, size)
    across, down = 1 + rng.uniform(-0.16, 0.16, (2, 1)) * ramp
    # Rows of 3 * size numbers: several times as fast as sums over a last axis of length 3.
    pixels = np.asarray(photo).reshape(size, 3 * size).astype(np.float32)
    pixels *= (across[:, None] * tint).reshape(1, -1).astype(np.float32)
    pixels *= down[:, None].astype(np.float32)
    grain = rng.integers(-128, 128, (size, size), dtype=np.int8) * np.float32(rng.uniform(1.0, 5.0) / 74)
    pixels += np.repeat(grain, 3, axis=1)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8).reshape(size, size, 3))


# ---------------------------------------------------------------- places

_WALLS: list[Colour] = [
    (226, 206, 176), (160, 190, 186), (206, 168, 158), (176, 182, 206), (222, 218, 206), (140, 160, 130),
]  # fmt: skip
_LEAVES: list[Colour] = [(214, 120, 40), (232, 170, 60), (176, 70, 44), (140, 140, 60)]
_FLOWERS: list[Colour] = [(250, 250, 240), (250, 210, 70), (232, 120, 140), (170, 130, 220)]


def _near(colour: Colour, rng: np.random.Generator, by: float = 14) -> Colour:
    """A colour close to another one."""
    r, g, b = (min(max(round(v + d), 0), 255) for v, d in zip(colour, rng.normal(0, by, 3), strict=True))
    return r, g, b


class _Canvas:
    """An empty place in the making. Every position and length is a share of its side, from the top left."""

    def __init__(self, size: int, rng: np.random.Generator, *stops: tuple[float, Colour]) -> None:
        """Fill with the colours that ``stops`` give for some heights, and blends in between."""
        heights, colours = zip(*stops, strict=True)
        rows = np.linspace(0, 1, size)
        column = np.stack([np.interp(rows, heights, band) for band in zip(*colours, strict=True)], 1)
        self.image = Image.fromarray(np.rint(column).astype(np.uint8)[:, None]).resize((size, size))
        self.size, self.rng, self.pen = size, rng, ImageDraw.Draw(self.image)

    def oval(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self.pen.ellipse([v * self.size for v in (x0, y0, x1, y1)], fill=colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self.pen.rectangle([v * self.size for v in (x0, y0, x1, y1)], fill=colour)

    def line(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, width: float = 0.008) -> None:
        ends = [v * self.size for v in (x0, y0, x1, y1)]
        self.pen.line(ends, fill=colour, width=max(1, round(width * self.size)))

    def shape(self, corners: Sequence[tuple[float, float]], colour: Colour) -> None:
        self.pen.polygon([v * self.size for corner in corners for v in corner], fill=colour)

    def hill(self, y: float, height: float, colour: Colour) -> None:
        """A ridge that rises up to ``height`` over ``y``."""
        x = np.linspace(0, 1, 12)
        waves = 0.5 + 0.5 * np.sin(x * self.rng.uniform(3, 9) + self.rng.uniform(0, 6))
        ridge = list(zip(x.tolist(), (y - height * waves).tolist(), strict=True))
        self.shape([*ridge, (1, y + 0.01), (0, y + 0.01)], colour)

    def dots(self, count: int, top: float, bottom: float, radius: float, colours: Sequence[Colour]) -> None:
        """Discs strewn between two heights, nearer ones (lower down) larger."""
        for i, (x, y, grow) in enumerate(self.rng.uniform(0, 1, (count, 3)).tolist()):
            r, y0 = radius * (0.4 + 0.6 * y) * (0.6 + 0.8 * grow), top + (bottom - top) * y
            self.oval(x - r, y0 - r, x + r, y0 + r, colours[i % len(colours)])


def _meadow(size: int, y: float, rng: np.random.Generator) -> Image.Image:
    sky, far, grass = _near((120, 178, 232), rng), _near((212, 230, 240), rng), _near((112, 160, 70), rng)
    shade, sunny = mix(grass, (30, 80, 30), 0.4), mix(grass, (190, 210, 110), 0.4)
    c = _Canvas(size, rng, (0, sky), (y, far), (y, mix(grass, far, 0.25)), (1, mix(grass, (20, 50, 20), 0.35)))
    for x, top, w in rng.uniform((0, 0.05, 0.06), (1, y - 0.12, 0.13), (3, 3)).tolist():
        for step, rise in ((-0.8, 0.35), (0.8, 0.35), (0.0, 0.5)):
            left = x + (step - 1) * w
            c.oval(left, top - rise * w, left + 2 * w, top + 0.3 * w, mix(far, _WHITE, 0.7))
    c.hill(y, 0.16, mix(grass, sky, 0.5))
    c.hill(y, 0.08, mix(grass, (30, 70, 40), 0.35))
    for x, foot, lean in rng.uniform((0, y, -0.04), (1, 1.05, 0.04), (90, 3)).tolist():
        c.line(x, foot, x + lean, foot - 0.03 - 0.05 * (foot - y), shade if lean > 0 else sunny)
    c.dots(int(rng.integers(0, 26)), y + 0.04, 1.0, 0.011, _FLOWERS)
    return c.image


def _snow(size: int, y: float, rng: np.random.Generator) -> Image.Image:
    sky, snow, green = (
        _near((150, 176, 206), rng, 18),
        _near((236, 241, 248), rng, 5),
        _near((52, 88, 80), rng),
    )
    blue = mix(snow, (150, 175, 215), 0.45)
    c = _Canvas(size, rng, (0, sky), (y, mix(sky, snow, 0.7)), (y, snow), (1, blue))
    c.hill(y, 0.2, mix(sky, snow, 0.4))
    for x, tall in rng.uniform((0, 0.14), (1, 0.36), (9, 2)).tolist():
        for tier in range(3):
            top, w = y + 0.02 - tall * (1 - tier * 0.26), tall * (0.13 + 0.08 * tier)
            bough = [(x, top), (x - w, top + tall * 0.42), (x + w, top + tall * 0.42)]
            c.shape(bough, mix(green, snow, 0.4 - 0.2 * tier))
    c.dots(60, 0.0, 1.0, 0.008, [_WHITE])
    return c.image


def _beach(size: int, y: float, rng: np.random.Generator) -> Image.Image:
    sky, sea, sand = (
        _near((130, 196, 236), rng),
        _near((40, 134, 170), rng, 18),
        _near((226, 200, 150), rng),
    )
    top, shore = y - 0.06, y + 0.12
    water = [(top, sea), (shore - 0.02, mix(sea, (160, 230, 220), 0.6)), (shore, (246, 250, 246))]
    beach = [(shore + 0.02, sand), (1.0, mix(sand, (150, 110, 70), 0.25))]
    c = _Canvas(size, rng, (0, sky), (top, mix(sky, (255, 240, 220), 0.7)), *water, *beach)
    for x, at in rng.uniform((0, y - 0.05), (1, y + 0.08), (14, 2)).tolist():
        c.line(x, at, x + 0.12, at, mix(sea, _WHITE, 0.5))
    if rng.uniform() < 0.6:
        x, cloth = float(rng.uniform(0.1, 0.9)), _near((226, 92, 80), rng, 40)
        c.line(x, y - 0.34, x, shore + 0.06, (240, 236, 226), 0.016)
        parasol = [v * size for v in (x - 0.17, y - 0.34, x + 0.17, y - 0.08)]
        for i in range(6):
            c.pen.pieslice(parasol, 180 + i * 30, 210 + i * 30, fill=cloth if i % 2 else (248, 244, 236))
    c.dots(40, shore + 0.05, 1.0, 0.007, [mix(sand, _DARK, 0.3), mix(sand, _WHITE, 0.5)])
    return c.image


def _room(size: int, y: float, rng: np.random.Generator) -> Image.Image:
    wall, wood = _near(_WALLS[int(rng.integers(len(_WALLS)))], rng), _near((168, 118, 76), rng)
    rug, y = _near((176, 84, 80), rng, 30), y + 0.08
    front = mix(wood, (240, 200, 150), 0.3)
    c = _Canvas(size, rng, (0, wall), (y, mix(wall, _DARK, 0.12)), (y, wood), (1, front))
    for away in np.linspace(-1, 1, 23).tolist():
        c.line(0.5 + 0.7 * away, y, 0.5 + 2.2 * away, 1, mix(wood, _DARK, 0.3), 0.006)
    c.box(0, y - 0.035, 1, y, mix(wall, _WHITE, 0.6))
    x, w = rng.uniform((0.02, 0.2), (0.65, 0.3)).tolist()
    c.box(x, 0.06, x + w, 0.06 + w * 1.1, (246, 242, 232))
    c.box(x + 0.02, 0.08, x + w - 0.02, 0.04 + w * 1.1, _near((150, 196, 224), rng, 40))
    c.oval(x + 0.07, 0.14, x + 0.15, 0.22, _near((240, 210, 120), rng, 25))
    for inset, colour in ((0.0, rug), (0.06, mix(rug, (250, 236, 210), 0.6)), (0.08, rug)):
        c.oval(inset - 0.05, y + 0.12 + inset / 2, 1.05 - inset, 1.08 - inset / 2, colour)
    return c.image


def _night(size: int, y: float, rng: np.random.Generator) -> Image.Image:
    sky, land = _near((34, 44, 92), rng, 10), _near((58, 84, 92), rng, 10)
    dusk, dark = mix(sky, (150, 120, 170), 0.55), mix(land, (14, 22, 44), 0.5)
    c = _Canvas(size, rng, (0, sky), (y, dusk), (y, land), (1, dark))
    c.dots(45, 0.0, y - 0.1, 0.006, [(255, 250, 220), (200, 210, 250)])
    x, top = rng.uniform((0.05, 0.02), (0.8, 0.18)).tolist()
    c.oval(x, top, x + 0.14, top + 0.14, (252, 244, 212))
    c.hill(y, 0.16, mix(sky, land, 0.5))
    for x, tall in rng.uniform((0, 0.05), (1, 0.1), (6, 2)).tolist():
        c.box(x, y - tall, x + 0.09, y + 0.01, mix(sky, _DARK, 0.5))
        c.box(x + 0.03, y - tall * 0.6, x + 0.05, y - tall * 0.3, (255, 214, 120))
    return c.image


def _woods(size: int, y: float, rng: np.random.Generator) -> Image.Image:
    haze, soil = _near((244, 214, 160), rng), _near((158, 104, 60), rng)
    floor, front = mix(soil, haze, 0.3), mix(soil, _DARK, 0.3)
    c = _Canvas(size, rng, (0, mix(haze, _WHITE, 0.3)), (y, haze), (y, floor), (1, front))
    leaves = [_near(leaf, rng) for leaf in _LEAVES]
    for x, w in rng.uniform((0, 0.02), (1, 0.05), (7, 2)).tolist():
        # Thin trunks are far away, where the haze swallows them.
        c.box(x, 0, x + w, y + w, mix((92, 66, 54), haze, max(0.9 - w * 18, 0.0)))
    c.dots(46, 0.0, 0.3, 0.075, leaves)
    c.dots(80, y + 0.02, 1.02, 0.014, leaves)
    return c.image


# Each with the colour of its light: what white looks like there.
_PLACES: list[tuple[Callable[[int, float, np.random.Generator], Image.Image], tuple[float, float, float]]] = [
    (_meadow, (1.0, 1.0, 0.97)),
    (_snow, (0.95, 0.98, 1.04)),
    (_beach, (1.04, 1.0, 0.94)),
    (_room, (1.02, 0.96, 0.86)),
    (_night, (0.88, 0.92, 1.04)),
    (_woods, (1.04, 0.97, 0.86)),
]


def _scene(rng: np.random.Generator, size: int) -> tuple[Image.Image, Values]:
    """An empty place, out of focus, and the colour of its light."""
    place, light = _PLACES[int(rng.integers(len(_PLACES)))]
    horizon, blur = rng.uniform((0.46, 0.6), (0.66, 2.6)).tolist()
    return place(size, horizon, rng).filter(ImageFilter.BoxBlur(blur * size / 192)), np.array(light)
