"""An image: a dog scaled into a place, so that any build fills the frame equally, and the camera's
weaknesses."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from breedlab.data.drawing.coats import Coat
from breedlab.data.drawing.dog import Build, Dog, Part
from breedlab.data.drawing.places import scene
from breedlab.data.drawing.shapes import BLACK, Points, Values, mix

_SUPERSAMPLING = 2
# Pixels around a part that its blurred outline may fade out in.
_MARGIN = 10


def _paint(
    part: Part, image: Image.Image, to_pixels: Callable[[Points], Points], reach: float, sun: float
) -> None:
    """Put one part on the image, rounded by light from above and from ``sun``, ``reach`` pixels
    deep."""
    shapes = [*part.outlines, *(outline for outline, _ in part.marks)]
    ends = np.cumsum([len(shape) for shape in shapes]).tolist()
    pixels = to_pixels(np.concatenate(shapes))
    own = pixels[: ends[len(part.outlines) - 1]]
    x0, y0 = (max(math.floor(v), 0) - _MARGIN for v in own.min(0).tolist())
    x1, y1 = (min(math.ceil(v), image.width) + _MARGIN for v in own.max(0).tolist())
    if x1 - x0 <= 2 * _MARGIN or y1 - y0 <= 2 * _MARGIN:
        return  # Wholly outside the frame.
    size = ((x1 - x0) * _SUPERSAMPLING, (y1 - y0) * _SUPERSAMPLING)
    flat = ((pixels - (x0, y0)) * _SUPERSAMPLING).ravel().tolist()
    polygons = [flat[2 * start : 2 * end] for start, end in zip([0, *ends], ends, strict=False)]
    mask, coat = Image.new("L", size), Image.new("RGB", size, mix(BLACK, part.ground, part.shade))
    pen = ImageDraw.Draw(mask)
    for polygon in polygons[: len(part.outlines)]:
        pen.polygon(polygon, fill=255)
    pen = ImageDraw.Draw(coat)
    for polygon, (_, color) in zip(polygons[len(part.outlines) :], part.marks, strict=True):
        pen.polygon(polygon, fill=mix(BLACK, color, part.shade))
    mask, coat = mask.reduce(_SUPERSAMPLING), coat.reduce(_SUPERSAMPLING)
    if not part.flat:
        # How far the blurred outline leans toward the light stands in for the slope of a round
        # body.
        soft = mask.reduce(2).filter(ImageFilter.BoxBlur(max(reach / 2, 0.5)))
        dx, dy = round(sun * reach / 2), max(round(reach / 2), 1)
        lit, dim = ImageChops.offset(soft, dx, dy), ImageChops.offset(soft, -dx, -dy)
        lean = ImageChops.subtract(lit, dim, 2.2, 122)
        lean = lean.resize(mask.size, Image.Resampling.BILINEAR)
        coat = ImageChops.soft_light(coat, Image.merge("RGB", (lean, lean, lean)))
    image.paste(coat, (x0, y0), mask)


def draw_image(build: Build, coat: Coat, seed: int, size: int) -> Image.Image:
    """Return an image of one dog somewhere.

    Args:
        build: What the dog is shaped like.
        coat: What it is colored like.
        seed: Chooses pose, place, light and the individual's markings; at least 0.
        size: Side of the image in pixels.

    Returns:
        An RGB image, ``size`` x ``size``.
    """
    # Streams of their own, so that the same seed gives every breed the same place and light.
    where, pose, marks, look = (np.random.default_rng([seed, stream]) for stream in range(4))
    image, light = scene(where, size)
    dog = Dog(build, coat, pose, marks)
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
    center = size / 2 + slack * (across - 0.5) * 0.84
    sideways = scale if where.uniform() < 0.5 else -scale
    flip, shift = (
        (sideways, -scale),
        np.array([center - sideways * float((low + high)[0]) / 2, floor]),
    )

    def to_pixels(points: Points) -> Points:
        pixels: Points = points * flip + shift
        return pixels

    sun = 1.6 * sun - 0.8
    shadow = Image.new("L", (size, size))
    x, half = center + 0.1 * sun * size, wide * scale / 2
    ImageDraw.Draw(shadow).ellipse(
        (x - half, floor - 0.05 * size, x + half, floor + 0.035 * size), fill=120
    )
    image.paste((22, 24, 34), (0, 0), shadow.filter(ImageFilter.BoxBlur(size / 50)))
    for part in dog.parts:
        _paint(part, image, to_pixels, 0.045 * scale, sun)
    return _develop(image, light, look)


def _develop(image: Image.Image, light: Values, rng: np.random.Generator) -> Image.Image:
    """Apply the light of the hour and the camera's flaws."""
    size = image.width
    if rng.uniform() < 0.4:
        image = image.filter(ImageFilter.BoxBlur(float(rng.uniform(0.2, 0.9)) * size / 192))
    warmth = rng.normal(0, 0.08)
    tint = light * rng.uniform(0.72, 1.16) * (1 + warmth, 1.0, 1 - warmth)
    ramp = np.linspace(-1, 1, size)
    across, down = 1 + rng.uniform(-0.16, 0.16, (2, 1)) * ramp
    # Rows of 3 * size numbers: several times as fast as sums over a last axis of length 3.
    pixels = np.asarray(image).reshape(size, 3 * size).astype(np.float32)
    pixels *= (across[:, None] * tint).reshape(1, -1).astype(np.float32)
    pixels *= down[:, None].astype(np.float32)
    grain = rng.integers(-128, 128, (size, size), dtype=np.int8) * np.float32(
        rng.uniform(1.0, 5.0) / 74
    )
    pixels += np.repeat(grain, 3, axis=1)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8).reshape(size, size, 3))
