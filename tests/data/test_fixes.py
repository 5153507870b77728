"""An edited list of fixes: what it changes, and what is said of a list that cannot be right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from codes import raises_code

from breedlab.cli import launch
from breedlab.data.fixes import apply_fixes, edited_rows, joined, write_fixes
from breedlab.data.image_set import ImageSet, LabeledImage
from breedlab.errors import DataError


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    root = tmp_path / "photos"
    splits = {
        split: tuple(
            LabeledImage(root / split / name / f"{n}.jpg", label)
            for label, name in enumerate("ab")
            for n in (1, 2)
        )
        for split in ("train", "valid", "test")
    }
    return ImageSet(root, ("Basset", "Übel, hound"), splits)


@pytest.mark.parametrize("separator", [",", ";"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_an_image_is_relabeled_or_removed_and_the_others_stay(
    images: ImageSet, tmp_path: Path, separator: str, mark: str
) -> None:
    rows = [
        ["file", "fix"],
        ["train/a/1.jpg", '"Übel, hound"'],
        ["test/b/2.jpg", "remove"],
        ["valid/a/1.jpg", ""],
    ]
    file = tmp_path / "fixes.csv"
    file.write_text(mark + "".join(separator.join(row) + "\r\n" for row in rows), "utf-8")
    fixed = apply_fixes(images, file)
    assert [image.label for image in fixed.splits["train"]] == [1, 0, 1, 1]
    assert len(fixed.splits["test"]) == 3 and fixed.splits["valid"] == images.splits["valid"]
    assert fixed.notes[-1] == f"{file}: 1 image relabeled, 1 removed"


def test_a_list_that_nobody_edited_changes_nothing(images: ImageSet, tmp_path: Path) -> None:
    row = {
        "file": "train/a/1.jpg",
        "split": "train",
        "label": "Basset",
        "suggested": "Übel, hound",
        "confidence": 0.9,
    }
    write_fixes(tmp_path / "fixes.csv", [row])
    assert apply_fixes(images, tmp_path / "fixes.csv").splits == images.splits


def test_a_list_that_is_written_again_keeps_what_was_filled_in(tmp_path: Path) -> None:
    file = tmp_path / "fixes.csv"
    assert edited_rows(file, tmp_path) == []

    def row(name: str, why: str) -> dict[str, object]:
        return {"file": name, "split": "train", "label": "a", "why": why}

    write_fixes(file, [row("1.jpg", "label"), row("2.jpg", "outlier"), row("3.jpg", "label")])
    assert edited_rows(file, tmp_path) == []
    text = file.read_text().replace("1.jpg,train,a,,,label,", "1.jpg,train,a,,,label,b")
    file.write_text(text.replace("2.jpg,train,a,,,outlier,", "2.jpg,train,a,,,outlier,remove"))
    write_fixes(file, [row("3.jpg", "label"), row("1.jpg", "label")], edited_rows(file, tmp_path))
    assert [line.split(",")[0::6] for line in file.read_text().splitlines()[1:]] == [
        ["3.jpg", ""],
        ["1.jpg", "b"],
        ["2.jpg", "remove"],
    ]
    assert len(edited_rows(file, tmp_path)) == 2


def test_a_name_that_is_not_utf_8_comes_back_as_it_was(images: ImageSet, tmp_path: Path) -> None:
    odd = replace(images.splits["train"][0], path=images.root / "train/a/caf\udce9.jpg")
    splits = {**images.splits, "train": (odd, *images.splits["train"][1:])}
    row = {"file": "train/a/caf\udce9.jpg", "why": "label"}
    write_fixes(tmp_path / "fixes.csv", [row], [{**row, "fix": "remove"}])
    fixed = apply_fixes(replace(images, splits=splits), tmp_path / "fixes.csv")
    assert fixed.splits["train"] == images.splits["train"][1:]


def test_one_file_has_one_fix(images: ImageSet, tmp_path: Path) -> None:
    file = tmp_path / "fixes.csv"
    rows = [
        "train/a/1.jpg,remove",
        "train/b/1.jpg,Basset",
        "train/a/1.jpg,",
        "train/a/1.jpg,remove",
    ]
    file.write_text("\n".join(["file,fix", *rows]))
    assert len(apply_fixes(images, file).splits["train"]) == 3
    file.write_text("\n".join(["file,fix", *rows, "train/b/1.jpg,remove"]))
    with raises_code("BL200", names=("line 6", "line 3", "Basset", "remove")):
        apply_fixes(images, file)


def test_all_that_is_wrong_with_a_list_is_told_together(images: ImageSet, tmp_path: Path) -> None:
    file = tmp_path / "fixes.csv"
    file.write_text("file,fix\ntrain/a/9.jpg,remove\ntrain/a/1.jpg,Baset\n")
    with pytest.raises(DataError) as caught:
        apply_fixes(images, file)
    said = str(caught.value)
    assert "line 2: 'train/a/9.jpg' is not an image of" in said
    assert "line 3: fix is 'Baset', which is not a class; did you mean 'Basset'?" in said


@pytest.mark.parametrize(
    ("fix", "meant"), [("Remove", "remove"), ("BASSET", "Basset"), ("removed", "remove")]
)
def test_what_is_nearly_a_fix_is_told(
    images: ImageSet, tmp_path: Path, fix: str, meant: str
) -> None:
    file = tmp_path / "fixes.csv"
    file.write_text(f"file,fix\ntrain/a/1.jpg,{fix}\n")
    with raises_code("BL200", names=("line 2", repr(fix), f"did you mean {meant!r}?")):
        apply_fixes(images, file)


def test_a_class_called_remove_takes_no_image_away(images: ImageSet, tmp_path: Path) -> None:
    file = tmp_path / "fixes.csv"
    file.write_text("file,fix\ntrain/a/1.jpg,remove\n")
    with raises_code("BL200", names=("line 2", "remove", "class")):
        apply_fixes(replace(images, classes=("keep", "remove")), file)


def test_paths_may_be_absolute_or_dotted(images: ImageSet, tmp_path: Path) -> None:
    file = tmp_path / "fixes.csv"
    absolute = images.root / "train/a/1.jpg"
    file.write_text(f"file\tfix\n{absolute}\tremove\n./train/b/1.jpg\tremove\n")
    fixed = apply_fixes(images, file)
    assert [image.path.name for image in fixed.splits["train"]] == ["2.jpg", "2.jpg"]
    rows = edited_rows(file, images.root)
    assert [row["file"] for row in rows] == ["train/a/1.jpg", "train/b/1.jpg"]


@pytest.mark.parametrize(
    "row", ['"train/a/1.jpg,remove', '"train/a/"1.jpg,remove', f"{'a' * 200_000}.jpg,remove"]
)
def test_a_quote_too_many_takes_no_rows_away(images: ImageSet, tmp_path: Path, row: str) -> None:
    file = tmp_path / "fixes.csv"
    file.write_text(f"file,fix\n{row}\ntrain/a/2.jpg,remove\n")
    with raises_code("BL200", names=("data.fixes", "fixes.csv", "quotes")):
        apply_fixes(images, file)


def test_the_last_images_of_a_class_cannot_be_taken(images: ImageSet, tmp_path: Path) -> None:
    file = tmp_path / "fixes.csv"
    file.write_text("file,fix\ntrain/a/1.jpg,remove\ntrain/a/2.jpg,remove\n")
    with raises_code("BL200", names=("train", "Basset")):
        apply_fixes(images, file)


@pytest.mark.parametrize("content", [b"", b"photo,class\n1,2\n", b"\xff\xfe\x00"])
def test_what_is_no_such_list_is_one_message(
    images: ImageSet, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "fixes.csv").write_bytes(content)
    with raises_code("BL200", names=("data.fixes", "fixes.csv")):
        apply_fixes(images, tmp_path / "fixes.csv")


def test_a_list_that_is_not_there_is_refused_by_its_path(here: Path) -> None:
    with raises_code("BL600", names=("data.fixes", "gone.csv")):
        launch.main(["experiment=quickstart", "data.fixes=gone.csv", "dry_run=true"])


def test_labels_of_an_image_of_several_are_replaced(images: ImageSet, tmp_path: Path) -> None:
    several = replace(
        images,
        classes=("cat", "dog", "a|b"),
        multi_label=True,
        splits={
            split: tuple(
                replace(image, label=-1, labels=(image.label, 2)) for image in images.splits[split]
            )
            for split in images.splits
        },
    )
    file = tmp_path / "fixes.csv"
    rows = ["file,fix", "train/a/1.jpg,dog | cat", "train/a/2.jpg,none", "train/b/1.jpg,a|b"]
    file.write_text("\n".join(rows))
    fixed = apply_fixes(several, file)
    assert [image.labels for image in fixed.splits["train"]] == [(0, 1), (), (2,), (1, 2)]
    assert all(image.label == -1 for image in fixed.splits["train"])
    assert [joined(["cat", "dog"]), joined([])] == ["cat|dog", "none"]
    file.write_text("file,fix\ntrain/a/1.jpg,cat|dgo\n")
    with raises_code("BL200", names=("line 2", "'dgo'", "'dog'", "none")):
        apply_fixes(several, file)
