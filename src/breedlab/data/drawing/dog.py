"""One dog in one pose, laid out in dog units: x forward, y up, the paws at y = 0, a body about one
unit long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from breedlab.data.drawing.coats import Coat, Mark, zone_coat
from breedlab.data.drawing.shapes import (
    DARK,
    Color,
    Place,
    Points,
    Values,
    closed_curve,
    disc,
    joint,
    mix,
    ragged,
    tube_through,
)

_TONGUE: Color = (226, 116, 124)
_COLLARS: list[Color] = [
    (206, 52, 48), (44, 110, 190), (60, 150, 84), (236, 186, 52), (150, 78, 170), (40, 40, 46),
]  # fmt: skip

# One ear, the near one: (forward, up, sideways) in skull radii around the skull's center.
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

# Tails: the line leaves the rump at an angle (degrees, 0 = straight back, 90 = up), bends by so
# much on its way, and has a length and three radii.
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
class Part:
    """One overlapping piece of a dog; later pieces cover earlier ones."""

    outlines: list[Points]
    ground: Color
    marks: list[Mark] = field(default_factory=list)
    shade: float = 1.0
    flat: bool = False


class Dog:
    """The parts of one dog in one pose, back to front."""

    def __init__(
        self, build: Build, coat: Coat, pose: np.random.Generator, marks: np.random.Generator
    ) -> None:
        self.build, self.coat, self.rng, self.marks = build, coat, pose, marks
        self.parts: list[Part] = []
        self._stance()
        for near in (False, True):
            self._hind_leg(near)
            self._front_leg(near)
            if not near:
                self._tail()
                self._torso()
        self._head()

    def extent(self, head_only: bool = False) -> tuple[Points, Points]:
        """Return the lowest and highest x and y of the dog or of its head."""
        parts = self.parts[self.body_parts :] if head_only else self.parts
        everything = np.concatenate([outline for part in parts for outline in part.outlines])
        return everything.min(0), everything.max(0)

    def _add(self, zone: str, outlines: list[Points], place: Place, shade: float = 1.0) -> None:
        ground, marks = zone_coat(zone, place, self.coat, self.marks)
        self.parts.append(Part(outlines, ground, marks, shade))

    def _stance(self) -> None:
        b, rng = self.build, self.rng
        self.pose = str(
            rng.choice(["stand", "walk", "sit", "lie", "bow"], p=[0.32, 0.26, 0.2, 0.12, 0.1])
        )
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
        outline = ragged(closed_curve(self._body(*shape.T)), b.fluff, b.curly)
        lean = {"sit": 78.0, "bow": 50.0, "lie": 66.0}.get(self.pose, 54.0) + self.rng.normal(0, 8)
        reach = np.array([math.cos(math.radians(lean)), math.sin(math.radians(lean))])
        base = self._body(np.array([0.96]), np.array([0.16]))[0]
        self.skull = base + reach * (b.neck + 0.55 * b.head + 0.25 * b.depth)
        middle = (base + self.skull) / 2
        neck = tube_through(
            [
                (*base, 0.36 * b.depth),
                (*middle, (0.3 * b.depth + 0.7 * b.head) / 2),
                (*self.skull, 0.72 * b.head),
            ],
            b.fluff,
        )
        ground, marks = zone_coat(
            "body", lambda x, y: self._body(x * 1.4 - 0.2, y * 0.52), self.coat, self.marks
        )
        marks += zone_coat("neck", neck.place, self.coat, self.marks)[1]
        if self.rng.uniform() < 0.5:
            color = mix(
                _COLLARS[int(self.rng.integers(len(_COLLARS)))], DARK, self.rng.uniform(0, 0.3)
            )
            band = neck.place(np.array([0.42, 0.42, 0.56, 0.56]), np.array([-1.2, 1.2, 1.2, -1.2]))
            marks.append((band, color))
        self.parts.append(Part([outline, *neck.outlines], ground, marks))

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
        tube = tube_through(np.column_stack([line, radii]), 1.2 * b.fluff)
        outlines = tube.outlines
        if b.tail == "pom":
            outlines = [*outlines, ragged(disc(line[-1], r2), b.fluff, True)]
        self._add("tail", outlines, tube.place, 0.93)

    def _hind_leg(self, near: bool) -> None:
        b = self.build
        shift = self.stride if near else -self.stride
        if self.pose in ("sit", "lie"):
            foot = np.array([0.3 * b.leg + 0.14 + (0.0 if near else 0.07), 0.05])
        else:
            foot = np.array([-0.1 * b.leg + shift, 0.05])
        start = self._body(np.array([0.03]), np.array([-0.08]))[0]
        hock = (
            foot + np.array([-0.14, 0.28]) * (0.4 if self.pose in ("sit", "lie") else 1.0) * b.leg
        )
        knee, hock = joint(start, hock, 0.5 * b.leg, 0.46 * b.leg, 1.0)
        foot = np.array([foot[0], b.limb * 0.8])
        tube = tube_through(
            [
                (*start, 0.34 * b.depth),
                (*knee, 0.2 * b.depth),
                (*hock, b.limb * 0.95),
                (*foot, b.limb * 0.9),
                (foot[0] + 1.3 * b.limb, b.limb * 0.75, b.limb * 0.8),
            ],
            0.5 * b.fluff,
        )
        self._add("leg", tube.outlines, tube.place, 1.0 if near else 0.74)

    def _front_leg(self, near: bool) -> None:
        b = self.build
        shift = -self.stride if near else self.stride
        ahead = {"lie": 0.62, "bow": 0.66}.get(self.pose, 0.0) * b.leg + (0.0 if near else 0.05)
        start = self._body(np.array([0.98]), np.array([-0.14]))[0]
        if self.pose == "sit":
            ahead = 0.06 - 0.1 * b.leg
        foot = np.array([start[0] + ahead + shift, b.limb * 0.8])
        elbow, foot = joint(start, foot, 0.5 * b.leg, 0.54 * b.leg, -1.0)
        foot[1] = b.limb * 0.8
        tube = tube_through(
            [
                (*start, 0.2 * b.depth + 0.3 * b.limb),
                (*elbow, b.limb * 1.2),
                (*foot, b.limb * 0.95),
                (foot[0] + 1.3 * b.limb, b.limb * 0.75, b.limb * 0.8),
            ],
            0.5 * b.fluff,
        )
        self._add("leg", tube.outlines, tube.place, 1.0 if near else 0.74)

    def _head(self) -> None:
        b, rng = self.build, self.rng
        yaw = math.radians(rng.uniform(22, 82))
        tilt = math.radians(rng.normal(0, 9) + (12 if self.pose == "bow" else 0))
        turn = (
            np.array([[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]]) * b.head
        )

        def view(points: Sequence[Sequence[float]] | Points) -> Points:
            """Return points, (forward, up, sideways) around the skull, as seen by the camera, in
            dog units."""
            f, u, s = np.asarray(points, dtype=np.float64).T
            depth = f * math.cos(yaw) + s * math.sin(yaw)
            across = f * math.sin(yaw) - s * math.cos(yaw)
            projected: Points = self.skull + np.stack([across, u - 0.12 * depth], 1) @ turn.T
            return projected

        def on_skull(along: Values, across: Values) -> Points:
            # Along: back to front, which for the camera is across the face.
            x = (along * 2 - 1) * 0.95
            place: Points = self.skull + np.stack([x, across], 1) @ turn.T
            return place

        self.body_parts = len(self.parts)
        self._ear(turn, yaw, near=False)
        skull = ragged(disc(self.skull, b.head, 28), 0.8 * b.fluff, b.curly)
        self._add("skull", [skull], on_skull)
        m = b.muzzle
        snout = view([(0.45, -0.25, 0), (0.75 + 0.45 * m, -0.34, 0), (0.8 + m, -0.38, 0)])
        radii = np.array([0.62, 0.5, 0.42 if m > 0.5 else 0.5]) * b.head
        if rng.uniform() < 0.4:
            tip = view([(0.65 + m, -0.62, 0), (0.8 + m, -1.05, 0)])
            tongue = tube_through(np.column_stack([tip, np.full(2, 0.17 * b.head)]))
            self.parts.append(Part(tongue.outlines, _TONGUE))
        muzzle = tube_through(np.column_stack([snout, radii]))
        self._add("muzzle", muzzle.outlines, muzzle.place)
        # A black dog's black eyes and lips would be lost in its face.
        line, iris = (
            ((126, 112, 108), (176, 116, 52)) if sum(self.coat.base) < 230 else (DARK, (64, 42, 29))
        )
        mouth = view(
            [(1.05 + m, -0.35, 0.05), (0.75 + m, -0.6, 0.25), (0.5 + 0.6 * m, -0.55, 0.42)]
        )
        lips = tube_through(np.column_stack([mouth, np.full(3, 0.035 * b.head)]))
        features = [(piece, line) for piece in lips.outlines]
        sides = [s for s in (0.46, -0.46) if 0.74 * math.cos(yaw) + s * math.sin(yaw) > 0.12]
        spots = [
            ((1.1 + m, -0.14, 0.0), 0.21, DARK),
            ((1.13 + m, -0.07, 0.05), 0.06, (150, 140, 140)),
        ]
        for s in sides:
            spots += [((0.72, 0.2, s), 0.17, iris), ((0.76, 0.2, s), 0.11, (14, 10, 12)),
                      ((0.8, 0.27, s * 0.9), 0.045, (250, 250, 250))]  # fmt: skip
        for at, (_, radius, color) in zip(
            view([place for place, _, _ in spots]), spots, strict=True
        ):
            features.append((disc(at, radius * b.head), color))
        self.parts.append(Part([outline for outline, _ in features], DARK, features, flat=True))
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
        outline = self.skull + closed_curve(np.stack([x, root[1] + u], 1)) @ turn.T
        middle = outline.mean(0)

        def place(along: Values, across: Values) -> Points:
            place: Points = middle + np.stack([along - 0.5, across * 0.5], 1) * b.head
            return place

        hairy = ragged(outline, b.fluff * (1.0 if b.curly else 0.5), b.curly)
        self._add("ear", [hairy], place, 0.96 if near else 0.82)
        if b.ear in ("prick", "bat"):
            inner = mix(self.parts[-1].ground, (222, 150, 140), 0.55)
            self.parts[-1].marks.append((middle + (outline - middle) * 0.56, inner))
