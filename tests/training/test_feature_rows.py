"""Features of images that the cache has in another set."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from breedlab.config import Config
from breedlab.pipeline.checked_images import checked_images
from breedlab.training import activations
from breedlab.training.activations import Activations
from breedlab.training.feature_cache import FeatureFile, make_room, writing
from breedlab.training.feature_rows import find_rows, record_rows
from breedlab.training.preparation import prepare

Configure = Callable[..., Config]


def computed(config: Config) -> Activations:
    context = prepare(config, checked_images(config))
    found = context.activations(context.classifier(config), config)
    assert found is not None
    return found


def test_after_fixes_only_images_that_were_left_out_are_computed(
    configure: Configure, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(f"cache.dir={tmp_path / 'cache'}")
    root = Path(config.data.root)
    names = [os.path.relpath(path, root) for path in sorted((root / "train").glob("*/*.jpg"))]
    rows = [f"{names[0]},remove", f"{names[1]},remove"]
    fixes = here / "fixes.csv"
    fixes.write_text("\n".join(["file,fix", *rows, ""]))
    computed(configure(f"cache.dir={tmp_path / 'cache'}", f"data.fixes={fixes}"))
    label = checked_images(config).images.classes[-1]
    fixes.write_text("\n".join(["file,fix", rows[0], f'{names[2]},"{label}"', ""]))
    monkeypatch.setattr(activations, "_compute", None)
    streamed: list[int] = []
    really = activations.ImageData.view_dataloader

    def counting(self: activations.ImageData, *args: object, **named: object) -> object:
        streamed.extend(named["indices"])  # type: ignore[call-overload]
        return really(self, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(activations.ImageData, "view_dataloader", counting)
    fixed = configure(f"cache.dir={tmp_path / 'cache'}", f"data.fixes={fixes}")
    reused = computed(fixed)
    assert streamed == [0], "the one image that the first pass did not have"
    monkeypatch.undo()
    anew = computed(configure(f"cache.dir={tmp_path / 'anew'}", f"data.fixes={fixes}"))
    torch.testing.assert_close(reused.train[0], anew.train[0])
    torch.testing.assert_close(reused.valid, anew.valid)
    assert torch.equal(reused.labels, anew.labels)


def test_features_of_another_network_are_not_taken(configure: Configure, tmp_path: Path) -> None:
    place = f"cache.dir={tmp_path / 'cache'}"
    computed(configure(place))
    computed(configure(place, "data.resize=40"))
    kept = sorted((tmp_path / "cache").glob("*.npy"))
    assert len(kept) == 4
    assert len({np.load(path).tobytes() for path in kept}) == 4


def file_of(folder: Path, rows: int, **key: object) -> FeatureFile:
    return FeatureFile(folder, {"network": [1, 2], **key}, (rows, 3), "float32")


def digest(number: int) -> str:
    return f"{number:032x}"


def put(file: FeatureFile, numbers: range) -> None:
    file.folder.mkdir(exist_ok=True)
    file.write_manifest()
    with writing(file) as writer:
        writer.append(np.array([[number] * 3 for number in numbers], np.float32))
    record_rows(file, [digest(number) for number in numbers])


def test_rows_are_found_in_several_files_and_written_in_the_order_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    put(file_of(folder, 5, photos="a", split="train"), range(5))
    put(file_of(folder, 4, photos="a", split="valid"), range(5, 9))
    put(file_of(folder, 4, photos="b", split="train", other=1), range(9, 13))
    order = [7, 0, 10, 4, 7]
    file = file_of(folder, 5, photos="c", split="train")
    found = find_rows(file, [digest(number) for number in order])
    assert found.absent == [2]
    file.write_manifest()
    found.completed(np.full((1, 3), 10, np.float32)).write(file)
    assert np.load(file.path)[:, 0].tolist() == order


@pytest.mark.parametrize("damage", ["rows", "npy"])
def test_a_damaged_file_has_no_rows(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "cache"
    put(old := file_of(folder, 5, photos="a", split="train"), range(5))
    torn = old.path.with_suffix(f".{damage}")
    torn.write_bytes(torn.read_bytes()[:-8])
    file = file_of(folder, 1, photos="c", split="train")
    assert find_rows(file, [digest(0)]).absent == [0]


def test_rows_go_with_their_file(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    put(file_of(folder, 5, photos="a", split="train"), range(5))
    make_room([file_of(folder, 5, photos="c", split="train")], 1e-9, lambda: 10**9)
    assert not list(folder.iterdir())
