"""Training crops that grow from epoch to epoch (`data.start_size`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from breedlab.config import Config
from breedlab.data.batches import TrainingBatches
from breedlab.data.folders import scan
from breedlab.data.module import ImageData
from breedlab.data.sample import write_sample
from breedlab.data.transforms import CropSizes, EvalTransform

HALF = (0.5, 0.5, 0.5)
sides = st.integers(16, 600)


@given(sides, sides, st.integers(1, 60))
def test_crops_never_shrink_and_end_as_large_as_asked(one: int, other: int, epochs: int) -> None:
    first, last = sorted((one, other))
    sizes = CropSizes(first, last, epochs)
    grown = [sizes.of_epoch(epoch) for epoch in range(epochs)]
    assert grown == sorted(grown) and grown[-1] == last and grown[0] >= first
    assert epochs == 1 or grown[0] <= min(first + 16, last)
    assert all(side % 32 == 0 or side in (first, last) for side in grown)
    assert sizes.of_epoch(epochs) == last  # of a run that was given more epochs
    assert (first / last) ** 2 - 1e-9 <= sizes.cost() <= 1


def test_growing_halves_the_cost_of_an_epoch() -> None:
    assert 0.5 < CropSizes(112, 224, 8).cost() < 0.7


def test_batches_grow_and_validation_stays(
    configure: Callable[..., Config], tmp_path: Path
) -> None:
    root = tmp_path / "photos"
    write_sample(root, classes=2, train=6, valid=2, test=2, size=80, seed=1)
    words = ("model.freeze=none", "data.augment=basic", "data.start_size=32", "data.num_workers=1")
    config = configure(*words, f"data.root={root}", "data.sample=null")
    images = scan(root, valid_fraction=0.2, test_fraction=0.2, seed=0)
    evaluation = EvalTransform(104, 96, "bilinear", HALF, HALF)
    data = ImageData(images, config.data, evaluation, config.seed, None, epochs=4)
    loader = data.train_dataloader()
    assert isinstance(loader.batch_sampler, TrainingBatches)
    seen = []
    for epoch in (0, 1, 2, 3, 0):
        loader.batch_sampler.set_epoch(epoch)
        seen.append({tuple(batch.shape[2:]) for batch, _ in loader})
    assert seen == [{(32, 32)}, {(64, 64)}, {(64, 64)}, {(96, 96)}, {(32, 32)}]
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert {batch.shape[2] for batch, _ in loader} == {96}
