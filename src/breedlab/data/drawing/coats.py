"""Coats: the ground color of each zone of a dog, and the marks on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from breedlab.data.drawing.shapes import Color, Place, Points, closed_curve, mix, unit_ring

Mark = tuple[Points, Color]

# Spots per zone; one that is missing here (the muzzle) stays clear of them.
_MARKS = {"body": 24, "neck": 5, "leg": 5, "tail": 5, "skull": 5, "ear": 3}


@dataclass(frozen=True)
class Coat:
    """Colors and pattern: ``base`` covers the dog, ``accent`` contrasts with it, ``light`` is the
    white."""

    base: Color
    accent: Color
    light: Color
    pattern: str


def _patch(
    place: Place, along: float, across: float, rx: float, ry: float, rng: np.random.Generator
) -> Points:
    """Return an irregular patch around a place, radii in the zone's own units."""
    x, y = (unit_ring(9) * rng.uniform(0.78, 1.2, (9, 1))).T
    return closed_curve(place(along + rx * x, across + ry * y), 4)


def _scatter(
    place: Place, count: int, low: float, high: float, rng: np.random.Generator, rough: float = 0.18
) -> list[Points]:
    """Return ``count`` roundish (or rough) spots, evenly scattered, of radii between ``low`` and
    ``high`` dog units."""
    order = np.arange(count, dtype=np.float64)
    along = (order + rng.uniform(0.0, 1.0, count)) / max(count, 1)
    # The golden ratio spreads them across without the clumps that plain chance would leave.
    across = (rng.uniform() + order * 0.618034) % 1.0 * 1.9 - 0.95
    centers = place(along, across)
    radii = rng.uniform(low, high, (count, 1, 1))
    ring = unit_ring(8) * rng.uniform(1 - rough, 1 + rough, (count, 8, 1))
    return list(centers[:, None] + ring * radii)


def _stripes(place: Place, count: int, rng: np.random.Generator) -> list[Points]:
    """Return wavy stripes from the back down, thinning out toward the belly."""
    down = np.linspace(0.0, 1.0, 5)
    middle = (np.arange(count)[:, None] + rng.uniform(0.25, 0.75, (count, 1))) / count
    across = 1.1 - down * rng.uniform(1.2, 2.1, (count, 1))
    along = middle + (rng.normal(0.0, 0.16, (count, 5)) + (down - 0.5) * 0.35) / count
    half = np.array([0.26, 0.25, 0.2, 0.14, 0.03]) / count
    edges = np.concatenate([along - half, (along + half)[:, ::-1]], 1)
    spots = place(edges.ravel(), np.concatenate([across, across[:, ::-1]], 1).ravel())
    return list(spots.reshape(count, 10, 2))


def zone_coat(
    zone: str, place: Place, coat: Coat, rng: np.random.Generator
) -> tuple[Color, list[Mark]]:
    """Return the ground color of one zone of a dog and the marks on it."""
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
        marks = [
            (spot, tint) for spot in _scatter(place, count * 5, 0.009, 0.019, rng) if zone != "ear"
        ]
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
            marks = [(closed_curve(band), light)]
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
