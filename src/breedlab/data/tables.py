"""Labels in a file next to the images: `labels.csv`, Kaggle's `id,breed`, Hugging Face's
`metadata.csv` or `.jsonl`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from breedlab.commands import command
from breedlab.data.image_names import FEW, Images, ambiguous, name_column
from breedlab.data.label_cells import (
    MOST_MISTAKES,
    SEVERAL,
    Labels,
    SeveralLabels,
    a_cell_of_several,
    hot,
    is_one_hot,
    not_one_class,
    one_in,
    several_in,
)
from breedlab.data.label_files import (
    FORMATS,
    LABEL_NAMES,
    column_called,
    is_list_of_fixes,
    read_records,
)
from breedlab.data.layout import SPLITS, listed, split_of
from breedlab.data.listing import find_images, is_litter, loose_images, subfolders
from breedlab.errors import LabelFileError
from breedlab.names import composed, counted, printable

AUTO = "auto"
_SPLIT_NAMES = ("split", "subset", "set", "partition", "dataset", "datasplit", "isvalid")
_IS_VALID = {"true": "valid", "1": "valid", "false": "train", "0": "train"}
"""What fastai's column `is_valid` says."""
_NO_LABELS = re.compile(r"sample.?submission|submission", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """An image, its classes, of which there is one unless `data.multi_label`, and its split where
    the file says one."""

    path: Path
    labels: tuple[str, ...]
    split: str | None

    @property
    def label(self) -> str:
        """The only class."""
        (label,) = self.labels
        return label


@dataclass(frozen=True)
class Table:
    """What label files say of a folder.

    Attributes:
        files: The label files.
        rows: One for each labeled image.
        notes: How the files were read.
        left_out: What they name that could not be used, and images that they do not name.
    """

    files: tuple[Path, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Sheet:
    """A label file, with its columns by role."""

    file: Path
    records: list[dict[str, str]]
    name: str
    label: str
    split: str | None
    labels: Labels
    one_hot: bool = False


@dataclass
class _Reading:
    """What is gathered while rows are read."""

    rows: dict[Path, Row] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    disputed: dict[Path, str] = field(default_factory=dict)  # images of several classes, where one


def find_table(
    root: Path, name: str, ignore: Sequence[str] = (), *, multi_label: bool = False
) -> Table | None:
    """Return the labels that files of a folder give its images, None where class folders label
    them.

    Args:
        root: The data set.
        name: `data.labels`: a file of root, or `auto`, which looks for one where there are no
            class folders.
        ignore: Names of folders in root that are left out.
        multi_label: Whether an image may have several classes, or none.

    Raises:
        DataError: If a label file cannot be understood, or labels no image of root.
    """
    if name != AUTO:
        file = root / name
        if not file.is_file() or file.suffix.lower() not in FORMATS:
            there = listed([str(one.relative_to(root)) for one in candidates(root)]) or "none"
            raise LabelFileError(
                f"data.labels: {file} is not a label file (.csv, .tsv or .jsonl) in data.root; has"
                f" {there}"
            )
        return _table(root, [file], ignore, multi_label)
    if not root.is_dir() or _has_class_folders(root, ignore):
        return None
    files = [file for file in candidates(root) if not _NO_LABELS.search(file.stem)]
    return _table(root, files, ignore, multi_label) if files else None


def unused_table(root: Path) -> str:
    """Return a line about label files next to class folders, which are not read; empty where there
    are none."""
    files = [
        str(file.relative_to(root)) for file in candidates(root) if not _NO_LABELS.search(file.stem)
    ]
    if not files:
        return ""
    return (
        f"the class folders label the images; {listed(files, FEW)} was not read"
        f" (data.labels={files[0]} would be)"
    )


def candidates(root: Path) -> list[Path]:
    """Return the label files in a folder and in its splits, as Hugging Face has its
    `metadata.csv`; a list of fixes is none."""
    folders = [root, *(folder for folder in subfolders(root) if split_of(folder.name))]
    files = [file for folder in folders for file in sorted(folder.iterdir())]
    return [
        file
        for file in files
        if file.suffix.lower() in FORMATS
        and not is_litter(file.name)
        and file.is_file()
        and not is_list_of_fixes(file)
    ]


def _has_class_folders(root: Path, ignore: Sequence[str]) -> bool:
    ignored = {composed(name) for name in ignore}
    folders = [folder for folder in subfolders(root) if composed(folder.name) not in ignored]
    bases = [folder for folder in folders if split_of(folder.name) == "train"]
    inside = subfolders(bases[0]) if bases and not loose_images(bases[0]) else []
    # `train/images/` next to `train/labels.csv` is one folder, and no class.
    classes = inside or [folder for folder in folders if split_of(folder.name) is None]
    return sum(1 for folder in classes if find_images(folder)) >= 2


def _table(root: Path, files: list[Path], ignore: Sequence[str], multi_label: bool) -> Table:
    images = Images(root, ignore)
    if not images.all:
        raise LabelFileError(
            f"{root}: holds {listed([file.name for file in files])} and no images; expected images"
            " beside"
        )
    results = [_sheet(file, images, multi_label) for file in files]
    sheets = [result for result in results if isinstance(result, _Sheet)]
    others = [result for result in results if isinstance(result, str)]
    if not sheets:
        kind = SeveralLabels if any(SEVERAL in text for text in others) else LabelFileError
        raise kind("\n".join(others))
    reading = _Reading()
    if multi_label:
        cells: set[str] = set()
        for sheet in sheets:
            if not sheet.one_hot:
                cells |= {record[sheet.label] for record in sheet.records}
        sheets = [s if s.one_hot else replace(s, labels=several_in(s.label, cells)) for s in sheets]
    for sheet in sheets:
        _read_rows(sheet, images, reading, multi_label)
    if not reading.rows:
        raise LabelFileError(
            f"{sheets[0].file}: no row names an image of {root} in"
            f" the column {sheets[0].name!r}: got {listed(reading.missing, FEW)}"
        )
    _refuse_identifiers(sheets, reading)
    if not multi_label:
        _refuse_several(sheets, reading)
    return Table(
        files=tuple(sheet.file for sheet in sheets),
        rows=tuple(reading.rows[path] for path in sorted(reading.rows)),
        notes=tuple(_notes(root, sheets, others)),
        left_out=tuple(_left_out(root, images, reading, sheets)),
    )


def _notes(root: Path, sheets: list[_Sheet], others: list[str]) -> Iterator[str]:
    for sheet in sheets:
        split = f", splits by {sheet.split!r}" if sheet.split else ""
        name = printable(str(sheet.file.relative_to(root)))
        yield printable(
            f"labels from {name}: images by the column {sheet.name!r}, classes by"
            f" {sheet.label!r}{split}"
        )
    for other in others:
        yield f"not read: {other}"


def _left_out(root: Path, images: Images, reading: _Reading, sheets: list[_Sheet]) -> Iterator[str]:
    names = listed([str(sheet.file.relative_to(root)) for sheet in sheets], FEW)
    if reading.missing:
        yield (
            f"left out: {counted(len(reading.missing), 'image')} listed in {names} but missing: "
            + listed(reading.missing, FEW)
        )
    if reading.disputed:
        count = len(reading.disputed)
        several = "1 image that has" if count == 1 else f"{count:,} images that have"
        yield (
            f"left out: {several} more than one class in {names}:"
            f" {listed(list(reading.disputed.values()), FEW)}"
        )
    rest = [p for p in images.all if p not in reading.rows and p not in reading.disputed]
    if rest:
        folders = sorted({str(path.parent.relative_to(root)) for path in rest})
        where = "" if folders == ["."] else f" (in {listed(folders, FEW)})"
        yield (
            f"left out: {counted(len(rest), 'image')}{where} without a label in {names}; to have"
            " the trained model label them:"
            f" {command('predict', 'runs/latest', printable(str(rest[0].parent)))}"
        )


def _sheet(file: Path, images: Images, multi_label: bool) -> _Sheet | str:
    """Return a label file with its columns' roles, or why it labels no images."""
    records, columns = read_records(file)
    if not records:
        return f"{file}: holds no rows; expected a line for each image, such as filename,label"
    name = name_column(records, columns, file, images)
    shape = f"got the columns {listed(columns)}; expected one that names images and one of classes"
    if name is None:
        return f"{file}: no column names images of {images.root}; {shape}, such as filename,label"
    rest = [column for column in columns if column != name]
    split = column_called(rest, _SPLIT_NAMES)
    rest = [column for column in rest if column != split]
    label = column_called(rest, LABEL_NAMES) or (rest[0] if len(rest) == 1 else None)
    if label is None:
        if not is_one_hot(records, rest):
            return (
                f"{file}: no column is one of classes; {shape}, such as filename,label, or a"
                " column of zeros and ones for each class"
            )
        if not multi_label and (wrong := not_one_class(file, records, rest)):
            return wrong
        title = f"{rest[0]}, ..., {rest[-1]}"
        return _Sheet(file, records, name, title, split, hot(rest), one_hot=True)
    return _Sheet(file, records, name, label, split, one_in(label))


def _read_rows(sheet: _Sheet, images: Images, reading: _Reading, multi_label: bool) -> None:
    own_split = split_of(sheet.file.stem)
    is_valid = column_called([sheet.split or ""], ("isvalid",)) is not None
    for number, record in enumerate(sheet.records, 2):
        labels = sheet.labels(record)
        if not labels and not multi_label:
            # Its image, if there is one, is told as one that no row labels.
            if not images.named(record[sheet.name], sheet.file.parent, own_split):
                reading.missing.append(record[sheet.name])
            continue
        split = own_split
        if sheet.split and record[sheet.split]:
            split = _split_in(sheet, record[sheet.split], is_valid, number)
        paths = images.named(record[sheet.name], sheet.file.parent, split)
        if not paths:
            reading.missing.append(record[sheet.name])
            continue
        if len(paths) > 1:
            raise ambiguous(sheet.file, number, record[sheet.name], paths, images.root)
        row = Row(paths[0], labels, split or images.split_of(paths[0]))
        before = reading.rows.setdefault(row.path, row)
        if multi_label:
            _refuse_another_split(sheet.file, number, before, row)
            both = tuple(dict.fromkeys((*before.labels, *labels)))
            reading.rows[row.path] = replace(before, labels=both)
        elif before.labels != labels or len(labels) > 1:
            reading.disputed.setdefault(
                row.path,
                f"line {number} labels {record[sheet.name]!r} as {' and '.join(map(repr, labels))}"
                + (f", which has the label {before.labels[0]!r} already" if before != row else ""),
            )


def _split_in(sheet: _Sheet, value: str, is_valid: bool, line: int) -> str:
    """Return the split that a cell names, or, in fastai's column, says yes or no to."""
    split = _IS_VALID.get(value.lower()) if is_valid else split_of(value)
    if split is None:
        expected = "True or False" if is_valid else f"one of {', '.join(SPLITS)}"
        raise LabelFileError(
            f"{sheet.file}: line {line} has {value!r} in the column {sheet.split!r}; expected"
            f" {expected}"
        )
    return split


def _refuse_another_split(file: Path, line: int, before: Row, row: Row) -> None:
    if before.split != row.split:
        raise LabelFileError(
            f"{file}: line {line} puts {row.path.name!r} into {row.split or 'no split'}, and a line"
            f" before it into {before.split or 'no split'}; expected one split for each image"
        )


def _refuse_several(sheets: list[_Sheet], reading: _Reading) -> None:
    """Refuse images of several classes; where there are a few of them, leave those out."""
    file, expected = sheets[0].file, f"expected one class for each image, or {SEVERAL}"
    if reading.disputed and len(reading.disputed) >= MOST_MISTAKES * len(reading.rows):
        raise SeveralLabels(f"{file}: {next(iter(reading.disputed.values()))}; {expected}")
    for path in reading.disputed:
        del reading.rows[path]
    for column in dict.fromkeys(sheet.label for sheet in sheets if not sheet.one_hot):
        cells = {row.label for row in reading.rows.values()}
        if cell := a_cell_of_several(cells, column):
            raise SeveralLabels(
                f"{file}: the column {column!r} holds several classes, such as {cell!r}; {expected}"
            )


def _refuse_identifiers(sheets: list[_Sheet], reading: _Reading) -> None:
    labels = Counter(label for row in reading.rows.values() for label in row.labels)
    if len(labels) >= len(reading.rows) > 2 and max(labels.values()) == 1:
        raise LabelFileError(
            f"{sheets[0].file}: the column {sheets[0].label!r} has another value in each row"
            f" ({listed(sorted(labels), FEW)}); expected classes, each with several images"
        )
