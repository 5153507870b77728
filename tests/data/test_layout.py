"""Folders as people have them: splits under names of their own, litter of systems, names that are
no UTF-8."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from codes import Names, raises_code
from PIL import Image

from breedlab.data.check import check
from breedlab.data.folders import SPLITS, scan, survey
from breedlab.data.image_set import ImageSet

JPEG = b"\xff\xd8\xff\xe0" + bytes(20)


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG)


def fill(folder: Path, *classes: str, count: int = 6) -> None:
    for name in classes:
        put(folder, *(f"{name}/{index:04}.jpg" for index in range(count)))


def read(root: Path, *ignore: str) -> ImageSet:
    return scan(root, valid_fraction=0.15, test_fraction=0.15, seed=0, ignore=ignore)


def refuse(root: Path, *ignore: str, code: str = "BL211", names: Names) -> None:
    with raises_code(code, names=names):
        read(root, *ignore)


# ---------------------------------------------------------------- splits under other names


@pytest.mark.parametrize(
    ("train", "valid", "test"),
    [
        ("Training", None, "Testing"),
        ("training_set/training_set", None, "test_set/test_set"),
        ("seg_train/seg_train", None, "seg_test/seg_test"),
        ("train_images", "val_images", None),
        ("train", "dev", "test"),
        ("train", "eval", "test"),
        ("train", "dev", "eval"),
        ("asl_alphabet_train/asl_alphabet_train", None, "asl_alphabet_test"),
        ("train2017", "val2017", "test2017"),
        ("TrainingSet", "ValidationSet", "TestSet"),
        ("train/train", "valid/valid", "test/test"),
        ("images-train", "images-valid", "images-test"),
    ],
)
def test_splits_are_known_by_the_names_that_people_give_them(
    tmp_path: Path, train: str, valid: str | None, test: str | None
) -> None:
    """Read as classes they made a network that tells training images from test images."""
    given = {"train": train, "valid": valid, "test": test}
    for split, name in given.items():
        if name:
            fill(tmp_path / name, "cat", "dog", count=8 if split == "train" else 3)
    images = read(tmp_path)
    assert images.classes == ("cat", "dog")
    assert images.cut == tuple(split for split, name in given.items() if name is None)
    for split, name in given.items():
        if name:
            assert all(image.path.is_relative_to(tmp_path / name) for image in images.splits[split])
    told = " ".join(images.notes)
    assert all(
        name in told
        for name in given.values()
        if name and name not in ("train", "dev", "test", "eval")
    )


@pytest.mark.parametrize(
    "classes",
    [
        ("train_station", "airport"),
        ("test_tube", "beaker", "train_wagon"),
        ("bus", "car", "train"),
        ("crash_test_dummy", "mannequin"),
        ("evaluation", "sketch"),
    ],
)
def test_classes_whose_names_hold_the_word_of_a_split_are_classes(
    tmp_path: Path, classes: tuple[str, ...]
) -> None:
    fill(tmp_path, *classes)
    assert read(tmp_path).classes == tuple(sorted(classes))


def test_classes_with_the_same_folders_inside_are_refused_as_likely_splits(tmp_path: Path) -> None:
    fill(tmp_path / "fold_a", "cat", "dog")
    fill(tmp_path / "fold_b", "cat", "dog")
    refuse(tmp_path, names=("fold_a", "fold_b", "cat", "dog", tmp_path / "train"))


def test_what_the_refusal_of_likely_splits_says_to_do_helps(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "train" / name, "summer", "winter")
    assert read(tmp_path).classes == ("cat", "dog")


def test_a_class_may_keep_its_images_in_one_folder_of_its_own(tmp_path: Path) -> None:
    """Tiny ImageNet's layout."""
    for name in ("n01443537", "n01629819"):
        put(tmp_path / "train" / name / "images", *(f"{index}.JPEG" for index in range(6)))
    assert read(tmp_path).classes == ("n01443537", "n01629819")


def test_a_folder_around_the_splits_is_named_as_the_root(tmp_path: Path) -> None:
    for split in ("train", "test"):
        fill(tmp_path / "chest_xray" / split, "NORMAL", "PNEUMONIA")
    (tmp_path / "__MACOSX").mkdir()
    refuse(tmp_path, names=f"data.root={tmp_path / 'chest_xray'}")


@pytest.mark.parametrize("around", ["animals", "archive/PetImages", "archive (1)/data/images"])
def test_folders_around_the_classes_are_followed_to_the_root_that_was_meant(
    tmp_path: Path, around: str
) -> None:
    """Kaggle's archives unpack to one folder, or several in one another."""
    fill(tmp_path / around, "cat", "dog")
    refuse(tmp_path, names=f"data.root={tmp_path / around}")
    assert read(tmp_path / around).classes == ("cat", "dog")


def test_splits_that_do_not_hold_all_the_same_classes_are_no_classes_either(
    tmp_path: Path,
) -> None:
    fill(tmp_path / "entrenamiento", "cat", "dog", "owl")
    fill(tmp_path / "prueba", "cat", "dog")
    refuse(tmp_path, names=("entrenamiento", "prueba"))


def test_the_largest_of_unnamed_splits_is_the_one_to_train_on(tmp_path: Path) -> None:
    fill(tmp_path / "Trainingsdaten", "cat", "dog", count=9)
    fill(tmp_path / "Testdaten", "cat", "dog")
    refuse(tmp_path, names=f"data.root={tmp_path / 'Trainingsdaten'}")


@pytest.mark.parametrize("inside", ["", "train"])
@pytest.mark.parametrize(
    "names", [("images", "labels"), ("images", "masks"), ("Annotations", "JPEGImages")]
)
def test_a_data_set_of_boxes_or_masks_has_no_classes(
    tmp_path: Path, inside: str, names: tuple[str, ...]
) -> None:
    """A network learned to tell images from their masks."""
    fill(tmp_path / inside, *names)
    if inside:
        fill(tmp_path / "valid", *names)
    refuse(tmp_path, names=(*names, "labels.csv"))


def test_a_class_too_small_to_be_cut_is_not_told_again_for_each_split(tmp_path: Path) -> None:
    root = tmp_path / "root"
    paint(root)
    (root / "emu").mkdir()
    (root / "cat" / "0.png").rename(root / "emu" / "0.png")
    found = survey(root, valid_fraction=0.2, test_fraction=0.2, seed=0)
    with raises_code("BL200", names=(root / "emu", "1 image")) as caught:
        check(found, tmp_path / "memory", on_bad_file="skip")
    assert "has no image of" not in str(caught.value)


def test_each_split_that_lacks_a_class_has_a_line_of_its_own(tmp_path: Path) -> None:
    """They were one line, with backslashes and n's in it."""
    fill(tmp_path / "train", "cat", "dog")
    fill(tmp_path / "test", "cat", "emu")
    found = survey(tmp_path, valid_fraction=0.2, test_fraction=0.2, seed=0)
    with raises_code("BL200") as caught:
        check(found, tmp_path / "memory", on_bad_file="error")
    lines = [line for line in str(caught.value).splitlines() if str(tmp_path / "test") in line]
    assert any("dog" in line for line in lines) and not any("\\n" in line for line in lines)


def test_two_versions_of_a_data_set_are_not_its_classes(tmp_path: Path) -> None:
    """Each holds nothing but `train`: a network learned to tell augmented images from others."""
    for version in ("augmented", "original"):
        fill(tmp_path / version / "train", "cat", "dog")
    refuse(tmp_path, names=f"data.root={tmp_path / 'augmented'}")


def test_classes_that_share_a_folder_or_two_are_classes(tmp_path: Path) -> None:
    for name, others in {"apple": ("rust", "scab"), "corn": ("blight", "smut")}.items():
        fill(tmp_path / name, "healthy", *others)
    assert read(tmp_path).classes == ("apple", "corn")


def test_splits_of_images_without_class_folders_are_no_classes(tmp_path: Path) -> None:
    """COCO's layout: the network learned to tell train2017 from val2017."""
    put(tmp_path, *(f"{name}/{i}.jpg" for name in ("train2017", "val2017") for i in range(6)))
    refuse(tmp_path, names=("train2017", "val2017", "labels.csv"))
    put(tmp_path, *(f"train 2/{i}.jpg" for i in range(6)))
    assert read(tmp_path, "val2017").classes == ("train 2", "train2017")


@pytest.mark.parametrize("inner", ["unknown", "test"])
def test_a_test_without_labels_in_a_folder_of_its_own_is_left_out_the_same_way(
    tmp_path: Path, inner: str
) -> None:
    fill(tmp_path / "train", "cat", "dog", count=10)
    put(tmp_path / "test", *(f"{inner}/{index}.jpg" for index in range(5)))
    refuse(tmp_path, code="BL200", names=("5 images", inner, "data.ignore=[test]"))


def test_a_split_whose_class_folders_are_empty_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train", "cat", "dog", count=10)
    for name in ("cat", "dog"):
        (tmp_path / "test" / name).mkdir(parents=True)
    refuse(tmp_path, code="BL200", names="data.ignore=[test]")


def test_numbers_before_class_names_leave_no_blank(tmp_path: Path) -> None:
    fill(tmp_path, "1. Cat", "2. Dog")
    assert read(tmp_path).classes == ("Cat", "Dog")


def test_an_unlabeled_test_is_refused_with_the_way_to_leave_it_out(tmp_path: Path) -> None:
    fill(tmp_path / "train", "cat", "dog", count=10)
    put(tmp_path / "test", *(f"{index}.jpg" for index in range(5)))
    refuse(tmp_path, names=("5 images", "data.ignore=[test]", "breedlab predict runs/latest"))
    images = read(tmp_path, "test")
    assert images.cut == ("valid", "test") and images.classes == ("cat", "dog")


def test_what_is_ignored_has_to_be_there(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog")
    refuse(tmp_path, "tset", code="BL200", names=("data.ignore", "tset"))
    fill(tmp_path, "junk")
    assert read(tmp_path, "junk").classes == ("cat", "dog")


# ---------------------------------------------------------------- what is passed over, and what is
# told


def test_litter_of_systems_is_no_class_and_no_image_and_told_in_one_line(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog", count=12)
    put(
        tmp_path,
        "cat/@eaDir/0000.jpg/SYNOPHOTO_THUMB_M.jpg",
        "@eaDir/x.jpg",
        "__MACOSX/cat/._0000.jpg",
    )
    put(
        tmp_path,
        "lost+found/1.jpg",
        "$RECYCLE.BIN/2.jpg",
        ".ipynb_checkpoints/0-checkpoint.jpg",
        "dog/Thumbs.db",
    )
    put(
        tmp_path,
        "dog/.DS_Store",
        "dog/._0001.jpg",
        "dog/._0002.jpg",
        "System Volume Information/3.jpg",
    )
    images = read(tmp_path)
    assert images.classes == ("cat", "dog")
    assert sum(len(images.splits[split]) for split in SPLITS) == 24
    (told,) = [note for note in images.notes if note.startswith("passed over")]
    assert "@eaDir (2)" in told and "._* (2)" in told and "__MACOSX" in told
    assert images.left_out == ()


def test_what_programs_leave_beside_classes_is_no_class(tmp_path: Path) -> None:
    """A data folder in which somebody also works: with an environment, packages, and runs."""
    fill(tmp_path, "cat", "dog", count=12)
    put(tmp_path, "node_modules/lib/docs/a.png", "__pycache__/b.png", ".git/c.png")
    put(tmp_path, "my-env/lib/python3.11/site-packages/matplotlib/d.png", "cat/venv/e.png")
    put(tmp_path, "runs/images/2026-11-29_10-00-00/f.png", "wandb/g.png")
    (tmp_path / "my-env" / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (tmp_path / "cat" / "venv" / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (tmp_path / "runs" / "images" / "2026-11-29_10-00-00" / "config.yaml").write_text("name: x\n")
    (tmp_path / "runs" / "latest").symlink_to("images/2026-11-29_10-00-00")
    images = read(tmp_path)
    assert images.classes == ("cat", "dog")
    assert sum(len(images.splits[split]) for split in SPLITS) == 24
    (note,) = [note for note in images.notes if note.startswith("passed over")]
    for name in (".git", "__pycache__", "my-env", "node_modules", "runs", "venv", "wandb"):
        assert name in note


def test_a_class_named_as_a_folder_of_programs_stays_a_class(tmp_path: Path) -> None:
    fill(tmp_path, "env", "venv", "runs")
    assert read(tmp_path).classes == ("env", "runs", "venv")


@pytest.mark.parametrize("split", ["", "train"])
def test_litter_is_counted_once(tmp_path: Path, split: str) -> None:
    fill(tmp_path / split, "cat", "dog")
    put(tmp_path / split, "__MACOSX/x.jpg")
    assert "passed over: __MACOSX" in read(tmp_path).notes


def test_files_left_out_for_their_endings_and_loose_ones_are_told_with_their_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("breedlab.data.formats.more_endings", frozenset)
    monkeypatch.setattr("breedlab.data.formats.reads_heic", lambda: False)
    fill(tmp_path / "train", "cat", "dog", count=10)
    put(
        tmp_path,
        *(f"train/cat/IMG_{index}.HEIC" for index in range(3)),
        "train/dog/a.avif",
        "train/loose.jpg",
    )
    put(tmp_path, "unsorted/1.jpg", "unsorted/2.jpg")
    images = read(tmp_path)
    endings, loose = images.left_out
    assert "3 .heic, 1 .avif" in endings and "pip install 'breedlab[heic]'" in endings
    assert "1 in train" in loose and "2 in unsorted" in loose
    assert sum(len(images.splits[split]) for split in SPLITS) == 20


@pytest.mark.parametrize(
    "name", ["a.jpe", "a.JFIF", "a.jif", "scan", "photo.jpg_large", "photo.jpg!d"]
)
def test_jpegs_under_other_endings_or_none_are_read(tmp_path: Path, name: str) -> None:
    fill(tmp_path, "cat", "dog")
    put(tmp_path, f"cat/{name}")
    images = read(tmp_path)
    assert sum(len(images.splits[split]) for split in SPLITS) == 13 and not images.left_out


def test_a_raw_image_which_starts_like_a_tiff_is_left_out_and_told(tmp_path: Path) -> None:
    fill(tmp_path, "cat", "dog")
    (tmp_path / "cat" / "DSC_1.NEF").write_bytes(b"II*\0" + bytes(100))
    assert "1 .nef" in read(tmp_path).left_out[0]


def test_a_class_of_files_that_are_not_read_is_refused_with_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("breedlab.data.formats.more_endings", frozenset)
    fill(tmp_path, "cat")
    put(tmp_path, "dog/1.HEIC", "dog/2.HEIC")
    refuse(tmp_path, code="BL200", names=("dog", "2 .heic"))


def test_a_fifo_in_a_class_stops_nothing(tmp_path: Path) -> None:
    """Opening one waits until somebody writes into it."""
    paint(tmp_path)
    os.mkfifo(tmp_path / "cat" / "pipe")
    os.mkfifo(tmp_path / "cat" / "pipe.jpg")
    (tmp_path / "dog" / "zero.jpg").symlink_to("/dev/zero")
    report = check(read(tmp_path), tmp_path.parent / "memory", on_bad_file="skip")
    assert {finding.path.name: finding.reason for finding in report.bad} == dict.fromkeys(
        ("pipe.jpg", "zero.jpg"), "is not a regular file"
    )


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("caf\udce9", (r"'caf\xe9'", "UTF-8", "café")),
        ("ca\nt", (r"'ca\nt'", "line break")),
        ("a\x1b[2Jb", (r"'a\x1b[2Jb'", "control character")),
    ],
)
@pytest.mark.parametrize("split", ["", "train"])
def test_class_names_that_cannot_travel_are_refused_before_training(
    tmp_path: Path, name: str, names: Names, split: str
) -> None:
    """A model's archive, its answers and its report hold them: the first of those ended in a
    traceback."""
    fill(tmp_path / split, name, "dog")
    with raises_code("BL200", names=names) as caught:
        read(tmp_path)
    text = str(caught.value)
    text.encode("utf-8")
    assert all(character.isprintable() or character == "\n" for character in text)


def test_names_that_are_no_utf8_are_told_for_what_windows_meant(tmp_path: Path) -> None:
    fill(tmp_path, "caf\udce9", "dog")
    refuse(tmp_path, code="BL200", names=("'caf\\xe9'", "café"))


def test_unicode_forms_of_one_name_are_one_class(tmp_path: Path) -> None:
    """macOS writes é as e and an accent; a zip made there and one made elsewhere had two classes
    that look alike."""
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    fill(tmp_path / "train", nfd, "dog")
    put(tmp_path / "train" / nfc, "other.jpg")
    for split in ("valid", "test"):
        fill(tmp_path / split, nfc, "dog", count=2)
    images = read(tmp_path)
    assert images.classes == (nfc, "dog")
    assert images.counts("train") == [7, 6] and images.counts("test") == [2, 2]


def test_classes_that_differ_in_capitals_alone_are_told(tmp_path: Path) -> None:
    fill(tmp_path, "Cat", "cat", "dog")
    assert any("'Cat' and 'cat'" in text for text in read(tmp_path).left_out)


def paint(root: Path, count: int = 6) -> None:
    for name in ("cat", "dog"):
        for index in range(count):
            path = root / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw = np.random.default_rng([len(name), ord(name[0]), index])
            Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


def test_broken_files_whose_names_are_no_utf8_are_told_and_written_down(tmp_path: Path) -> None:
    root, memory = tmp_path / "root", tmp_path / "memory"
    paint(root)
    for index in range(9):
        (root / "cat" / f"caf\udce9{index}.jpg").write_bytes(b"no photo")
    images = survey(root, valid_fraction=0.15, test_fraction=0.15, seed=0)
    with raises_code("BL200", names="caf\\xe90.jpg") as caught:
        check(images, memory, on_bad_file="error")
    str(caught.value).encode("utf-8")
    assert (memory / "refused.txt").read_bytes().count(b"caf\xe9") == 9
    assert len(check(images, memory, on_bad_file="skip").bad) == 9


# ---------------------------------------------------------------- the same image in two classes


@pytest.mark.parametrize("split", ["", "train"])
def test_a_image_in_two_classes_is_refused_and_skip_takes_every_copy_out(
    tmp_path: Path, split: str
) -> None:
    """Which label is right nobody can say here. It also holds where a cut put the copies into two
    splits."""
    root, memory = tmp_path / "root", tmp_path / "memory"
    paint(root / split, count=10)
    for index in range(3):
        (root / split / "dog" / f"copy{index}.png").write_bytes(
            (root / split / "cat" / f"{index}.png").read_bytes()
        )
    images = survey(root, valid_fraction=0.2, test_fraction=0.2, seed=0)
    copies = (root / split / "cat" / "1.png", root / split / "dog" / "copy1.png")
    with raises_code("BL200", names=("6 images", "data.on_bad_file=skip", *copies)):
        check(images, memory, on_bad_file="error")
    report = check(images, memory, on_bad_file="skip")
    assert len(report.conflicts) == 6 and not report.leaks
    assert sum(len(report.images.splits[split]) for split in SPLITS) == 17


def test_a_image_of_another_class_in_another_split_stays_a_leak(tmp_path: Path) -> None:
    root, memory = tmp_path / "root", tmp_path / "memory"
    for split in SPLITS:
        paint(root / split, count=3)
        for path in (root / split).glob("*/*.png"):
            path.write_bytes(path.read_bytes() + split.encode())  # other bytes, the same picture
    (root / "train/dog/copy.png").write_bytes((root / "test/cat/0.png").read_bytes())
    report = check(
        survey(root, valid_fraction=0.2, test_fraction=0.2, seed=0), memory, on_bad_file="skip"
    )
    assert [leak.path.name for leak in report.leaks] == ["copy.png"] and not report.conflicts


def test_folders_that_may_have_been_meant_as_classes_are_told(tmp_path: Path) -> None:
    """Cats and oaks were trained on as animals and plants, without a word."""
    fill(tmp_path / "animals", "cat", "dog")
    fill(tmp_path / "plants", "oak", "rose")
    images = survey(tmp_path, valid_fraction=0.2, test_fraction=0.2, seed=0)
    assert images.classes == ("animals", "plants")
    (told,) = images.notes
    assert "animals/cat, animals/dog, plants/oak, plants/rose" in told and "move them up" in told


def test_one_folder_in_a_class_folder_is_not_worth_a_word(tmp_path: Path) -> None:
    fill(tmp_path / "animals", "images")
    fill(tmp_path, "plants")
    assert not survey(tmp_path, valid_fraction=0.2, test_fraction=0.2, seed=0).notes
