"""Images to measure with: JPEGs of about 500x500 pixels and 75 KB, as a camera's are after a web
site shrank them."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from _harness import CACHE, say

# Distinct drawings a class; every image is one of them under another crop, light and grain.
_DRAWINGS = 2
_DRAWN, _SCALED = 280, 560


def drawn_images(classes: int, train: int, valid: int) -> Path:
    """A folder `train|valid|test/<class>/*.jpg`, made once and kept under `.cache/benchmarks`.

    The images are spread evenly over the classes; the test split has one of each class, for the
    sake of form.
    """
    root = CACHE / f"photos-{classes}x{train}+{valid}"
    if root.exists():
        return root
    scratch = root.with_name(f".{root.name}-{os.getpid()}")
    jobs = []
    for split, count in (("train", train), ("valid", valid), ("test", classes)):
        for breed in range(classes):
            home = scratch / split / f"{breed + 1:03}.breed"
            home.mkdir(parents=True)
            jobs += [(home / f"{n:04}.jpg", breed) for n in range(breed, count, classes)]
    jobs.sort(key=lambda job: job[1])  # a worker draws a class once and keeps it in memory
    say(f"making {len(jobs):,} images in {root}, once ...")
    try:
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            for done, _ in enumerate(
                pool.map(partial(_write, base=scratch), jobs, chunksize=64), 1
            ):
                if done % 1000 == 0:
                    say(f"{done:,} images")
        scratch.rename(root)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return root


def _write(job: tuple[Path, int], base: Path) -> None:
    import numpy as np
    from PIL import Image

    path, breed = job
    seed = [*path.relative_to(base).as_posix().encode()]
    rng = np.random.default_rng(seed)
    width, height = (int(side) for side in rng.integers(440, _SCALED, 2))
    left, top = int(rng.integers(_SCALED - width + 1)), int(rng.integers(_SCALED - height + 1))
    pixels = _drawing(breed, int(rng.integers(_DRAWINGS)))[top : top + height, left : left + width]
    grain = rng.normal(rng.uniform(-12, 12), 6, (height, width, 1))
    Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)).save(path, "JPEG", quality=90)


@lru_cache(maxsize=2 * _DRAWINGS)
def _drawing(breed: int, number: int) -> Any:
    import numpy as np
    from PIL import Image

    from breedlab.data.sample import draw_dog

    drawn = draw_dog(breed, number, _DRAWN)
    return np.asarray(drawn.resize((_SCALED, _SCALED), Image.Resampling.BICUBIC)).astype(np.float32)
