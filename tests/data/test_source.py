"""Data that a config describes is made on first use and left alone from then on."""

from __future__ import annotations

from pathlib import Path

import pytest
from codes import raises_code

from breedlab.config import Config, validate
from breedlab.config.compose import load
from breedlab.data.folders import SPLITS
from breedlab.data.source import obtain


def sample(root: Path, *more: str) -> Config:
    numbers = {"classes": 2, "train": 3, "valid": 1, "test": 2, "size": 32, "seed": 4}
    drawn = [f"data.sample.{name}={number}" for name, number in numbers.items()]
    return validate(load(["data=sample", f'data.root="{root}"', *drawn, *more]))


def contents(root: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files
    }


@pytest.mark.parametrize("there", [False, True], ids=["no folder", "empty folder"])
def test_a_sample_is_drawn_on_first_use_and_not_again(tmp_path: Path, there: bool) -> None:
    root = tmp_path / "deep" / "photos"
    if there:
        root.mkdir(parents=True)
    images = obtain(sample(root))
    assert [images.counts(split) for split in SPLITS] == [[3, 3], [1, 1], [2, 2]]
    assert images.cut == ()
    before = contents(root)
    assert sum(name.endswith(".jpg") for name in before) == 12
    assert obtain(sample(root)) == images
    assert contents(root) == before


def test_ones_own_images_are_used_whatever_the_sample_would_be(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    obtain(sample(root))
    (root / "sample.json").unlink()  # without it nothing says that they were drawn
    images = obtain(sample(root, "data.sample.classes=3", "data.sample.train=9"))
    assert images.counts("train") == [3, 3]


def test_nothing_is_drawn_into_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with raises_code("BL211", names=tmp_path):
        obtain(sample(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_file_in_the_place_of_the_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").write_text("mine")
    with raises_code("BL200", names=tmp_path / "photos"):
        obtain(sample(tmp_path / "photos"))
    assert (tmp_path / "photos").read_text() == "mine"


def test_a_folder_of_ones_own_is_never_made_up(tmp_path: Path) -> None:
    config = validate(load(["data=image_folder", f"data.root={tmp_path / 'mine'}"]))
    with raises_code("BL200", names=tmp_path / "mine"):
        obtain(config)
    assert not (tmp_path / "mine").exists()


def test_the_drawn_set_loses_its_valid_folder_and_is_cut_by_the_configs_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "photos"
    obtain(sample(root))
    for path in sorted((root / "valid").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (root / "valid").rmdir()
    capsys.readouterr()
    images = obtain(sample(root, "seed=11"))
    assert images.cut == ("valid",)
    assert [images.counts(split) for split in SPLITS] == [[2, 2], [1, 1], [2, 2]]
    assert obtain(sample(root, "seed=11")) == images
    assert "no folder for valid: cut from train, stratified, seed 11" in " ".join(
        capsys.readouterr().out.split()
    )


def test_brackets_in_the_path_are_no_accident(tmp_path: Path) -> None:
    images = obtain(sample(tmp_path / "set [/bold] [v2]"))
    assert images.counts("train") == [3, 3]


def test_an_empty_class_is_left_to_the_check_which_has_more_to_tell(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    obtain(sample(root))
    for split in SPLITS:
        (root / split / "emu").mkdir()
    images = obtain(sample(root))
    assert len(images.flaws) == 1
    assert "no images of emu" in images.flaws[0]
