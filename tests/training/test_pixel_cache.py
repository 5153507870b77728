"""Images that are decoded once: the same batches as decoding every epoch gives, and no file is read
again."""

from __future__ import annotations

import errno
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from breedlab.config import Config
from breedlab.data.module import ImageData
from breedlab.pipeline.checked_images import checked_images
from breedlab.pipeline.run import run
from breedlab.training import feature_cache
from breedlab.training.context import TrainingContext
from breedlab.training.preparation import prepare

Configure = Callable[..., Config]
LIVE = ("model.freeze=none", "data.augment=trivial", "cache.pixels=true")


@pytest.fixture
def own(image_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(image_folder, tmp_path / "photos"))


@pytest.fixture
def context(configure: Configure, own: Path, tmp_path: Path) -> Callable[..., TrainingContext]:
    def make(*words: str) -> TrainingContext:
        config = configure(*LIVE, f"data.root={own}", f"cache.dir={tmp_path / 'cache'}", *words)
        return prepare(config, checked_images(config))

    return make


def batches(data: ImageData, epochs: int = 2) -> list[torch.Tensor]:
    loader = data.train_dataloader()
    found = []
    for epoch in range(epochs):
        loader.batches.set_epoch(epoch)
        found += [images for images, _ in loader]
    return [*found, *(images for images, _ in data.val_dataloader())]


def enlarge(root: Path) -> None:
    for path in root.rglob("*.jpg"):
        with Image.open(path) as image:
            image.resize((400, 300), Image.Resampling.BICUBIC).save(path, quality=95)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_decoding_every_epoch(
    context: Callable[..., TrainingContext], workers: int
) -> None:
    made = context(f"data.num_workers={workers}")
    live, kept = batches(made.data(made.config)), batches(made.live_data(made.config))
    assert len(live) == len(kept) > 4
    assert all(torch.equal(*pair) for pair in zip(live, kept, strict=True))


def test_crops_of_large_images_are_nearly_the_same_and_validation_is_exactly(
    context: Callable[..., TrainingContext], own: Path, tmp_path: Path
) -> None:
    enlarge(own)
    made = context()
    live, kept = made.data(made.config), made.live_data(made.config)
    # 32 px crops need 63: of 300 x 400 less than a twentieth of the bytes is kept.
    assert (
        sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.npy"))
        < 124 * 400 * 300 * 3 / 20
    )
    for ours, theirs in zip(batches(kept, 1), batches(live, 1), strict=True):
        # Another crop than the same one would be 30 apart; an edge may be off by half a pixel of
        # what is kept.
        assert (ours.float() - theirs.float()).abs().mean() < 4.0
    for ours, theirs in zip(kept.val_dataloader(), live.val_dataloader(), strict=True):
        assert torch.equal(ours[0], theirs[0])


def test_no_file_is_read_again(context: Callable[..., TrainingContext], own: Path) -> None:
    made = context()
    first = batches(made.live_data(made.config))
    again = context()  # as another run does
    for path in own.rglob("*.jpg"):
        path.write_bytes(b"no image any more")
    assert all(
        torch.equal(*pair)
        for pair in zip(first, batches(again.live_data(again.config)), strict=True)
    )


def test_views_of_a_frozen_backbone_that_is_computed_live(
    context: Callable[..., TrainingContext],
) -> None:
    made = context("model.freeze=backbone", "cache.mode=off", "cache.views=2")
    live, kept = made.data(made.config), made.live_data(made.config)
    assert set(vars(kept.caches["train"])) == {"evaluated", "decoded"}
    assert all(torch.equal(*pair) for pair in zip(batches(live), batches(kept), strict=True))


def test_a_worker_gets_no_copy_of_the_images(context: Callable[..., TrainingContext]) -> None:
    made = context()
    dataset = made.live_data(made.config).dataset("train")
    dataset[1, 0]
    assert len(pickle.dumps(dataset)) < 50_000
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[1, 3][0], dataset[1, 3][0])


def test_what_takes_more_than_the_config_allows_is_decoded_every_epoch(
    context: Callable[..., TrainingContext], capsys: pytest.CaptureFixture[str]
) -> None:
    made = context("cache.max_gb=0.0001")
    assert made.live_data(made.config).caches == {}
    assert (
        "images are decoded every epoch: kept, they take 0.0 GB, cache.max_gb is 0.0001"
        in capsys.readouterr().out
    )


def test_a_full_disk_stops_nothing_and_gets_its_room_back(
    context: Callable[..., TrainingContext],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = context()
    write = feature_cache.os.write

    def full(number: int, content: memoryview) -> int:
        if len(content) > 5000:  # the images of 48 px, and not their sizes
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(number, content)

    monkeypatch.setattr(feature_cache.os, "write", full)
    assert made.live_data(made.config).caches == {}
    assert "has no room" in capsys.readouterr().out
    assert not list((tmp_path / "cache").glob("*.part"))


def test_what_was_decoded_before_a_stop_is_not_decoded_again(
    context: Callable[..., TrainingContext], own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from breedlab.training import pixel_cache

    made = context()
    expected = batches(made.data(made.config))
    done: list[Path] = []
    read = pixel_cache.read_pixels

    def stopped(path: Path) -> np.ndarray:  # type: ignore[type-arg]
        if path.parent.parent.name == "train":
            done.append(path)
            if len(done) == 80:
                raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(pixel_cache, "read_pixels", stopped)
    with pytest.raises(KeyboardInterrupt):
        made.live_data(made.config)
    before = len(done)
    kept = made.live_data(made.config)
    assert len(done) - before < 100 - 10  # a window of them was decoded and not written
    assert all(torch.equal(*pair) for pair in zip(expected, batches(kept), strict=True))


def test_a_run_comes_out_the_same(configure: Configure, here: Path, tmp_path: Path) -> None:
    losses = []
    for pixels in ("false", "true"):
        config = configure(
            "model.freeze=none", f"cache.dir={tmp_path / 'cache'}", f"cache.pixels={pixels}"
        )
        losses.append(run(config, []).metrics["test"]["metrics"])
    assert losses[0] == losses[1]
