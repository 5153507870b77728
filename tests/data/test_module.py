"""Batches: the same for the same seed whoever loads them, each image once an epoch, views that
repeat."""

from __future__ import annotations

import functools
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from codes import raises_code
from PIL import Image

from breedlab.config import Config, validate
from breedlab.config.compose import load
from breedlab.data.batches import TrainingBatches, Views, batch_indices, epoch_order
from breedlab.data.decode import decode
from breedlab.data.folders import SPLITS, scan
from breedlab.data.image_set import ImageSet, LabeledImage
from breedlab.data.module import ImageData
from breedlab.data.sample import write_sample
from breedlab.data.transforms import EvalTransform
from breedlab.errors import DataError

Configure = Callable[..., Config]
Epoch = list[tuple[torch.Tensor, torch.Tensor]]

EVALUATION = EvalTransform(36, 32, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="session")
def configure() -> Configure:
    """Composed once for all tests that ask for the same; the images come from a scan, not from
    `data.root`."""

    @functools.cache
    def make(*more: str) -> Config:
        small = (
            "data=image_folder",
            "data.root=.",
            "data.batch_size=16",
            "data.num_workers=0",
            "seed=7",
        )
        return validate(load(["name=small", "model=resnet34", *small, *more]))

    return make


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 classes; 10 training, 3 validation and 3 test images each."""
    root = tmp_path_factory.mktemp("photos") / "sample"
    write_sample(root, classes=4, train=10, valid=3, test=3, size=40, seed=1)
    return root


def read(root: Path) -> ImageSet:
    return scan(root, valid_fraction=0.2, test_fraction=0.2, seed=0)


def make(config: Config, images: ImageSet, frozen_views: int | None = None) -> ImageData:
    return ImageData(images, config.data, EVALUATION, config.seed, frozen_views)


def epochs(data: ImageData, *which: int) -> list[Epoch]:
    """Epochs of training as a trainer runs them: one loader, told the epoch each time."""
    loader = data.train_dataloader()
    batches = loader.batch_sampler
    assert isinstance(batches, TrainingBatches)
    found = []
    for epoch in which:
        batches.set_epoch(epoch)
        found.append([(images.clone(), labels.clone()) for images, labels in loader])
    return found


def same(one: Epoch, other: Epoch) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) and torch.equal(m, n) for (a, m), (b, n) in zip(one, other, strict=True)
    )


def seen(epoch: Epoch) -> Counter[bytes]:
    return Counter(image.contiguous().numpy().tobytes() for images, _ in epoch for image in images)


TRAINS = ("model.freeze=none", "data.augment=basic")
FROZEN = ("model.freeze=backbone", "data.augment=basic", "cache.views=3")


@pytest.mark.parametrize("augment", ["none", "basic", "trivial"])
def test_batches_are_the_same_whatever_the_number_of_workers(
    configure: Configure, image_folder: Path, augment: str
) -> None:
    words = ("model.freeze=none", f"data.augment={augment}")
    alone, together = (
        epochs(make(configure(*words, f"data.num_workers={workers}"), read(image_folder)), 0, 3)
        for workers in (0, 2)
    )
    assert same(alone[0], together[0])
    assert same(alone[1], together[1])


def test_an_epoch_is_the_same_whichever_ran_before_it(
    configure: Configure, image_folder: Path
) -> None:
    """So that a run that resumes at epoch 2 sees what it would have seen."""
    data = make(configure(*TRAINS), read(image_folder))
    assert same(epochs(data, 0, 1, 2)[2], epochs(data, 2)[0])


def test_epochs_differ_in_order_and_seeds_in_both_order_and_augmentation(
    configure: Configure, image_folder: Path
) -> None:
    plain = make(configure("model.freeze=none"), read(image_folder))
    first, second = epochs(plain, 0, 1)
    assert not same(first, second)
    assert seen(first) == seen(second), "without augmentation the images themselves stay"
    one, other = (
        epochs(make(configure(*TRAINS, f"seed={seed}"), read(image_folder)), 0)[0]
        for seed in (1, 2)
    )
    assert not torch.equal(
        torch.cat([labels for _, labels in one]), torch.cat([labels for _, labels in other])
    )
    assert not set(seen(one)) & set(seen(other))


def test_every_image_is_seen_once_an_epoch_with_its_label(
    configure: Configure, image_folder: Path
) -> None:
    data = make(configure("model.freeze=none"), read(image_folder))
    expected = {
        EVALUATION(decode(labeled.path.read_bytes())).contiguous().numpy().tobytes(): labeled.label
        for labeled in data.images.splits["train"]
    }
    for epoch in epochs(data, 0, 1, 7):
        assert seen(epoch) == Counter(expected.keys())
        for images, labels in epoch:
            assert images.dtype == torch.uint8
            assert labels.dtype == torch.int64
            assert [
                expected[image.contiguous().numpy().tobytes()] for image in images
            ] == labels.tolist()
        assert [len(labels) for _, labels in epoch] == [16, 16, 8]


def test_batches_mix_the_classes(configure: Configure, image_folder: Path) -> None:
    (epoch,) = epochs(make(configure("model.freeze=none"), read(image_folder)), 0)
    assert all(len(set(labels.tolist())) > 1 for _, labels in epoch)


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [
        (9, 4, [4, 4]),
        (8, 4, [4, 4]),
        (10, 4, [4, 4, 2]),
        (3, 4, [3]),
        (1, 4, [1]),
        (3, 2, [2]),
        (2, 2, [2]),
    ],
)
def test_only_a_last_batch_of_one_is_left_out(count: int, size: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in batch_indices(torch.arange(count), size)] == sizes
    assert len(TrainingBatches(count, size, 0, Views(None, "none"))) == len(sizes)


def test_batches_of_one_lose_no_image() -> None:
    """data.batch_size=1 is allowed: then the last batch is as good as all others."""
    assert [batch.tolist() for batch in batch_indices(torch.arange(3), 1)] == [[0], [1], [2]]


def test_the_image_left_out_is_another_one_each_epoch(
    configure: Configure, image_folder: Path
) -> None:
    data = make(configure("model.freeze=none", "data.batch_size=13"), read(image_folder))
    first, second = epochs(data, 0, 1)
    for epoch in (first, second):
        assert [len(labels) for _, labels in epoch] == [13, 13, 13]
        assert max(seen(epoch).values()) == 1
    assert set(seen(first)) != set(seen(second))
    assert len(data.train_dataloader()) == 3


def test_an_order_is_a_permutation_by_seed_and_epoch() -> None:
    orders = {
        tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(3) for epoch in range(3)
    }
    assert len(orders) == 9
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert torch.equal(epoch_order(50, 1, 2), epoch_order(50, 1, 2))


def view(data: ImageData, number: int, split: str = "train") -> Epoch:
    return list(data.view_dataloader(split, number, batch_size=7))


def test_view_0_is_the_evaluation_transform_exactly_in_the_order_of_the_images(
    configure: Configure, image_folder: Path
) -> None:
    data = make(configure(*FROZEN), read(image_folder), frozen_views=3)
    images = torch.cat([images for images, _ in view(data, 0)])
    labels = torch.cat([labels for _, labels in view(data, 0)])
    expected = [
        EVALUATION(decode(image.path.read_bytes())) for image in data.images.splits["train"]
    ]
    assert torch.equal(images, torch.stack(expected))
    assert torch.equal(labels, data.labels("train"))


def test_a_view_repeats_and_differs_from_the_others(
    configure: Configure, image_folder: Path
) -> None:
    data = make(configure(*FROZEN), read(image_folder), frozen_views=3)
    again = make(configure(*FROZEN, "data.num_workers=2"), read(image_folder), frozen_views=3)
    views = [view(data, number) for number in range(3)]
    assert same(views[1], view(again, 1))
    assert same(views[2], view(data, 2))
    shown = [set(seen(found)) for found in views]
    assert not shown[0] & shown[1]
    assert not shown[0] & shown[2]
    assert not shown[1] & shown[2]


@pytest.mark.parametrize("seed", [20_261_231, 2**32 - 1])
def test_every_seed_that_the_config_allows_augments(
    configure: Configure, image_folder: Path, seed: int
) -> None:
    """A date is a popular seed."""
    dataset = make(configure(*TRAINS, f"seed={seed}"), read(image_folder)).dataset("train")
    for view_number in (1, 2, 200):
        one, other = dataset[(view_number, 0)][0], dataset[(view_number, 1)][0]
        assert torch.equal(one, dataset[(view_number, 0)][0])
        assert not torch.equal(one, other)


def test_two_images_are_augmented_differently(configure: Configure, tmp_path: Path) -> None:
    """The same content twice: only the draw of the augmentation tells them apart."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for i in range(2):
        Image.fromarray(noise).save(tmp_path / f"{i}.jpg")
    images = ImageSet(
        tmp_path,
        ("a",),
        {s: tuple(LabeledImage(tmp_path / f"{i}.jpg", 0) for i in range(2)) for s in SPLITS},
    )
    dataset = make(configure(*TRAINS), images).dataset("train")
    assert not torch.equal(dataset[(1, 0)][0], dataset[(1, 1)][0])


def test_a_frozen_backbone_sees_its_views_in_turn(configure: Configure, image_folder: Path) -> None:
    data = make(configure(*FROZEN), read(image_folder), frozen_views=3)
    found = epochs(data, 0, 1, 2, 3, 4)
    shown = [seen(epoch) for epoch in found]
    assert shown[0] == seen(view(data, 0))
    assert shown[1] == seen(view(data, 1))
    assert shown[3] == shown[0]
    assert shown[4] == shown[1]
    assert not set(shown[0]) & set(shown[1])
    assert not same(found[0], found[3]), "the images repeat, their order does not"


def test_a_backbone_that_trains_sees_fresh_augmentation_every_epoch(
    configure: Configure, image_folder: Path
) -> None:
    data = make(configure(*TRAINS), read(image_folder))
    shown = [set(seen(epoch)) for epoch in epochs(data, 0, 1, 2, 3)]
    plain = set(seen(view(data, 0)))
    for i, one in enumerate(shown):
        assert not one & plain
        assert not any(one & other for other in shown[:i])


@pytest.mark.parametrize("split", ["valid", "test"])
def test_validation_and_test_are_never_augmented_or_shuffled_and_complete(
    configure: Configure, image_folder: Path, split: str
) -> None:
    data = make(configure(*TRAINS), read(image_folder))
    loader = data.val_dataloader() if split == "valid" else data.test_dataloader()
    images = torch.cat([images for images, _ in loader])
    expected = [EVALUATION(decode(image.path.read_bytes())) for image in data.images.splits[split]]
    assert torch.equal(images, torch.stack(expected))
    assert torch.equal(torch.cat([labels for _, labels in loader]), data.labels(split))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", ["basic", "trivial"])
def test_loading_draws_nothing_from_the_generators_that_training_uses(
    configure: Configure, image_folder: Path, workers: int, augment: str
) -> None:
    data = make(
        configure("model.freeze=none", f"data.augment={augment}", f"data.num_workers={workers}"),
        read(image_folder),
    )
    torch.manual_seed(5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    epochs(data, 0, 1)
    list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()


def test_the_generator_of_training_does_not_change_the_batches(
    configure: Configure, image_folder: Path
) -> None:
    data = make(configure(*TRAINS), read(image_folder))
    torch.manual_seed(1)
    (one,) = epochs(data, 0)
    torch.manual_seed(2)
    (other,) = epochs(data, 0)
    assert same(one, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_loading_leaves_the_generator_of_the_gpu_alone(
    configure: Configure, image_folder: Path
) -> None:
    """Dropout draws from it: seeded again by each image, it would repeat itself every epoch."""
    data = make(configure(*TRAINS), read(image_folder))
    torch.cuda.manual_seed(5)
    before = torch.cuda.get_rng_state()
    epochs(data, 0)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_loading_seeds_no_other_device(
    configure: Configure, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above shows on a GPU, watched for where there is none."""
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    epochs(make(configure(*TRAINS), read(image_folder)), 0)
    assert seeds == []


def counted(root: Path, *counts: int) -> ImageSet:
    train = tuple(
        LabeledImage(root / f"{label}-{i}.jpg", label)
        for label, count in enumerate(counts)
        for i in range(count)
    )
    return ImageSet(
        root, tuple("abcdef"[: len(counts)]), {"train": train, "valid": train, "test": train}
    )


def test_balanced_class_weights_weigh_every_class_alike_with_mean_1_over_the_images(
    configure: Configure, tmp_path: Path
) -> None:
    images = counted(tmp_path, 10, 40, 50)
    weights = make(configure("data.class_weights=balanced"), images).class_weights()
    assert weights is not None
    counts = torch.tensor([10.0, 40.0, 50.0])
    assert float((weights * counts).sum() / counts.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(weights * counts, torch.full((3,), 100 / 3))


def test_even_classes_weigh_1_and_no_weights_are_none(configure: Configure, tmp_path: Path) -> None:
    images = counted(tmp_path, 7, 7)
    weights = make(configure("data.class_weights=balanced"), images).class_weights()
    assert weights is not None
    assert weights.tolist() == [1.0, 1.0]
    assert make(configure(), images).class_weights() is None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_image_that_vanishes_after_the_check_is_named(
    configure: Configure, image_folder: Path, tmp_path: Path, workers: int
) -> None:
    shutil.copytree(image_folder, tmp_path / "photos")
    found = read(tmp_path / "photos")
    gone = found.splits["train"][5].path
    gone.unlink()
    with pytest.raises(DataError) as error:
        epochs(make(configure(f"data.num_workers={workers}"), found), 0)
    message = str(error.value)
    assert str(gone) in message
    assert "cannot be read (No such file or directory); it was there at the data check" in message
    assert "Traceback" not in message, "what a user sees is one message"


def test_a_image_that_breaks_after_the_check_is_named(
    configure: Configure, image_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(image_folder, tmp_path / "photos")
    found = read(tmp_path / "photos")
    broken = found.splits["valid"][2].path
    broken.write_bytes(broken.read_bytes()[:100])
    with raises_code("BL202", names=broken):
        list(make(configure(), found).val_dataloader())
