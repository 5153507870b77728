"""The classes of a row of a label file: one, or several in a cell or in a column each."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from breedlab.errors import DataError
from breedlab.names import composed

SEVERAL = "data=multi_label, which trains on images of several classes, or none"
"""What is said where a file plainly has more than one class for an image."""
MOST_MISTAKES = 0.05
"""Where fewer images than this share have several classes, those are mistakes in the file; from
there on, images simply have several."""


class SeveralLabels(DataError):
    """A label file plainly has several classes for an image, and one was expected."""

    code = "BL204"


Labels = Callable[[Mapping[str, str]], tuple[str, ...]]
"""From a row of a label file to its image's classes."""

_BARS = re.compile(r"[|;]")
_COMMAS = re.compile(r"[|;,]")
_SPACES = re.compile(r"[|;\s]")
_LIST = re.compile(r"\[([^\[\]]*)\]")
_QUOTED = re.compile(r"""'([^']*)'|"([^"]*)\"""")
_PLURALS = ("labels", "tags", "classes", "categories", "attributes", "findinglabels", "genres")
"""Names of columns that say themselves that a cell may hold several."""

_YES, _NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")


def is_one_hot(records: list[dict[str, str]], columns: list[str]) -> bool:
    """Return whether there is a column for each class, of zeros and ones, true and false, or -1 and
    1."""
    values = {record[column].strip().lower() for record in records for column in columns}
    negative = ("-1", "-1.0") if values.isdisjoint(_NO) else ()  # beside 0, -1 means "unknown"
    return len(columns) >= 2 and values <= {*_YES, *_NO, *negative}


def not_one_class(file: Path, records: list[dict[str, str]], columns: list[str]) -> str:
    """Say which row has not exactly one class at 1; empty where so few have not that they are
    mistakes."""
    labels = hot(columns)
    counts = [len(labels(record)) for record in records]
    wrong = [number for number, count in enumerate(counts) if count != 1]
    if len(wrong) < MOST_MISTAKES * len(records):
        return ""
    return (
        f"{file}: line {wrong[0] + 2} has {counts[wrong[0]]} classes at 1; expected one class for"
        f" each image, or {SEVERAL}"
    )


def hot(columns: Sequence[str]) -> Labels:
    """Return a function that reads the classes of a row with a column for each class."""
    return lambda record: tuple(
        composed(column) for column in columns if record[column].strip().lower() in _YES
    )


def one_in(column: str) -> Labels:
    """Return a function that reads the one class that a column names."""
    return lambda record: (composed(record[column]),) if record[column] else ()


def several_in(column: str, cells: Collection[str]) -> Labels:
    """Return a function that reads the classes that a column names.

    Args:
        column: Its name.
        cells: All that it holds: whether a comma or a space is between classes, or in the name of
            one, shows only there.
    """
    between = _separator(cells, column) or _BARS
    return lambda record: split_labels(record[column], between)


def split_labels(cell: str, between: re.Pattern[str] = _BARS) -> tuple[str, ...]:
    """Return the classes of a cell such as `cat|dog`, `cat; dog` or `['cat', 'dog']`, each once."""
    text = composed(cell).strip()
    if match := _LIST.fullmatch(text):
        quoted = [one or other for one, other in _QUOTED.findall(match[1])]
        parts = quoted or match[1].split(",")
    else:
        parts = between.split(text)
    return tuple(dict.fromkeys(filter(None, (part.strip() for part in parts))))


def a_cell_of_several(cells: Collection[str], column: str) -> str:
    """Return a cell of a column that holds several classes; empty if each holds one."""
    between = _separator(cells, column)
    if between is None:
        return ""
    return min(cell for cell in cells if len(split_labels(cell, between)) > 1)


def _separator(cells: Collection[str], column: str) -> re.Pattern[str] | None:
    """Return what separates classes in the cells of a column; None if each cell is one class."""
    cells = set(filter(None, cells))
    if _shared_parts(cells, _BARS):
        return _BARS
    plural = re.sub(r"[\W_]", "", column).lower() in _PLURALS
    if plural and len({len(split_labels(cell)) for cell in cells}) > 1:
        return _BARS
    # Names of classes may hold a comma or a space ("Welsh springer spaniel"), so that more has to
    # speak for several: parts that come alone, too, or the column's name.
    for between in (_COMMAS, _SPACES):
        parts = {cell: split_labels(cell, between) for cell in cells}
        several = [cell for cell in cells if len(parts[cell]) > 1]
        alone = {parts[cell][0] for cell in cells if len(parts[cell]) == 1}
        names = {part for cell in several for part in parts[cell]}
        shared = _shared_parts(cells, between)
        counts = {len(labels) for labels in parts.values()}
        is_list = names <= alone or (plural and len(counts) > 1 and len(names | alone) < len(cells))
        if len(shared) >= 2 and 2 * len(shared) >= len(several) and is_list:
            return between
    return None


def _shared_parts(cells: Collection[str], between: re.Pattern[str]) -> list[str]:
    """Return the cells of several parts that are all in other cells, too: `cat|dog` next to `cat`
    and `dog|horse`, but not `animal|cat` next to `animal|dog`."""
    cells_of: dict[str, int] = {}
    for cell in cells:
        for part in split_labels(cell, between):
            cells_of[part] = cells_of.get(part, 0) + 1
    shared = []
    for cell in cells:
        parts = split_labels(cell, between)
        if len(parts) > 1 and all(cells_of[part] > 1 for part in parts):
            shared.append(cell)
    return shared
