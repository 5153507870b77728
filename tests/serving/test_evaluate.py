"""evaluate.py on folders as people have them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from codes import raises_code

from breedlab.cli.evaluate import labeled, main


@pytest.mark.parametrize("name", ["Amber_Pointer", "Amber Pointer", "017.Amber_Pointer"])
def test_a_folder_is_its_class_with_spaces_or_underscores(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "1.jpg").touch()
    assert [image.label for image in labeled(tmp_path, ("Akita", "Amber Pointer"))] == [1]


def test_a_model_whose_classes_have_underscores_knows_them_too(tmp_path: Path) -> None:
    (tmp_path / "amber_pointer").mkdir()
    (tmp_path / "amber_pointer" / "1.jpg").touch()
    assert [image.label for image in labeled(tmp_path, ("akita", "amber_pointer"))] == [1]


def test_classes_that_differ_in_nothing_else_are_kept_apart(tmp_path: Path) -> None:
    for name in ("a b", "a_b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    assert {image.path.parent.name: image.label for image in labeled(tmp_path, ("a_b", "a b"))} == {
        "a_b": 0,
        "a b": 1,
    }


@pytest.mark.parametrize("count", [1, 3])
def test_every_broken_image_is_named_with_what_to_do(
    count: int, folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    """With the first alone, a folder with three took four runs."""
    mine = shutil.copytree(image_folder / "test", tmp_path / "mine")
    some = next(path for path in mine.iterdir() if path.is_dir())
    broken = [some / f"bad{index}.jpg" for index in range(count)]
    for file in broken:
        file.write_bytes(b"no photo")
    fine = next(path for path in some.glob("0*.jpg"))
    with raises_code("BL201", names=[f"{file} is not an image" for file in broken]) as caught:
        main([str(folder), str(mine)])
    assert str(fine) not in str(caught.value)
