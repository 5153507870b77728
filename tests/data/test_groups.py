"""Groups of images that belong together: no dog is in two splits."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from codes import raises_code
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold

from breedlab.data.check import check, inspect
from breedlab.data.cuts import spread
from breedlab.data.folders import SPLITS, scan, survey
from breedlab.data.image_set import ImageSet
from breedlab.errors import DataError


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def read(root: Path, group: str, labels: str = "auto", seed: int = 0) -> ImageSet:
    return scan(root, valid_fraction=0.2, test_fraction=0.2, seed=seed, labels=labels, group=group)


def splits_of_groups(images: ImageSet) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for split in SPLITS:
        for image in images.splits[split]:
            found.setdefault(image.group, set()).add(split)
    return found


def dogs(root: Path) -> None:
    """Two breeds, ten dogs each, one to six images of a dog."""
    draw = random.Random(0)
    for breed in ("collie", "pug"):
        for dog in range(10):
            put(root, *(f"{breed}/{breed}{dog}_{n}.jpg" for n in range(draw.randint(1, 6))))


def test_no_dog_is_in_two_splits(tmp_path: Path) -> None:
    dogs(tmp_path)
    images = read(tmp_path, "^([^_]+)_")
    found = splits_of_groups(images)
    assert len(found) == 20 and all(len(splits) == 1 for splits in found.values())
    assert all(min(images.counts(split)) > 0 for split in SPLITS)
    total = sum(len(images.splits[split]) for split in SPLITS)
    assert 0.1 < len(images.splits["test"]) / total < 0.3
    assert any("20 groups" in note for note in images.notes)
    again = read(tmp_path, "^([^_]+)_")
    assert again.splits == images.splits
    assert read(tmp_path, "^([^_]+)_", seed=1).splits != images.splits
    without = scan(tmp_path, valid_fraction=0.2, test_fraction=0.2, seed=0)
    assert any(
        len({p.path.name.split("_")[0] for p in without.splits[s]} & others) > 0
        for s in ("valid", "test")
        for others in [{p.path.name.split("_")[0] for p in without.splits["train"]}]
    ), "without groups dogs are in two splits, so the test says something"


def test_a_column_of_the_label_file_names_the_groups(tmp_path: Path) -> None:
    rows = ["file,breed,dog_id"]
    for n in range(60):
        put(tmp_path, f"images/{n:02}.jpg")
        rows.append(f"{n:02}.jpg,{'pug' if n % 2 else 'collie'},{'' if n > 57 else n // 4}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    images = read(tmp_path, "dog_id")
    found = splits_of_groups(images)
    assert len(found) == 15 + 2 and all(len(splits) == 1 for splits in found.values())
    assert any("15 groups of 58 images; 2 images have none" in note for note in images.notes)


def test_a_file_beside_class_folders_names_the_groups(tmp_path: Path) -> None:
    dogs(tmp_path)
    names = sorted(tmp_path.glob("*/*.jpg"))
    rows = [f"{path.parent.name}/{path.name},{path.stem[-3]}" for path in names]
    (tmp_path / "dogs.csv").write_text("\n".join(["file,day", *rows]))
    found = splits_of_groups(read(tmp_path, "day"))
    assert len(found) == 10 and all(len(splits) == 1 for splits in found.values())


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_spread_as_evenly_as_scikit_learn_does(seed: int) -> None:
    """Its StratifiedGroupKFold is the judge: a fifth is to have a fifth of each class."""
    draw = np.random.default_rng(seed)
    groups = np.repeat(np.arange(80), draw.integers(1, 12, 80))
    labels = draw.integers(0, 3, 80)[groups]
    mixed = draw.random(len(groups)) < 0.2
    labels[mixed] = draw.integers(0, 3, int(mixed.sum()))
    counts = {str(group): Counter(labels[groups == group].tolist()) for group in np.unique(groups)}
    split_of = spread(counts, {"valid": 0.2, "test": 0.2}, seed)

    def unevenness(inside: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
        return max(abs(float(inside[labels == label].mean()) - 0.2) for label in range(3))

    place = np.array([split_of[str(group)] for group in groups])
    ours = max(unevenness(place == split) for split in ("valid", "test"))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(labels, labels, groups)
    theirs = [unevenness(np.isin(np.arange(len(labels)), test)) for _, test in folds]
    assert ours <= max(theirs) + 0.01
    assert ours < 0.06


def test_every_class_is_trained_on_and_tested_where_its_groups_allow() -> None:
    counts = {
        "only": Counter({0: 30}),  # the one group of its class
        **{f"b{n}": Counter({1: 1}) for n in range(3)},
        **{f"c{n}": Counter({2: 8}) for n in range(12)},
    }
    for seed in range(10):
        split_of = spread(counts, {"valid": 0.15, "test": 0.15}, seed)
        assert split_of["only"] == "train"
        assert {split_of[f"b{n}"] for n in range(3)} == {"train", "valid", "test"}


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_the_check_names_groups_that_given_splits_divide(tmp_path: Path) -> None:
    root = tmp_path / "data"
    number = 0
    for split, numbers in (("train", range(6)), ("valid", range(6, 8)), ("test", range(5, 8))):
        for breed in ("collie", "pug"):
            for dog in numbers:
                number += 1
                draw(root / split / breed / f"{breed}{dog}_{number}.jpg", number)
    images = survey(root, valid_fraction=0.2, test_fraction=0.2, seed=0, group="^([^_]+)_")
    with pytest.raises(DataError) as caught:
        check(images, tmp_path / "memory", on_bad_file="error")
    message = str(caught.value)
    assert "collie5, which the test split has, too" in message
    assert "collie6, which the test split has, too" in message
    assert "data.on_bad_file=skip" in message
    one = root / "valid" / "pug" / "new_1.jpg"
    draw(one, 999)
    draw(root / "valid" / "collie" / "other_1.jpg", 1000)
    images = survey(root, valid_fraction=0.2, test_fraction=0.2, seed=0, group="^([^_]+)_")
    report = check(images, tmp_path / "memory", on_bad_file="skip")
    assert all(len(splits) == 1 for splits in splits_of_groups(report.images).values())
    assert len(report.images.splits["test"]) == 6, "the test is kept whole"
    assert one in {image.path for image in report.images.splits["valid"]}
    assert len(report.leaks) == 2 + 4


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("dog_id", ["'dog_id'", "'collie0.jpg'", "file, day"]),
        ("([", ["'(['", "file, day", "position 1"]),
        ("^(collie)", ["1 groups", "3"]),
    ],
)
def test_a_group_that_says_nothing_is_refused(tmp_path: Path, group: str, names: list[str]) -> None:
    put(tmp_path, *(f"{breed}/collie{n}.jpg" for breed in ("collie", "pug") for n in range(9)))
    (tmp_path / "days.csv").write_text("file,day\ncollie/collie1.jpg,1\n")
    with raises_code("BL200", names=["data.group", *names]):
        read(tmp_path, group)


@pytest.mark.parametrize(
    ("group", "concern"),
    [("^([^_]+)_", ""), (r"^(.+)\.jpg", "no two images are in one group"), ("jpg", "(jpg)")],
)
def test_groups_that_keep_nothing_or_everything_together_are_a_warning(
    tmp_path: Path, group: str, concern: str
) -> None:
    root, number = tmp_path / "data", 0
    for split, dogs in (("train", "abcd"), ("valid", "ef"), ("test", "gh")):
        for breed in ("collie", "pug"):
            for dog in dogs * 2:
                number += 1
                draw(root / split / breed / f"{breed}{dog}_{number}.jpg", number)
    images = survey(root, valid_fraction=0.2, test_fraction=0.2, seed=0, group=group)
    report = inspect(images, tmp_path / "memory")
    said = "\n".join(report.warnings)
    assert concern in said and ("data.group" in said) == bool(concern)
    assert bool(report.leaks) == (group == "jpg")
