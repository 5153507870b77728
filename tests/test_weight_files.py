"""What cannot be weights is refused before anything starts; a dry run is no promise otherwise."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from codes import raises_code
from safetensors.torch import save_file

from breedlab.cli.launch import main
from breedlab.config.yaml_folders import config_folder
from breedlab.weight_files import problem

WEIGHTS = {"weight": torch.zeros(3, 4), "bias": torch.zeros(3)}


def words(path: Path) -> list[str]:
    return ["experiment=resnet34", "data=sample", f'model.weights="{path}"', "dry_run=true"]


def safetensors(path: Path) -> None:
    save_file(WEIGHTS, str(path))


def torch_zip(path: Path) -> None:
    torch.save(WEIGHTS, path)


def torch_legacy(path: Path) -> None:
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.safetensors", safetensors),
        ("a.pth", torch_zip),
        ("a.pth", torch_legacy),
        ("a.pth.tar", torch_zip),
    ],
)
def test_what_the_libraries_write_is_taken(
    name: str, write: Callable[[Path], None], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(here / name)
    assert problem(here / name) == ""
    assert main(words(here / name)) == 0


@pytest.mark.parametrize("write", [safetensors, torch_zip])
def test_a_download_that_broke_off_is_refused(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / f"a.{'safetensors' if write is safetensors else 'pth'}"
    write(path)
    path.write_bytes(path.read_bytes()[:-20])
    assert "or is incomplete" in problem(path)


@pytest.mark.parametrize(
    "name", ["notes.md", "notes.pth", "notes.safetensors", "empty.safetensors", "empty.pt"]
)
def test_a_file_of_something_else_is_refused_by_a_dry_run(name: str, here: Path) -> None:
    (here / name).write_text(
        "" if name.startswith("empty") else (config_folder().parent / "README.md").read_text()
    )
    with raises_code("BL120", names=("model.weights", name)):
        main(words(here / name))


def test_a_zip_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.pth", "w") as archive:
        archive.writestr("photo.jpg", b"")
    assert "was not written by torch.save" in problem(tmp_path / "photos.pth")


def test_a_name_that_is_neither_file_nor_weights_is_refused(here: Path) -> None:
    with raises_code("BL120", names=("model.weights", "notes.md", "DEFAULT", "IMAGENET1K_V1")):
        main(words(here / "notes.md"))
