"""Labels in a file beside the images, in the layouts that people have."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from codes import raises_code

from breedlab.data.check import check
from breedlab.data.folders import SPLITS, scan
from breedlab.data.image_set import ImageSet

BREEDS = ("beagle", "collie")


def touch(folder: Path, names: Sequence[str]) -> None:
    """Make empty files: a scan looks at names only."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write(file: Path, rows: Sequence[Sequence[object]], delimiter: str = ",") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as out:
        csv.writer(out, delimiter=delimiter).writerows(rows)


def names(count: int, prefix: str = "") -> list[str]:
    return [f"{prefix}{index:03}.jpg" for index in range(count)]


def breed(index: int) -> str:
    return BREEDS[index % 2]


def read(root: Path, labels: str = "auto", ignore: Sequence[str] = ()) -> ImageSet:
    return scan(root, valid_fraction=0.2, test_fraction=0.2, seed=0, labels=labels, ignore=ignore)


def labels_of(images: ImageSet) -> dict[str, str]:
    return {
        image.path.relative_to(images.root).as_posix(): images.classes[image.label]
        for split in SPLITS
        for image in images.splits[split]
    }


def refusal(root: Path, labels: str = "auto", code: str = "BL210") -> str:
    with raises_code(code) as caught:
        read(root, labels)
    return str(caught.value)


def test_a_flat_folder_with_a_csv_has_its_labels_and_splits(tmp_path: Path) -> None:
    touch(tmp_path, names(12))
    splits = ["train"] * 8 + ["val"] * 2 + ["Testing"] * 2
    rows = [(name, breed(index), splits[index]) for index, name in enumerate(names(12))]
    write(tmp_path / "labels.csv", [("filename", "label", "split"), *rows])
    images = read(tmp_path)
    assert images.classes == BREEDS and not images.cut
    assert [len(images.splits[split]) for split in SPLITS] == [8, 2, 2]
    assert labels_of(images) == {name: label for name, label, _ in rows}


@pytest.mark.parametrize(("yes", "no"), [("True", "False"), (1, 0)])
def test_fastais_column_of_yes_and_no_is_a_split(tmp_path: Path, yes: object, no: object) -> None:
    """It was passed over without a word, and of 0 and 1 beside labels of 0 and 1 it was a class."""
    touch(tmp_path, names(12))
    rows = [(name, breed(index), yes if index > 7 else no) for index, name in enumerate(names(12))]
    write(tmp_path / "labels.csv", [("fname", "label", "is_valid"), *rows])
    images = read(tmp_path)
    assert sorted(path.path.name for path in images.splits["valid"]) == names(12)[8:]
    assert images.cut == ("test",) and "splits by 'is_valid'" in " ".join(images.notes)
    write(tmp_path / "labels.csv", [("fname", "label", "is_valid"), ("000.jpg", "dog", "maybe")])
    with raises_code("BL210", names=("line 2", "'maybe'", "'is_valid'", "True", "False")):
        read(tmp_path)


def test_kaggles_ids_have_no_extension_and_its_test_no_labels(tmp_path: Path) -> None:
    touch(tmp_path, [*names(20, "train/"), *names(5, "test/")])  # the test counts from 0 again
    rows = [(Path(name).stem, breed(index)) for index, name in enumerate(names(20))]
    write(tmp_path / "labels.csv", [("id", "breed"), *rows])
    write(tmp_path / "sample_submission.csv", [("id", *BREEDS), ("000", 0.5, 0.5)])
    images = read(tmp_path)
    assert labels_of(images) == {f"train/{name}.jpg": label for name, label in rows}
    assert images.cut == ("valid", "test")
    assert any("5 images (in test)" in text and "predict" in text for text in images.left_out)


def test_hugging_faces_metadata_lies_in_each_split(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("validation", 4), ("test", 2)):
        touch(tmp_path / split, names(count))
        lines = [
            json.dumps({"file_name": name, "label": breed(i), "id": i})
            for i, name in enumerate(names(count))
        ]
        (tmp_path / split / "metadata.jsonl").write_text("\n".join(lines))
    images = read(tmp_path)
    assert [len(images.splits[split]) for split in SPLITS] == [6, 4, 2]
    assert len(images.label_files) == 3


def test_a_csv_for_each_split_names_images_of_one_folder(tmp_path: Path) -> None:
    touch(tmp_path / "images", names(12))
    for file, part in (
        ("train.csv", names(12)[:8]),
        ("val.csv", names(12)[8:10]),
        ("test.csv", names(12)[10:]),
    ):
        write(
            tmp_path / file,
            [("image", "species"), *((name, breed(i)) for i, name in enumerate(part))],
        )
    images = read(tmp_path)
    assert [len(images.splits[split]) for split in SPLITS] == [8, 2, 2]


@pytest.mark.parametrize(
    ("header", "delimiter", "form"),
    [
        (("path", "class_name"), ";", "/kaggle/input/pets/images/{}"),
        (("image_id", "label"), "\t", "images\\{}"),
        (("Image Name", "Breed"), ",", "./images/{}"),
        (None, ",", "images/{}"),
        (("picture of it", "who is it"), ",", "{}"),
    ],
)
def test_columns_separators_and_paths_are_what_they_are(
    tmp_path: Path, header: tuple[str, str] | None, delimiter: str, form: str
) -> None:
    touch(tmp_path / "images", names(12))
    rows = [(form.format(name), breed(index)) for index, name in enumerate(names(12))]
    write(tmp_path / "data.csv", [header, *rows] if header else rows, delimiter)
    assert len(labels_of(read(tmp_path))) == 12


def test_a_column_for_each_class_is_one_label(tmp_path: Path) -> None:
    """As ISIC's challenges have it."""
    touch(tmp_path / "images", names(12))
    rows = [(Path(name).stem, float(i % 2 == 0), float(i % 2)) for i, name in enumerate(names(12))]
    write(tmp_path / "truth.csv", [("image", *BREEDS), *rows])
    assert set(labels_of(read(tmp_path)).values()) == {*BREEDS}


def test_numbers_as_classes_are_in_their_order(tmp_path: Path) -> None:
    touch(tmp_path, names(44))
    write(
        tmp_path / "labels.csv",
        [("filename", "label"), *((name, i % 11) for i, name in enumerate(names(44)))],
    )
    assert read(tmp_path).classes == tuple(map(str, range(11)))


def test_class_folders_go_first_and_say_that_a_label_file_was_not_read(tmp_path: Path) -> None:
    touch(tmp_path, [*names(6, "cat/"), *names(6, "dog/")])
    write(
        tmp_path / "ages.csv",
        [("filename", "label"), *((f"cat/{name}", i % 2) for i, name in enumerate(names(6)))],
    )
    images = read(tmp_path)
    assert images.classes == ("cat", "dog")
    assert any("data.labels=ages.csv" in text for text in images.notes)
    assert read(tmp_path, "ages.csv").classes == ("0", "1")


def test_junk_is_passed_over_and_told(tmp_path: Path) -> None:
    touch(
        tmp_path,
        [*names(12), ".DS_Store", "Thumbs.db", "__MACOSX/._000.jpg", ".ipynb_checkpoints/000.jpg"],
    )
    write(
        tmp_path / "labels.csv",
        [("filename", "label"), *((n, breed(i)) for i, n in enumerate(names(12)))],
    )
    note = next(text for text in read(tmp_path).notes if text.startswith("passed over"))
    assert all(
        name in note for name in (".DS_Store", "Thumbs.db", "__MACOSX", ".ipynb_checkpoints")
    )


def test_images_that_are_not_there_and_rows_without_a_label_are_told(tmp_path: Path) -> None:
    touch(tmp_path, names(12))
    rows = [(name, breed(index)) for index, name in enumerate(names(11))]
    write(
        tmp_path / "labels.csv",
        [
            ("filename", "label"),
            *rows,
            ("gone.jpg", "collie"),
            (names(12)[11], ""),
        ],
    )
    text = "\n".join(read(tmp_path).left_out)
    assert "1 image listed in labels.csv but missing: gone.jpg" in text
    assert "1 image without a label in labels.csv" in text
    assert text.count("without a label") == 1  # not once for the row, and again for its image


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([("a", "b", "c"), (1, 2, 3)], ["a, b, c"]),
        ([("filename", "label"), ("x.jpg", "dog")], ["'filename'", "x.jpg"]),
        ([("filename", "label")], ["no rows"]),
        ([("filename", "width", "height"), ("000.jpg", 3, 4)], ["column", "classes"]),
        (
            [("filename", "label"), *((name, name) for name in names(9))],
            ["'label'", "000.jpg"],
        ),
        (
            [("filename", "label"), *((name, "dog") for name in names(9))],
            ["'dog'", "2 classes"],
        ),
        (
            [("filename", "label", "split"), ("000.jpg", "dog", "fold 3")],
            ["line 2", "'fold 3'", "'split'"],
        ),
        (
            [("filename", "label"), ("000.jpg", "dog", "extra")],
            ["line 2", "3 cells", "2"],
        ),
    ],
)
def test_what_cannot_be_understood_is_one_message(
    tmp_path: Path, rows: list[tuple[object, ...]], named: list[str]
) -> None:
    touch(tmp_path, names(9))
    write(tmp_path / "labels.csv", rows)
    with raises_code("BL210", names=[tmp_path / "labels.csv", *named]):
        read(tmp_path)


def test_two_labels_of_an_image_are_told_with_the_line_of_the_second(tmp_path: Path) -> None:
    touch(tmp_path, names(9))
    write(tmp_path / "labels.csv", [("filename", "label"), ("000.jpg", "dog"), ("000.jpg", "cat")])
    with raises_code("BL204", names=(tmp_path / "labels.csv", "line 3", "'dog'", "'cat'")):
        read(tmp_path)


def test_a_name_that_two_images_have_is_refused_with_both(tmp_path: Path) -> None:
    touch(tmp_path, ["one/000.jpg", "two/000.jpg", "one/001.jpg"])
    write(tmp_path / "labels.csv", [("filename", "label"), ("000.jpg", "dog"), ("001.jpg", "cat")])
    assert "one/000.jpg, two/000.jpg" in refusal(tmp_path, "labels.csv")


def test_a_label_file_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    touch(tmp_path, ["000.jpg", "breeds.csv"])
    assert "has breeds.csv" in refusal(tmp_path, "labels.csv")


def test_a_path_out_of_the_folder_names_nothing(tmp_path: Path) -> None:
    touch(tmp_path, ["secret.jpg", *names(4, "data/")])
    write(tmp_path / "data" / "labels.csv", [("filename", "label"), ("../secret.jpg", "dog")])
    assert "no row names an image" in refusal(tmp_path / "data")


def test_labels_from_a_file_pass_the_check_and_its_fingerprint_knows_them(
    image_folder: Path, tmp_path: Path
) -> None:
    """The same images with two labels exchanged are other data, which no cache may take for the
    first."""
    root, rows = tmp_path / "flat", []
    root.mkdir()
    for index, path in enumerate(sorted((image_folder / "train").glob("*/*.jpg"))[::5]):
        (root / f"{index}.jpg").write_bytes(path.read_bytes())
        rows.append((f"{index}.jpg", path.parent.name))
    prints = []
    for some in (rows, [(rows[0][0], rows[-1][1]), *rows[1:-1], (rows[-1][0], rows[0][1])]):
        write(root / "labels.csv", [("filename", "label"), *some])
        prints.append(check(read(root), tmp_path / "memory", on_bad_file="error").fingerprint)
    assert prints[0] != prints[1]
