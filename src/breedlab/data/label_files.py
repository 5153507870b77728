"""A label file's rows as texts: CSV, TSV and JSON lines, however their separators and encodings
are."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

from breedlab.errors import LabelFileError
from breedlab.names import composed

FORMATS = (".csv", ".tsv", ".jsonl")
FILE_NAMES = (
    "filename",
    "filepath",
    "file",
    "imagefile",
    "imagepath",
    "imagename",
    "path",
    "image",
    "images",
    "imageid",
    *("img", "imgname", "imgpath", "photo", "picture", "fname", "name", "id", "uuid"),
)
LABEL_NAMES = (
    "labelname",
    "classname",
    "categoryname",
    "label",
    "labels",
    "class",
    "classes",
    "category",
    "breed",
    "species",
    *(
        "target",
        "diagnosis",
        "variety",
        "type",
        "tag",
        "tags",
        "y",
        "labelid",
        "classid",
        "categoryid",
        "categories",
        "attributes",
        "findinglabels",
        "genre",
        "genres",
    ),
)
_MOST_BYTES = 500_000_000
_MOST_HEADER = 1000


def column_called(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the column that has the first of some names, ignoring capitals and separators."""
    plain = {re.sub(r"[\W_]", "", column).lower(): column for column in reversed(columns)}
    return next((plain[name] for name in names if name in plain), None)


def is_list_of_fixes(file: Path) -> bool:
    """Return whether a file is a `fixes.csv`, which has the labels that are to be doubted."""
    with file.open("rb") as opened:
        first = opened.readline(_MOST_HEADER)
    cells = re.split("[,;\t]", first.decode("utf-8-sig", "replace"))
    columns = {cell.strip(' \r\n"') for cell in cells}
    return {"file", "suggested", "why", "fix"} <= columns


def read_records(file: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Return the rows of a label file as texts, and its columns."""
    if file.stat().st_size > _MOST_BYTES:
        raise LabelFileError(
            f"{file}: has {file.stat().st_size / 1e6:,.0f} MB; label files of up to 500 MB are read"
        )
    raw = file.read_bytes()
    encoding = "utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise LabelFileError(
            f"{file}: is not UTF-8 text (byte {error.start:,}); save it as CSV in UTF-8"
        ) from error
    if file.suffix.lower() == ".jsonl":
        return _json_records(file, text)
    first = text.partition("\n")[0]
    separator = "\t" if file.suffix.lower() == ".tsv" else max(",;\t|", key=first.count)
    try:
        lines = [
            line
            for line in csv.reader(io.StringIO(text, newline=""), delimiter=separator)
            if any(map(str.strip, line))
        ]
    except csv.Error as error:
        raise LabelFileError(f"{file}: cannot be read as CSV ({error})") from error
    if not lines:
        return [], []
    header = [composed(cell.strip()) for cell in lines[0]]
    has_known_column = column_called(header, (*FILE_NAMES, *LABEL_NAMES)) is not None
    looks_like_a_row = any(
        re.search(r"\.(jpe?g|png|webp|bmp|gif|tiff?|heic|avif)$", cell, re.I) for cell in header
    )
    if looks_like_a_row and not has_known_column:
        lines.insert(0, header)
        header = [f"column {number}" for number in range(1, len(header) + 1)]
    header = [cell or f"column {number}" for number, cell in enumerate(header, 1)]
    wrong = next((number for number, line in enumerate(lines, 1) if len(line) > len(header)), None)
    if wrong is not None:
        raise LabelFileError(
            f"{file}: line {wrong} has {len(lines[wrong - 1])} cells and the first {len(header)};"
            " put cells that hold a comma in double quotes"
        )
    records = []
    for line in lines[1:]:
        cells = [cell.strip() for cell in line]
        cells += [""] * (len(header) - len(cells))
        records.append(dict(zip(header, cells, strict=True)))
    return records, header


def _json_records(file: Path, text: str) -> tuple[list[dict[str, str]], list[str]]:
    records = []
    # Not `splitlines`: JSON's texts may hold other ends of lines, such as U+2028.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise LabelFileError(f"{file}: line {number} is not JSON ({error})") from error
        if not isinstance(record, dict):
            raise LabelFileError(
                f'{file}: line {number} is not an object; expected {{"file_name": ..., "label":'
                " ...}"
            )
        records.append({str(key): _text_of(value) for key, value in record.items()})
    columns = list(dict.fromkeys(key for record in records for key in record))
    blank = dict.fromkeys(columns, "")
    return [{**blank, **record} for record in records], columns


def _text_of(value: object) -> str:
    """Return a JSON value as a cell; of a list, its items as a CSV has several in a cell."""
    if isinstance(value, list):
        return "|".join(map(str, value))
    return "" if value is None else str(value)
