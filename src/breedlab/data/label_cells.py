"""The classes of a row of a label file: one, or several in a cell or in a column each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from breedlab.errors import DataError
from breedlab.names import composed

SEVERAL = "data=multi_label, which trains on images of several classes, or none"
"""What is said where a file plainly has more than one class for an image."""


class SeveralLabels(DataError):
    """A label file plainly has several classes for an image, and one was expected."""

    code = "BL204"


Labels = Callable[[Mapping[str, str]], tuple[str, ...]]
"""From a row of a label file to its image's classes."""

_BETWEEN_LABELS = re.compile(r"[|;]")


def is_one_hot(records: list[dict[str, str]], columns: list[str]) -> bool:
    """Whether there is a column a class, of zeros and ones."""
    values = {record[column].strip() for record in records for column in columns}
    return len(columns) >= 2 and values <= {"0", "1", "0.0", "1.0"}


def not_one_class(file: Path, records: list[dict[str, str]], columns: list[str]) -> str:
    """Say which row of a column a class has not exactly one; empty if all have."""
    labels = hot(columns)
    for number, record in enumerate(records, 2):
        if len(found := labels(record)) != 1:
            return (
                f"{file}: line {number} has {len(found)} classes at 1; expected one class for each"
                f" image, or {SEVERAL}"
            )
    return ""


def hot(columns: Sequence[str]) -> Labels:
    """Return what reads the classes of a row that has a column a class."""
    return lambda record: tuple(
        composed(column) for column in columns if record[column].startswith("1")
    )


def named(column: str, several: bool) -> Labels:
    """Return what reads the classes that a column names, with `several` between `|` or `;`."""
    if several:
        return lambda record: split_labels(record[column])
    return lambda record: (composed(record[column]),) if record[column] else ()


def split_labels(cell: str) -> tuple[str, ...]:
    """Return the classes of a cell such as `cat|dog` or `cat; dog`, each once."""
    names = (name.strip() for name in _BETWEEN_LABELS.split(composed(cell)))
    return tuple(dict.fromkeys(filter(None, names)))
