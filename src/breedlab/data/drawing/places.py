"""The places where the dogs stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from breedlab.data.drawing.shapes import DARK, WHITE, Color, Values, mix

_WALLS: list[Color] = [
    (226, 206, 176), (160, 190, 186), (206, 168, 158), (176, 182, 206), (222, 218, 206), (140, 160, 130),
]  # fmt: skip
_LEAVES: list[Color] = [(214, 120, 40), (232, 170, 60), (176, 70, 44), (140, 140, 60)]
_FLOWERS: list[Color] = [(250, 250, 240), (250, 210, 70), (232, 120, 140), (170, 130, 220)]


def _near(color: Color, rng: np.random.Generator, by: float = 14) -> Color:
    """Return a color close to another one."""
    r, g, b = (
        min(max(round(v + d), 0), 255) for v, d in zip(color, rng.normal(0, by, 3), strict=True)
    )
    return r, g, b


class _Canvas:
    """An empty place in the making. Every position and length is a share of its side, from the top
    left."""

    def __init__(self, size: int, rng: np.random.Generator, *stops: tuple[float, Color]) -> None:
        """Fill with the colors that ``stops`` give for some heights, and blends in between."""
        heights, colors = zip(*stops, strict=True)
        rows = np.linspace(0, 1, size)
        column = np.stack([np.interp(rows, heights, band) for band in zip(*colors, strict=True)], 1)
        self.image = Image.fromarray(np.rint(column).astype(np.uint8)[:, None]).resize((size, size))
        self.size, self.rng, self.pen = size, rng, ImageDraw.Draw(self.image)

    def oval(self, x0: float, y0: float, x1: float, y1: float, color: Color) -> None:
        self.pen.ellipse([v * self.size for v in (x0, y0, x1, y1)], fill=color)

    def box(self, x0: float, y0: float, x1: float, y1: float, color: Color) -> None:
        self.pen.rectangle([v * self.size for v in (x0, y0, x1, y1)], fill=color)

    def line(
        self, x0: float, y0: float, x1: float, y1: float, color: Color, width: float = 0.008
    ) -> None:
        ends = [v * self.size for v in (x0, y0, x1, y1)]
        self.pen.line(ends, fill=color, width=max(1, round(width * self.size)))

    def shape(self, corners: Sequence[tuple[float, float]], color: Color) -> None:
        self.pen.polygon([v * self.size for corner in corners for v in corner], fill=color)

    def hill(self, y: float, height: float, color: Color) -> None:
        """Draw a ridge that rises up to ``height`` over ``y``."""
        x = np.linspace(0, 1, 12)
        waves = 0.5 + 0.5 * np.sin(x * self.rng.uniform(3, 9) + self.rng.uniform(0, 6))
        ridge = list(zip(x.tolist(), (y - height * waves).tolist(), strict=True))
        self.shape([*ridge, (1, y + 0.01), (0, y + 0.01)], color)

    def dots(
        self, count: int, top: float, bottom: float, radius: float, colors: Sequence[Color]
    ) -> None:
        """Scatter discs between two heights, nearer ones (lower down) larger."""
        for i, (x, y, grow) in enumerate(self.rng.uniform(0, 1, (count, 3)).tolist()):
            r, y0 = radius * (0.4 + 0.6 * y) * (0.6 + 0.8 * grow), top + (bottom - top) * y
            self.oval(x - r, y0 - r, x + r, y0 + r, colors[i % len(colors)])


def _meadow(size: int, y: float, rng: np.random.Generator) -> Image.Image:
    sky, far, grass = (
        _near((120, 178, 232), rng),
        _near((212, 230, 240), rng),
        _near((112, 160, 70), rng),
    )
    shade, sunny = mix(grass, (30, 80, 30), 0.4), mix(grass, (190, 210, 110), 0.4)
    c = _Canvas(
        size,
        rng,
        (0, sky),
        (y, far),
        (y, mix(grass, far, 0.25)),
        (1, mix(grass, (20, 50, 20), 0.35)),
    )
    for x, top, w in rng.uniform((0, 0.05, 0.06), (1, y - 0.12, 0.13), (3, 3)).tolist():
        for step, rise in ((-0.8, 0.35), (0.8, 0.35), (0.0, 0.5)):
            near = x + (step - 1) * w
            c.oval(near, top - rise * w, near + 2 * w, top + 0.3 * w, mix(far, WHITE, 0.7))
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
    c.dots(60, 0.0, 1.0, 0.008, [WHITE])
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
        c.line(x, at, x + 0.12, at, mix(sea, WHITE, 0.5))
    if rng.uniform() < 0.6:
        x, cloth = float(rng.uniform(0.1, 0.9)), _near((226, 92, 80), rng, 40)
        c.line(x, y - 0.34, x, shore + 0.06, (240, 236, 226), 0.016)
        parasol = [v * size for v in (x - 0.17, y - 0.34, x + 0.17, y - 0.08)]
        for i in range(6):
            c.pen.pieslice(
                parasol, 180 + i * 30, 210 + i * 30, fill=cloth if i % 2 else (248, 244, 236)
            )
    c.dots(40, shore + 0.05, 1.0, 0.007, [mix(sand, DARK, 0.3), mix(sand, WHITE, 0.5)])
    return c.image


def _room(size: int, y: float, rng: np.random.Generator) -> Image.Image:
    wall, wood = _near(_WALLS[int(rng.integers(len(_WALLS)))], rng), _near((168, 118, 76), rng)
    rug, y = _near((176, 84, 80), rng, 30), y + 0.08
    front = mix(wood, (240, 200, 150), 0.3)
    c = _Canvas(size, rng, (0, wall), (y, mix(wall, DARK, 0.12)), (y, wood), (1, front))
    for away in np.linspace(-1, 1, 23).tolist():
        c.line(0.5 + 0.7 * away, y, 0.5 + 2.2 * away, 1, mix(wood, DARK, 0.3), 0.006)
    c.box(0, y - 0.035, 1, y, mix(wall, WHITE, 0.6))
    x, w = rng.uniform((0.02, 0.2), (0.65, 0.3)).tolist()
    c.box(x, 0.06, x + w, 0.06 + w * 1.1, (246, 242, 232))
    c.box(x + 0.02, 0.08, x + w - 0.02, 0.04 + w * 1.1, _near((150, 196, 224), rng, 40))
    c.oval(x + 0.07, 0.14, x + 0.15, 0.22, _near((240, 210, 120), rng, 25))
    for inset, color in ((0.0, rug), (0.06, mix(rug, (250, 236, 210), 0.6)), (0.08, rug)):
        c.oval(inset - 0.05, y + 0.12 + inset / 2, 1.05 - inset, 1.08 - inset / 2, color)
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
        c.box(x, y - tall, x + 0.09, y + 0.01, mix(sky, DARK, 0.5))
        c.box(x + 0.03, y - tall * 0.6, x + 0.05, y - tall * 0.3, (255, 214, 120))
    return c.image


def _woods(size: int, y: float, rng: np.random.Generator) -> Image.Image:
    haze, soil = _near((244, 214, 160), rng), _near((158, 104, 60), rng)
    floor, front = mix(soil, haze, 0.3), mix(soil, DARK, 0.3)
    c = _Canvas(size, rng, (0, mix(haze, WHITE, 0.3)), (y, haze), (y, floor), (1, front))
    leaves = [_near(leaf, rng) for leaf in _LEAVES]
    for x, w in rng.uniform((0, 0.02), (1, 0.05), (7, 2)).tolist():
        # Thin trunks are far away, where the haze swallows them.
        c.box(x, 0, x + w, y + w, mix((92, 66, 54), haze, max(0.9 - w * 18, 0.0)))
    c.dots(46, 0.0, 0.3, 0.075, leaves)
    c.dots(80, y + 0.02, 1.02, 0.014, leaves)
    return c.image


# Each with the color of its light: what white looks like there.
_PLACES: list[
    tuple[Callable[[int, float, np.random.Generator], Image.Image], tuple[float, float, float]]
] = [
    (_meadow, (1.0, 1.0, 0.97)),
    (_snow, (0.95, 0.98, 1.04)),
    (_beach, (1.04, 1.0, 0.94)),
    (_room, (1.02, 0.96, 0.86)),
    (_night, (0.88, 0.92, 1.04)),
    (_woods, (1.04, 0.97, 0.86)),
]


def scene(rng: np.random.Generator, size: int) -> tuple[Image.Image, Values]:
    """Return an empty place, out of focus, and the color of its light."""
    place, light = _PLACES[int(rng.integers(len(_PLACES)))]
    horizon, blur = rng.uniform((0.46, 0.6), (0.66, 2.6)).tolist()
    return place(size, horizon, rng).filter(ImageFilter.BoxBlur(blur * size / 192)), np.array(light)
