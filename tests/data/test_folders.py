"""Folders of class folders: what is found, what is cut, what is refused and in which words."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from codes import raises_code

from breedlab.data.folders import SPLITS, display_names, is_absent, scan
from breedlab.data.image_set import ImageSet
from breedlab.data.listing import find_images


def put(root: Path, *names: str) -> None:
    """Empty files: a scan looks at names only."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def fill(folder: Path, classes: Mapping[str, int]) -> None:
    for name, count in classes.items():
        put(folder, *(f"{name}/{index:04}.jpg" for index in range(count)))


def read(root: Path, *, seed: int = 0, valid: float = 0.15, test: float = 0.15) -> ImageSet:
    return scan(root, valid_fraction=valid, test_fraction=test, seed=seed)


def files(images: ImageSet, splits: Iterable[str] = SPLITS) -> list[str]:
    return [
        image.path.relative_to(images.root).as_posix()
        for split in splits
        for image in images.splits[split]
    ]


LAYOUT = "BL211"


def refusal(root: Path, code: str = "BL200") -> str:
    with raises_code(code) as caught:
        read(root)
    return str(caught.value)


# ---------------------------------------------------------------- splits that have a folder


@pytest.mark.parametrize("alias", ["valid", "validation", "val"])
def test_every_name_of_the_validation_folder_is_known(tmp_path: Path, alias: str) -> None:
    for folder, count in (("train", 5), (alias, 3), ("test", 2)):
        fill(tmp_path / folder, {"cat": count, "dog": count})
    images = read(tmp_path)
    assert [images.counts(split) for split in SPLITS] == [[5, 5], [3, 3], [2, 2]]
    assert images.classes == ("cat", "dog")
    assert images.cut == ()
    assert all(name.startswith(f"{alias}/") for name in files(images, ["valid"]))


@pytest.mark.parametrize("names", [("Train", "Valid", "Test"), ("TRAIN", "Validation", "test")])
def test_split_folders_may_be_written_in_capitals(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Read as classes they would make a network that tells training images from test images."""
    for folder in names:
        fill(tmp_path / folder, {"cat": 2, "dog": 2})
    images = read(tmp_path)
    assert images.classes == ("cat", "dog")
    assert images.cut == ()


def test_a_label_is_the_place_of_its_class_in_the_list(tmp_path: Path) -> None:
    for split in SPLITS:
        fill(tmp_path / split, {"pug": 2, "boxer": 2, "collie": 2})
    images = read(tmp_path)
    assert images.classes == ("boxer", "collie", "pug")
    for split in SPLITS:
        assert all(
            images.classes[image.label] == image.path.parent.name for image in images.splits[split]
        )


def test_folders_beside_the_splits_are_no_classes(tmp_path: Path) -> None:
    for split in SPLITS:
        fill(tmp_path / split, {"cat": 2, "dog": 2})
    fill(tmp_path / "annotations", {"boxes": 3})
    put(tmp_path, "README.md", "photo.jpg")
    assert len(files(read(tmp_path))) == 12


# ---------------------------------------------------------------- splits that are cut from train

MANY = {"a": 20, "b": 40, "c": 100, "d": 7}


@pytest.mark.parametrize(
    ("given", "cut"),
    [
        (("train",), ("valid", "test")),
        (("train", "val"), ("test",)),
        (("train", "test"), ("valid",)),
    ],
)
def test_a_missing_split_is_cut_from_train(
    tmp_path: Path, given: tuple[str, ...], cut: tuple[str, ...]
) -> None:
    for folder in given:
        fill(tmp_path / folder, MANY)
    images = read(tmp_path)
    assert images.cut == cut
    for split in cut:
        assert images.splits[split]
        assert all(name.startswith("train/") for name in files(images, [split]))
    for split in {"valid", "test"} - set(cut):
        assert images.counts(split) == list(MANY.values()), "a split with a folder stays as it is"


@pytest.mark.parametrize(("valid", "test"), [(0.15, 0.15), (0.1, 0.2), (0.3, 0.05)])
def test_every_class_is_in_each_cut_in_proportion(
    tmp_path: Path, valid: float, test: float
) -> None:
    fill(tmp_path / "train", MANY)
    images = read(tmp_path, valid=valid, test=test)
    for index, count in enumerate(MANY.values()):
        for split, fraction in (("valid", valid), ("test", test), ("train", 1 - valid - test)):
            found = images.counts(split)[index]
            assert found >= 1
            assert abs(found - fraction * count) <= 1, (split, count)


def test_a_cut_loses_and_doubles_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "train", MANY)
    found = files(read(tmp_path))
    assert len(found) == len(set(found)) == sum(MANY.values())


def test_the_seed_alone_decides_the_cut(tmp_path: Path) -> None:
    for root in ("here", "there/deeper"):
        fill(tmp_path / root / "train", MANY)
    one = read(tmp_path / "here", seed=3)
    assert read(tmp_path / "here", seed=3) == one
    random.seed(99)
    moved = read(tmp_path / "there/deeper", seed=3)
    assert [files(moved, [split]) for split in SPLITS] == [files(one, [split]) for split in SPLITS]
    other = read(tmp_path / "here", seed=4)
    assert files(other, ["valid"]) != files(one, ["valid"])
    assert files(other, ["test"]) != files(one, ["test"])
    assert [other.counts(split) for split in SPLITS] == [one.counts(split) for split in SPLITS]


def test_the_cut_does_not_take_the_first_files(tmp_path: Path) -> None:
    # Names often follow the camera: neighbors are alike, so a cut by name would flatter the
    # result.
    fill(tmp_path, {"a": 100, "b": 100})
    images = read(tmp_path)
    numbers = [int(image.path.stem) for image in images.splits["test"]]
    assert min(numbers) < 50 <= max(numbers)


def test_a_root_of_bare_class_folders(tmp_path: Path) -> None:
    fill(tmp_path, MANY)
    images = read(tmp_path)
    assert images.classes == ("a", "b", "c", "d")
    assert images.cut == ("valid", "test")
    assert len(set(files(images))) == sum(MANY.values())
    assert min(images.counts("valid")) >= 1 and min(images.counts("test")) >= 1


def test_three_images_make_three_splits(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 3, "b": 3})
    assert [read(tmp_path).counts(split) for split in SPLITS] == [[1, 1]] * 3


@pytest.mark.parametrize(
    ("given", "count", "cut"), [((), 2, "valid and test"), (("test",), 1, "valid")]
)
def test_too_few_images_to_cut(
    tmp_path: Path, given: tuple[str, ...], count: int, cut: str
) -> None:
    for folder in ("train", *given):
        fill(tmp_path / folder, {"plenty": 30, "rare": count})
    text = refusal(tmp_path)
    assert str(tmp_path / "train" / "rare") in text
    images = "1 image is" if count == 1 else f"{count} images are"
    assert f"{images} too few to cut {cut} from" in text


@pytest.mark.parametrize(
    ("count", "valid", "test"), [(4, 0.45, 0.45), (3, 0.7, 0.2), (3, 0.2, 0.7), (5, 0.8, 0.1)]
)
def test_a_class_with_as_many_images_as_the_refusal_asks_for_is_cut(
    tmp_path: Path, count: int, valid: float, test: float
) -> None:
    """A refusal says "expected at least 3"."""
    fill(tmp_path, {"a": 20, "b": count})
    counts = [read(tmp_path, valid=valid, test=test).counts(split) for split in SPLITS]
    assert [sum(both) for both in zip(*counts, strict=True)] == [20, count]
    assert all(min(count) >= 1 for count in counts)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("folder", "shown"),
    [
        ("001.Affenpinscher", "Affenpinscher"),
        ("002.Afghan_hound", "Afghan hound"),
        ("10.Brabançon_grifon_belge", "Brabançon grifon belge"),
        ("t-shirt", "t-shirt"),
        ("snake_case", "snake_case"),
        ("3.5mm", "3.5mm"),
        ("007", "007"),
        ("n02085620-Chihuahua", "n02085620-Chihuahua"),
    ],
)
def test_names_as_people_see_them(folder: str, shown: str) -> None:
    assert display_names([folder, "zebra"]) == (shown, "zebra")


@pytest.mark.parametrize(
    "names", [["001.Dog", "002.Dog", "003.Cat"], ["1.Dog", "Cat", "Dog"], ["1.a_b", "a b"]]
)
def test_names_that_would_collide_stay_as_they_are(names: list[str]) -> None:
    assert display_names(names) == tuple(names)


def test_numbered_folders_keep_their_order_and_lose_their_numbers(tmp_path: Path) -> None:
    fill(tmp_path, {"002.Afghan_hound": 4, "001.Zwergpinscher": 4})
    images = read(tmp_path)
    assert images.classes == ("Zwergpinscher", "Afghan hound")
    assert {image.path.parent.name for image in images.splits["train"] if image.label == 0} == {
        "001.Zwergpinscher"
    }


# ---------------------------------------------------------------- what does not fit together


def test_every_disagreement_about_classes_is_told_at_once(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 2, "dog": 2})
    fill(tmp_path / "val", {"cat": 2, "dgo": 2})
    fill(tmp_path / "test", {"cat": 2, "dog": 2, "emu": 2})
    text = refusal(tmp_path)
    assert f"{tmp_path / 'val'} has dgo" in text
    assert f"{tmp_path / 'val'} is missing dog" in text
    assert f"{tmp_path / 'test'} has emu" in text


def test_many_extra_classes_are_listed_in_part(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"class000": 2, "class100": 2})
    fill(tmp_path / "test", {f"class{index:03}": 2 for index in range(101)})
    text = refusal(tmp_path)
    assert "class001" in text and "and 91 more" in text
    assert len(text) < 500


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    text = refusal(tmp_path / "photoz")
    assert "data.root" in text and str(tmp_path / "photoz") in text


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    put(tmp_path, "photos.zip")
    text = refusal(tmp_path / "photos.zip")
    assert str(tmp_path / "photos.zip") in text and "is a file" in text
    assert "unpack it first" in text


@pytest.mark.parametrize("inside", ["", "train"])
def test_an_empty_root(tmp_path: Path, inside: str) -> None:
    (tmp_path / inside).mkdir(exist_ok=True)
    text = refusal(tmp_path, LAYOUT)
    assert str(tmp_path / inside) in text and "0 class folders" in text and "<class>" in text


def test_a_root_of_images_without_class_folders(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", "2.jpg")
    assert "0 class folders" in refusal(tmp_path, LAYOUT)


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    fill(tmp_path, {"dog": 10})
    assert "1 class folder (dog)" in refusal(tmp_path, LAYOUT)


@pytest.mark.parametrize("given", [("test",), ("val", "test")])
def test_splits_without_a_train_folder(tmp_path: Path, given: tuple[str, ...]) -> None:
    for folder in given:
        fill(tmp_path / folder, {"cat": 3, "dog": 3})
    text = refusal(tmp_path, LAYOUT)
    assert str(tmp_path) in text and "train folder" in text
    assert all(folder in text for folder in given)


def test_two_names_for_one_split(tmp_path: Path) -> None:
    for folder in ("train", "valid", "val"):
        fill(tmp_path / folder, {"cat": 3, "dog": 3})
    text = refusal(tmp_path, LAYOUT)
    assert "val and valid" in text and "data.ignore=[valid]" in text


def test_class_folders_without_images_are_named(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 5, "dog": 5})
    put(tmp_path, "emu/notes.txt")
    (tmp_path / "yak").mkdir()
    text = refusal(tmp_path)
    assert "emu, yak" in text


# ---------------------------------------------------------------- which files count


def test_hidden_files_and_other_endings_are_no_images(tmp_path: Path) -> None:
    for split in SPLITS:
        fill(tmp_path / split, {"cat": 2, "dog": 2})
        litter = (
            ".DS_Store",
            "Thumbs.db",
            "._0000.jpg",
            ".hidden.jpg",
            "notes.txt",
            "0000.jpg.json",
            "jpg",
        )
        put(tmp_path / split / "cat", *litter)
        put(tmp_path / split, ".DS_Store", "labels.csv", ".cache/x.jpg")
        put(tmp_path / split / "cat", ".thumbnails/0000.jpg")
    put(tmp_path, ".DS_Store", ".git/x.jpg")
    images = read(tmp_path)
    assert images.classes == ("cat", "dog")
    assert [images.counts(split) for split in SPLITS] == [[2, 2]] * 3


def test_litter_in_a_root_of_bare_class_folders(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 5, "dog": 5})
    put(tmp_path, ".DS_Store", "README.txt", ".ipynb_checkpoints/x.jpg")
    assert read(tmp_path).classes == ("cat", "dog")


def test_images_in_folders_inside_a_class_belong_to_it(tmp_path: Path) -> None:
    put(tmp_path, *(f"train/dog/summer/{day}/{n}.jpg" for day in ("mon", "tue") for n in range(3)))
    put(tmp_path, *(f"train/cat/{n}.jpg" for n in range(4)))
    images = read(tmp_path)
    assert images.classes == ("cat", "dog")
    assert sum(images.counts(split)[1] for split in SPLITS) == 6


@pytest.mark.parametrize(
    "name",
    [
        "a.jpg",
        "a.JPG",
        "a.Jpeg",
        "a.PNG",
        "a.webp",
        "a.BMP",
        "a.gif",
        "a.tif",
        "a.TIFF",
        "a.jfif",
        "two.dots.JPG",
    ],
)
def test_endings_in_either_case(tmp_path: Path, name: str) -> None:
    put(tmp_path, name)
    assert [path.name for path in find_images(tmp_path)] == [name]


def test_names_from_all_over_the_world_are_found(tmp_path: Path) -> None:
    names = ["собака 1.jpg", "犬.png", "with space.jpg", "quote'\".gif"]
    put(tmp_path, *names)
    assert {path.name for path in find_images(tmp_path)} == set(names)


def test_a_linked_class_folder_is_followed(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", {"dog": 5})
    fill(tmp_path / "root", {"cat": 5})
    (tmp_path / "root/dog").symlink_to(tmp_path / "elsewhere/dog")
    images = read(tmp_path / "root")
    assert sum(images.counts(split)[1] for split in SPLITS) == 5


def test_a_link_back_into_its_own_folder_doubles_no_image(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 5, "dog": 5})
    (tmp_path / "cat" / "loop").symlink_to(tmp_path / "cat")
    assert len(files(read(tmp_path))) == 10


def test_what_is_absent(tmp_path: Path) -> None:
    assert is_absent(tmp_path / "nothing")
    assert is_absent(tmp_path)
    put(tmp_path, "file")
    assert not is_absent(tmp_path)
    assert not is_absent(tmp_path / "file")
