"""fixes.csv: images whose label is probably wrong, and images unlike all others or nearly the same
as another, as a list that people edit and `data.fixes` applies."""

from __future__ import annotations

import csv
import difflib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from breedlab.data.folders import SPLITS, first_few
from breedlab.data.image_set import ImageSet, LabeledImage
from breedlab.errors import DataError
from breedlab.files import atomic_write_text
from breedlab.names import counted

COLUMNS = ("file", "split", "label", "suggested", "confidence", "why", "fix")
LABEL, OUTLIER, COPY_OF = "label", "outlier", "nearly the same as "
"""Why a row is listed: its label is probably wrong, the image is unlike all others, or nearly the
same as another file, whose name follows. Files that cannot be used have the check's reason."""
REMOVE = "remove"
NONE = "none"
"""The fix of an image that has none of the labels (`data.multi_label`)."""
_BETWEEN = "|"


def joined(labels: Sequence[str]) -> str:
    """Return an image's labels as the list has them; `read_labels` reads it."""
    return _BETWEEN.join(labels) if labels else NONE


def read_labels(fix: str, label_of: Mapping[str, int]) -> tuple[int, ...]:
    """Return the indices of the labels that a fix names.

    Raises:
        KeyError: If one is not a label; it has its name.
    """
    if fix in label_of:  # a class may be called so
        return (label_of[fix],)
    if fix == NONE:
        return ()
    return tuple(sorted({label_of[name.strip()] for name in fix.split(_BETWEEN)}))


def write_fixes(
    path: Path, rows: Iterable[Mapping[str, object]], edited: Sequence[Mapping[str, str]] = ()
) -> None:
    """Write suspects, one a row, with an empty `fix`: nothing changes until a user fills it in.

    Args:
        path: The file, which is replaced.
        rows: The suspects.
        edited: Rows of former lists with a fix, which it keeps: they follow the others where their
            files are no longer suspect for the same reason.
    """

    def key(row: Mapping[str, object]) -> tuple[object, object]:
        return row["file"], row.get("why", "")

    fix_of = {key(row): row["fix"] for row in edited}
    listed = [{**row, "fix": fix_of.get(key(row), "")} for row in rows]
    there = {key(row) for row in listed}
    others = [row for row in edited if key(row) not in there]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore", restval="")
    writer.writeheader()
    writer.writerows([*listed, *others])
    atomic_write_text(path, text.getvalue())


def edited_rows(path: Path, root: Path) -> list[dict[str, str]]:
    """Return the rows of a list in which a fix is filled in; none if there is no such file.

    Args:
        path: The list.
        root: The folder of images, to which `file` is relative.

    Raises:
        DataError: If the file is not such a list.
    """
    return [row for _, row in _read(path, root, "--out")] if path.exists() else []


def apply_fixes(images: ImageSet, path: Path) -> ImageSet:
    """Return the images as an edited list has them: `fix` is a class's name, `remove`, or empty for
    no change; with `data.multi_label` also several names with a bar between them, or `none`.

    Raises:
        DataError: If the list is not there, or names a file or a class that is not; all rows that
            are wrong together.
    """
    fixes = _read(path, images.root)
    label_of = {name: label for label, name in enumerate(images.classes)}
    places = {
        os.path.relpath(image.path, images.root): image
        for split in SPLITS
        for image in images.splits[split]
    }
    wrong, changed = [], dict[Path, LabeledImage | None]()
    first: dict[str, tuple[int, str]] = {}
    for line, row in fixes:
        file, fix = row["file"], row["fix"]
        first_line, first_fix = first.setdefault(file, (line, fix))
        if file not in places:
            wrong.append(f"line {line}: {file!r} is not an image of {images.root}")
        elif fix != first_fix:
            wrong.append(
                f"line {line}: fix is {fix!r}, but {first_fix!r} in line {first_line} for the same"
                " file"
            )
        elif fix == REMOVE and REMOVE in label_of:
            wrong.append(
                f"line {line}: fix is {fix!r}, which is a class, too; move or delete the file"
                " instead"
            )
        elif fix == REMOVE:
            changed[places[file].path] = None
        else:
            image = places[file]
            try:
                changed[image.path] = _relabeled(image, fix, label_of)
            except KeyError as error:
                (name,) = error.args
                known = {word.casefold(): word for word in (REMOVE, *images.classes)}
                close = difflib.get_close_matches(name.casefold(), known, 1)
                suggestion = f"; did you mean {known[close[0]]!r}?" if close else ""
                what = repr(name) if name == fix else f"{fix!r}: {name!r}"
                wrong.append(f"line {line}: fix is {what}, which is not a class{suggestion}")
    if wrong:
        names = f"labels with | between them, {NONE}" if images.multi_label else "a class's name"
        hint = f"expected paths below {images.root}, and in fix {names}, {REMOVE}, or nothing"
        raise DataError(
            "\n".join([f"data.fixes: {path}", *(f"  {text}" for text in first_few(wrong)), hint])
        )
    splits = {split: _with_fixes(images.splits[split], changed) for split in SPLITS}
    fixed = replace(images, splits=splits, notes=(*images.notes, _told(path, changed)))
    counts = zip(images.classes, images.counts("train"), fixed.counts("train"), strict=True)
    empty = [f"train has no {name} left" for name, before, after in counts if before and not after]
    if empty:
        raise DataError(
            f"data.fixes: {path} takes the last images of a class: {', '.join(first_few(empty))}"
        )
    return fixed


def _relabeled(image: LabeledImage, fix: str, label_of: Mapping[str, int]) -> LabeledImage:
    """Return an image with the labels of a fix.

    Raises:
        KeyError: As `read_labels`.
    """
    if image.labels is None:
        return replace(image, label=label_of[fix])
    return replace(image, labels=read_labels(fix, label_of))


def _told(path: Path, changed: Mapping[Path, LabeledImage | None]) -> str:
    removed = sum(image is None for image in changed.values())
    return f"{path}: {counted(len(changed) - removed, 'image')} relabeled, {removed:,} removed"


def _with_fixes(
    images: Iterable[LabeledImage], changed: Mapping[Path, LabeledImage | None]
) -> tuple[LabeledImage, ...]:
    """Return images with those that were fixed in their places, and without those removed."""
    fixed = [changed.get(image.path, image) for image in images]
    return tuple(image for image in fixed if image is not None)


def _read(path: Path, root: Path, named_by: str = "data.fixes") -> list[tuple[int, dict[str, str]]]:
    """Return the line and the cells of each row that has a fix, its file relative to `root`."""
    try:
        # as spreadsheets save it; names of files need not be UTF-8
        text = path.read_text("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise DataError(
            f"{named_by}: {path} cannot be read ({error.strerror}); expected a fixes.csv, edited"
        ) from error
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)  # other countries' spreadsheets, and what is pasted
    # strict, or a quote too many would swallow the rows after it
    reader = csv.DictReader(io.StringIO(text), delimiter=separator, strict=True)
    rows = []
    try:
        columns = reader.fieldnames or ()
        if not {"file", "fix"} <= set(columns):
            raise DataError(
                f"{named_by}: {path} has no columns file and fix; expected a fixes.csv, edited, and"
                " saved as CSV in UTF-8"
            )
        for row in reader:
            cells = {name: (cell or "").strip() for name, cell in row.items() if name in COLUMNS}
            if cells["fix"]:
                if cells["file"]:
                    cells["file"] = os.path.relpath(root / cells["file"], root)
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise DataError(
            f"{named_by}: {path} cannot be read as CSV from line {reader.line_num} or before it"
            f" ({error}); expected double quotes only around whole cells"
        ) from error
    return rows
