"""evaluate.py on folders as people have them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from breedlab.cli.evaluate import labelled, main
from breedlab.errors import DataError


@pytest.mark.parametrize("name", ["Amber_Pointer", "Amber Pointer", "017.Amber_Pointer"])
def test_a_folder_is_its_class_with_spaces_or_underscores(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "1.jpg").touch()
    assert [image.label for image in labelled(tmp_path, ("Akita", "Amber Pointer"))] == [1]


def test_a_model_whose_classes_have_underscores_knows_them_too(tmp_path: Path) -> None:
    (tmp_path / "amber_pointer").mkdir()
    (tmp_path / "amber_pointer" / "1.jpg").touch()
    assert [image.label for image in labelled(tmp_path, ("akita", "amber_pointer"))] == [1]


def test_classes_that_differ_in_nothing_else_are_kept_apart(tmp_path: Path) -> None:
    for name in ("a b", "a_b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    assert {
        image.path.parent.name: image.label for image in labelled(tmp_path, ("a_b", "a b"))
    } == {"a_b": 0, "a b": 1}


def test_a_broken_image_is_named_with_what_to_do(
    folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(image_folder / "test", tmp_path / "mine")
    broken = next(path for path in mine.iterdir() if path.is_dir()) / "bad.jpg"
    broken.write_bytes(b"no photo")
    with pytest.raises(DataError) as caught:
        main([str(folder), str(mine)])
    assert str(caught.value).startswith(f"{broken} is not an image")
    assert str(caught.value).endswith("; remove it from the folder to test the others")
