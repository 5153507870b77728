"""The made-up image set: the same every time, whole or absent, and worth learning from."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codes import raises_code
from PIL import Image

import breedlab
from breedlab.data.sample import MIN_SIZE, breed_names, draw_dog, write_sample

SMALL: dict[str, Any] = {"classes": 2, "train": 2, "valid": 1, "test": 1, "size": 32, "seed": 5}


def contents(root: Path) -> dict[str, bytes]:
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def changed(one: Image.Image, other: Image.Image) -> float:
    """Share of the pixels in which two pictures differ at a glance."""
    return float(
        (np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max(2) > 40).mean()
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample") / "dogs"
    write_sample(root, **SMALL)
    return root


def test_names_are_unique_and_the_list_only_grows() -> None:
    names = breed_names(2500)
    assert len(set(names)) == 2500
    assert breed_names(7) == names[:7]
    assert names[0] == "Amber Brindle Pointer"
    assert all(name.replace(" ", "").isalnum() and name.isascii() for name in names)


def test_a_image_is_the_same_every_time() -> None:
    image = draw_dog(3, 11, 48)
    assert image.mode == "RGB" and image.size == (48, 48)
    assert image.tobytes() == draw_dog(3, 11, 48).tobytes()


def test_images_of_one_breed_vary() -> None:
    assert len({draw_dog(3, seed, 32).tobytes() for seed in range(20)}) == 20


def test_the_same_seed_gives_every_breed_the_same_place() -> None:
    # Most of what is not dog is equal to the last grain, so a background cannot give a breed away.
    for seed in range(4):
        one, other = (np.asarray(draw_dog(breed, seed, 64)) for breed in (0, 7))
        assert (one == other).all(2).mean() > 0.25


def test_breeds_look_different() -> None:
    images = [[draw_dog(breed, seed, 64) for seed in range(3)] for breed in range(12)]
    for i, one in enumerate(images):
        for other in images[:i]:
            assert np.mean([changed(a, b) for a, b in zip(one, other, strict=True)]) > 0.03


def test_breeds_past_the_catalogue_still_look_different() -> None:
    assert breed_names(801)[800] != breed_names(1)[0]
    for breed in (0, 5, 321):
        images = [draw_dog(breed + 800 * shade, 2, 64).tobytes() for shade in range(5)]
        assert len(set(images)) == 5


def test_the_mean_color_does_not_tell_the_breed() -> None:
    means = np.array(
        [
            [np.asarray(draw_dog(b, 100 * b + i, 32)).mean((0, 1)) for i in range(9)]
            for b in range(8)
        ]
    )
    flat, labels = means.reshape(-1, 3), np.repeat(np.arange(8), 9)
    apart = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (labels[apart.argmin(1)] == labels).mean() < 0.4


@pytest.mark.parametrize("size", [MIN_SIZE, 77, 224])
def test_any_breed_can_be_drawn_at_any_size(size: int) -> None:
    for breed in (0, 4, 13, 700, 12345):
        image = draw_dog(breed, breed, size)
        assert image.size == (size, size)
        assert np.asarray(image).std() > 10


@pytest.mark.parametrize("arguments", [(-1, 0, 64), (0, -1, 64), (0, 0, 8)])
def test_a_image_that_cannot_be_drawn_is_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        draw_dog(*arguments)


def test_folders_are_laid_out_like_the_dog_breed_archive(small: Path) -> None:
    breeds = [f"{i + 1:03d}.{name.replace(' ', '_')}" for i, name in enumerate(breed_names(2))]
    expected = {
        f"{split}/{breed}/{i + 1:04d}.jpg"
        for split, count in (("train", 2), ("valid", 1), ("test", 1))
        for breed in breeds
        for i in range(count)
    }
    assert set(contents(small)) == expected
    assert "train/001.Amber_Brindle_Pointer/0001.jpg" in expected
    for path in small.rglob("*.jpg"):
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))


def test_the_same_seed_gives_the_same_bytes(small: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "again", **SMALL)
    assert contents(tmp_path / "again") == contents(small)


def test_another_seed_gives_other_images(small: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "other", **{**SMALL, "seed": 6})
    other = contents(tmp_path / "other")
    assert other.keys() == contents(small).keys()
    assert not set(other.values()) & set(contents(small).values())


def test_no_image_appears_twice(small: Path) -> None:
    images = contents(small)
    assert len({hashlib.sha256(image).digest() for image in images.values()}) == len(images) == 8


def test_a_larger_set_keeps_the_images_of_a_smaller_one(small: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "more", **{**SMALL, "classes": 3, "train": 3, "valid": 2})
    more = contents(tmp_path / "more")
    assert contents(small).items() < more.items()


def test_progress_counts_every_image(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_sample(
        tmp_path / "dogs", **SMALL, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(done, 8) for done in range(1, 9)]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_leaves_nothing_behind(
    tmp_path: Path, stop: type[BaseException]
) -> None:
    def interrupt(done: int, total: int) -> None:
        assert not (tmp_path / "dogs").exists()
        if done == total - 1:
            raise stop

    with pytest.raises(stop):
        write_sample(tmp_path / "dogs", **SMALL, progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    write_sample(tmp_path / "dogs", **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["dogs"]


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with raises_code("BL200", names=tmp_path):
        write_sample(tmp_path, **SMALL)
    assert contents(tmp_path) == {"note.txt": b"mine"}


def test_missing_parents_and_an_empty_folder_are_fine(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "dogs"
    root.mkdir(parents=True)
    write_sample(root, **SMALL)
    write_sample(tmp_path / "new" / "parent" / "dogs", **SMALL)
    assert contents(root) == contents(tmp_path / "new" / "parent" / "dogs")


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_others_may_read_the_set_as_any_other_folder(small: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    assert small.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_place_that_cannot_be_written_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises_code("BL200", names=tmp_path / "file"):
        write_sample(tmp_path / "file" / "dogs", **SMALL)


@pytest.mark.parametrize(
    "wrong", [{"classes": 1}, {"train": 0}, {"valid": 0}, {"test": -1}, {"size": 8}, {"seed": -1}]
)
def test_senseless_requests_are_refused_before_anything_is_made(
    tmp_path: Path, wrong: dict[str, int]
) -> None:
    with raises_code("BL200", names=next(iter(wrong))):
        write_sample(tmp_path / "parent" / "dogs", **{**SMALL, **wrong})
    assert list(tmp_path.iterdir()) == []


def test_drawing_leaves_the_global_random_state_alone() -> None:
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    draw_dog(0, 0, 32)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]


def test_the_sample_is_drawn_without_torch() -> None:
    code = "import sys, breedlab.data.sample; sys.exit('torch' in sys.modules)"
    source = str(Path(breedlab.__file__).parents[1])
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": source}
    )
