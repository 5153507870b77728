"""Images that the check calls unlike the rest: screenshots, thumbnails, lens caps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from breedlab.data.check import check
from breedlab.data.folders import scan


def saved(path: Path, size: tuple[int, int], gray: int, spread: int, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(-spread, spread + 1, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((gray + noise).clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images as a camera takes them: two formats, day and evening."""
    for index in range(40):
        size = (120, 90) if index % 3 else (90, 120)
        saved(tmp_path / "photos" / "ab"[index % 2] / f"{index}.png", size, 90 + index, 40, index)
    return tmp_path / "photos"


def warnings(root: Path) -> list[str]:
    images = scan(root, valid_fraction=0.2, test_fraction=0.2, seed=0)
    found = check(images, root.parent / "memory", on_bad_file="error").warnings
    again = check(images, root.parent / "memory", on_bad_file="error").warnings
    assert found == again  # what is remembered of files says the same
    return list(found)


def test_images_alike_are_not_worth_a_word(root: Path) -> None:
    assert warnings(root) == []


@pytest.mark.parametrize(
    ("size", "gray", "spread", "said"),
    [
        ((120, 90), 0, 0, "of one color only"),
        ((16, 12), 110, 40, "far smaller than the rest"),
        ((600, 90), 110, 40, "far longer than wide, or wider than long, unlike the rest"),
        ((120, 90), 5, 8, "far darker or lighter than the rest"),
        ((120, 90), 250, 8, "far darker or lighter than the rest"),
    ],
    ids=["blank", "tiny", "banner", "dark", "light"],
)
def test_an_image_unlike_the_rest_is_named(
    root: Path, size: tuple[int, int], gray: int, spread: int, said: str
) -> None:
    saved(root / "a" / "odd.png", size, gray, spread, 99)
    (line,) = warnings(root)
    assert line.startswith(f"1 image is {said}") and str(root / "a" / "odd.png") in line


def test_many_of_a_kind_belong_to_the_data(root: Path) -> None:
    for index in range(6):
        saved(root / "a" / f"odd{index}.png", (600, 90), 110, 40, 100 + index)
    assert warnings(root) == []
