"""Images that are nearly the same, by a hash that imagehash computes, too."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from breedlab.data.check import check
from breedlab.data.folders import scan
from breedlab.data.near_duplicates import MOST_BITS, difference_hash, near_pairs


def scene(seed: int, side: int = 160) -> Image.Image:
    """Soft blobs of color: what an image is at the size of a hash."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def copied(image: Image.Image) -> Image.Image:
    """A smaller, brighter copy of low quality."""
    file = io.BytesIO()
    smaller = image.resize((image.width * 2 // 3, image.height * 2 // 3))
    smaller.point(lambda value: min(255, int(value * 1.08))).save(file, "JPEG", quality=50)
    return Image.open(file)


def test_the_hash_is_imagehashs() -> None:
    imagehash = pytest.importorskip("imagehash")
    image = scene(0, side=9)  # so that nothing is resized, which each does in its own way
    across = imagehash.dhash(image.crop((0, 0, 9, 8))).hash
    down = imagehash.dhash_vertical(image.crop((0, 0, 8, 9))).hash
    expected = np.packbits(np.concatenate([across.ravel(), down.ravel()])).tobytes().hex()
    assert difference_hash(np.asarray(image)) == expected


def test_copies_are_found_and_others_are_not() -> None:
    images = [scene(seed) for seed in range(60)]
    pictures = [*images, *map(copied, images[:20])]
    hashes = [difference_hash(np.asarray(picture)) for picture in pictures]
    assert near_pairs(hashes) == [(index, 60 + index) for index in range(20)]


def test_every_pair_within_the_limit_is_found_whichever_bits_differ() -> None:
    draw = np.random.default_rng(1)
    start = int.from_bytes(draw.bytes(16), "big")
    numbers = [start]
    for bits in (1, MOST_BITS, MOST_BITS + 1) * 30:
        flips = sum(1 << int(bit) for bit in draw.choice(128, bits, replace=False))
        numbers.append(start ^ flips)
    found = {
        other for one, other in near_pairs([f"{number:032x}" for number in numbers]) if one == 0
    }
    assert found == {
        i for i, number in enumerate(numbers) if i and (number ^ start).bit_count() <= MOST_BITS
    }


def test_plain_images_and_even_gradients_have_no_hash() -> None:
    for pixels in (
        np.full((50, 50, 3), 200),
        np.broadcast_to(np.linspace(0, 255, 50)[:, None], (50, 50, 3)[:2]),
    ):
        image = np.asarray(Image.fromarray(pixels.astype(np.uint8)).convert("RGB"))
        assert difference_hash(image) == ""


def test_the_check_names_near_duplicates_within_and_across_classes_and_splits(
    tmp_path: Path,
) -> None:
    root = tmp_path / "photos"
    for number, (split, name) in enumerate(
        (s, c) for s in ("train", "valid", "test") for c in "ab"
    ):
        folder = root / split / name
        folder.mkdir(parents=True)
        for image in range(3):
            scene(10 * number + image).save(folder / f"{image}.png")
    copied(scene(0)).save(root / "train" / "b" / "copy_of_a.png")
    copied(scene(1)).save(root / "test" / "a" / "copy_of_train.png")
    copied(scene(2)).save(root / "train" / "a" / "in_one_class.png")
    images = scan(root, valid_fraction=0.1, test_fraction=0.1, seed=0)
    for _ in range(2):  # anew, and from what is remembered
        report = check(images, tmp_path / "memory", on_bad_file="error")
        said = "\n".join(report.warnings)
        assert (
            "1 pair of images is nearly the same, in two classes:" in said
            and "copy_of_a.png" in said
        )
        assert (
            "1 pair of images is nearly the same, in two splits:" in said
            and "copy_of_train.png" in said
        )
        assert (
            "1 pair of images is nearly the same, in one class and split:" in said
            and "in_one_class.png" in said
        )


def test_near_duplicates_with_other_labels_are_named(tmp_path: Path) -> None:
    rows = ["file,labels"]
    for number in range(12):
        scene(number).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{('a', 'b', 'a|b')[number % 3]}")
    copied(scene(0)).save(tmp_path / "copy.png")
    (tmp_path / "labels.csv").write_text("\n".join([*rows, "copy.png,a|b"]))
    images = scan(tmp_path, valid_fraction=0.2, test_fraction=0.2, seed=0, multi=True)
    said = check(images, tmp_path / "memory", on_bad_file="error").warnings
    assert "1 pair of images is nearly the same, with other labels:" in said
