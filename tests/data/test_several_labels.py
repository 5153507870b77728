"""Images of several classes, or none: from a file beside them, or from class folders."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from codes import raises_code
from labeled_shapes import CLASSES, drawn, labels_of, write_csv

from breedlab.config import validate
from breedlab.config.compose import load
from breedlab.data.check import check
from breedlab.data.folders import SPLITS, scan
from breedlab.data.image_set import ImageSet
from breedlab.data.label_cells import split_labels
from breedlab.data.module import ImageData
from breedlab.data.transforms import EvalTransform
from breedlab.errors import DataError


def read(root: Path, multi: bool = True, group: str | None = None) -> ImageSet:
    return scan(root, valid_fraction=0.2, test_fraction=0.2, seed=0, group=group, multi=multi)


def found(images: ImageSet) -> dict[str, set[str]]:
    return {
        image.path.name: {images.classes[label] for label in image.classes}
        for split in SPLITS
        for image in images.splits[split]
    }


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(root, multi=False)
    return str(caught.value)


def expected(count: int) -> dict[str, set[str]]:
    return {f"{index:03}.png": {*labels_of(index)} for index in range(count)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_csv(tmp_path, 48)
    return tmp_path


def rewrite(root: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with (root / "labels.csv").open("w", newline="") as out:
        csv.writer(out).writerows([header, *rows])


def test_a_cell_of_several_labels_gives_all_of_them_and_an_empty_one_none(root: Path) -> None:
    images = read(root)
    assert images.classes == CLASSES and images.multi_label
    assert found(images) == expected(48)
    assert found(images)["000.png"] == set()


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("cat|dog", ("cat", "dog")),
        ("cat; dog;", ("cat", "dog")),
        ("cat|cat", ("cat",)),
        ("a b, c", ("a b, c",)),
        ("", ()),
        ("|", ()),
    ],
)
def test_labels_of_a_cell(cell: str, labels: tuple[str, ...]) -> None:
    assert split_labels(cell) == labels


def test_one_hot_columns_and_several_rows_say_the_same(root: Path) -> None:
    wanted = found(read(root))
    rows = [[f"{i:03}.png", *(int(name in labels_of(i)) for name in CLASSES)] for i in range(48)]
    rewrite(root, ["filename", *CLASSES], rows)
    assert found(read(root)) == wanted
    pairs = [[f"{i:03}.png", name] for i in range(48) for name in labels_of(i) or ("",)]
    rewrite(root, ["filename", "label"], pairs)
    assert found(read(root)) == wanted


def test_a_list_of_labels_in_json_lines_is_read(root: Path) -> None:
    wanted = found(read(root))
    (root / "labels.csv").unlink()
    lines = [json.dumps({"file_name": f"{i:03}.png", "labels": [*labels_of(i)]}) for i in range(48)]
    (root / "metadata.jsonl").write_text("\n".join(lines))
    assert found(read(root)) == wanted


def test_a_cut_leaves_each_split_its_share_of_every_label_and_of_images_without(
    tmp_path: Path,
) -> None:
    write_csv(tmp_path, 160)
    images = read(tmp_path)
    for split, share in (("train", 0.6), ("valid", 0.2), ("test", 0.2)):
        mine = images.splits[split]
        assert len(mine) == pytest.approx(160 * share, abs=3)
        assert images.counts(split) == pytest.approx([80 * share] * 3, abs=3)
        assert sum(not image.classes for image in mine) == pytest.approx(20 * share, abs=2)
    assert read(tmp_path).splits == images.splits


def test_a_group_stays_in_one_split(root: Path) -> None:
    images = read(root, group=r"^\d(\d)")
    splits_of: dict[str, set[str]] = {}
    for split in SPLITS:
        for image in images.splits[split]:
            splits_of.setdefault(image.group, set()).add(split)
    assert len(splits_of) == 5 and all(len(splits) == 1 for splits in splits_of.values())


@pytest.mark.parametrize("layout", ["cells", "rows", "one-hot"])
def test_a_file_with_several_labels_names_the_setting_for_them(root: Path, layout: str) -> None:
    if layout == "rows":
        pairs = [[f"{i:03}.png", name] for i in range(48) for name in labels_of(i)]
        rewrite(root, ["filename", "label"], pairs)
    if layout == "one-hot":
        rows = [
            [f"{i:03}.png", *(int(name in labels_of(i)) for name in CLASSES)] for i in range(1, 48)
        ]
        rewrite(root, ["filename", *CLASSES], rows)
    said = refusal(root)
    assert "data=multi_label" in said and "labels.csv" in said


def test_classes_with_a_bar_in_their_names_are_still_classes(tmp_path: Path) -> None:
    names = ["animal|cat", "animal|dog"]
    for index in range(20):
        drawn((), index).save(tmp_path / f"{index:03}.png")
    rows = [[f"{index:03}.png", names[index % 2]] for index in range(20)]
    rewrite(tmp_path, ["filename", "label"], rows)
    assert read(tmp_path, multi=False).classes == tuple(names)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Each image in the folders of all its classes, under other names in all but the first."""
    for index in range(1, 48):
        for place, name in enumerate(labels_of(index)):
            (tmp_path / name).mkdir(exist_ok=True)
            file = f"{index:03}.png" if place == 0 else f"copy-{place}-{index:03}.png"
            drawn(labels_of(index), index).save(tmp_path / name / file)
    return tmp_path


def test_an_image_in_several_class_folders_is_one_image_of_all_those_classes(
    folders: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    images = read(folders)
    wanted = {name: labels for name, labels in expected(48).items() if labels}
    assert found(images) == wanted
    assert any("in several class folders" in note for note in images.notes)
    report = check(images, tmp_path_factory.mktemp("memory"), on_bad_file="error")
    assert not report.conflicts and not report.leaks and found(report.images) == wanted


def test_without_the_setting_it_is_told_beside_the_conflict(
    folders: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    images = read(folders, multi=False)
    with raises_code("BL200", names="data=multi_label"):
        check(images, tmp_path_factory.mktemp("memory"), on_bad_file="error")


def test_copies_with_other_labels_in_a_file_are_conflicts(root: Path, tmp_path: Path) -> None:
    shutil.copy(root / "001.png", root / "100.png")
    with (root / "labels.csv").open("a") as file:
        file.write("100.png,red\n")
    with raises_code("BL200", names=("001.png", "100.png")):
        check(read(root), tmp_path / "memory", on_bad_file="error")


def test_batches_have_a_one_for_each_class_of_an_image(root: Path) -> None:
    images = read(root)
    config = validate(
        load(["data=multi_label", f"data.root={root}", "data.num_workers=2", "name=x"])
    )
    half = (0.5, 0.5, 0.5)
    data = ImageData(images, config.data, EvalTransform(36, 32, "bilinear", half, half), 0, 1)
    batches = [targets for _, targets in data.view_dataloader("train", 0, batch_size=7)]
    targets = torch.cat(batches)
    assert targets.dtype == torch.float32 and torch.equal(targets, data.labels("train"))
    assert targets.sum(0).tolist() == images.counts("train")


def cells(of: Callable[[list[str]], str]) -> list[tuple[str, str]]:
    return [(f"{index:03}.png", of([*labels_of(index)])) for index in range(48)]


@pytest.mark.parametrize(
    ("column", "rows"),
    [
        ("labels", cells(", ".join)),
        ("tags", cells(" ".join)),
        ("label", cells(" ".join)),
        ("labels", cells(repr)),
        ("labels", cells(json.dumps)),
        ("labels", cells(lambda labels: f"[{', '.join(labels)}]")),
    ],
    ids=["commas", "spaces", "spaces-singular", "python", "json", "brackets"],
)
def test_cells_as_other_tools_write_them_are_refused_as_classes_and_read_as_labels(
    root: Path, column: str, rows: list[tuple[str, str]]
) -> None:
    rewrite(root, ["filename", column], rows)
    assert "data=multi_label" in refusal(root)
    images = read(root)
    assert images.classes == CLASSES and found(images) == expected(48)


@pytest.mark.parametrize(("yes", "no"), [("True", "False"), ("1", "-1"), ("yes", "no")])
def test_one_hot_columns_may_be_written_as_words_or_signs(root: Path, yes: str, no: str) -> None:
    rows = [
        [f"{i:03}.png", *(yes if name in labels_of(i) else no for name in CLASSES)]
        for i in range(48)
    ]
    rewrite(root, ["filename", *CLASSES], rows)
    assert found(read(root)) == expected(48)


def test_minus_one_beside_zero_may_mean_unknown_and_is_not_guessed(root: Path) -> None:
    rows = [[f"{i:03}.png", (0, 1, -1)[i % 3], i % 2, 0] for i in range(48)]
    rewrite(root, ["filename", *CLASSES], rows)
    with raises_code("BL210", names="labels.csv"):
        read(root)


@pytest.mark.parametrize(
    "names",
    [
        ("Welsh springer spaniel", "English springer spaniel", "Welsh terrier", "Irish terrier"),
        ("red apple", "green apple", "red pear", "green pear", "apple"),
        ("Salem, Oregon", "Salem, Ohio", "Portland, Oregon", "Portland, Maine"),
    ],
)
def test_spaces_and_commas_in_names_of_classes_do_not_make_several(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for index in range(40):
        drawn((), index).save(tmp_path / f"{index:03}.png")
    rows = [[f"{index:03}.png", names[index % len(names)]] for index in range(40)]
    rewrite(tmp_path, ["filename", "label"], rows)
    assert set(read(tmp_path, multi=False).classes) == set(names)


@pytest.mark.parametrize("layout", ["rows", "one-hot"])
def test_a_few_images_of_two_classes_are_mistakes_left_out_and_told(
    root: Path, layout: str
) -> None:
    names = [CLASSES[index % 3] for index in range(48)]
    if layout == "rows":
        rows = [[f"{index:03}.png", name] for index, name in enumerate(names)]
        rewrite(root, ["filename", "label"], [*rows, ["000.png", CLASSES[1]]])
    else:
        hot = [[f"{i:03}.png", *(int(name == n) for n in CLASSES)] for i, name in enumerate(names)]
        hot[0][2] = 1
        rewrite(root, ["filename", *CLASSES], hot)
    images = read(root, multi=False)
    assert sum(map(len, images.splits.values())) == 47
    (told,) = [text for text in images.left_out if "more than one class" in text]
    assert "000.png" in told and CLASSES[0] in told and CLASSES[1] in told


def test_a_quoted_cell_may_hold_a_newline(tmp_path: Path) -> None:
    write_csv(tmp_path, 12)
    rows = [[f"{i:03}.png", CLASSES[i % 3], "two\nlines\u2028and more"] for i in range(12)]
    rewrite(tmp_path, ["filename", "label", "comment"], rows)
    assert sum(map(len, read(tmp_path, multi=False).splits.values())) == 12


@pytest.mark.parametrize(
    ("column", "several"), [("labels", True), ("Tags", True), ("label", False)]
)
def test_a_column_called_labels_may_hold_labels_that_always_come_together(
    root: Path, column: str, several: bool
) -> None:
    """`dress|woman` beside `shoes` may be the name of one class, but not in a column of labels."""
    names = [f"{index:03}.png" for index in range(48)]
    rewrite(
        root,
        ("filename", column),
        [(n, ("dress|woman", "shoes")[i % 2]) for i, n in enumerate(names)],
    )
    if several:
        assert "labels.csv" in refusal(root) and "data=multi_label" in refusal(root)
        assert read(root).classes == ("dress", "shoes", "woman")
    else:
        assert read(root, multi=False).classes == ("dress|woman", "shoes")
