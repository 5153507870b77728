"""Which images belong together (`data.group`): of one dog, one camera, one day. No group is in two
splits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from breedlab.data.image_names import Images, ambiguous, name_column
from breedlab.data.label_files import read_records
from breedlab.data.layout import listed
from breedlab.data.tables import candidates
from breedlab.errors import DataError
from breedlab.names import composed, printable


def groups_of(
    root: Path, group: str | None, paths: Sequence[Path], ignore: Sequence[str] = ()
) -> tuple[dict[Path, str], str]:
    """Return the group of each image, and a line about them; nothing where there are none.

    Args:
        root: The data set.
        group: `data.group`: a column of a label file, or a regular expression on file names.
        paths: Of the images.
        ignore: Names of folders in root that are left out.

    Raises:
        DataError: If it is neither.
    """
    if group is None:
        return {}, ""
    by_column, columns = groups_by_column(root, group, ignore)
    groups = (
        with_own(by_column, root, paths)
        if by_column
        else groups_by_name(group, root, paths, columns)
    )
    return groups, describe(groups)


def groups_by_column(
    root: Path, column: str, ignore: Sequence[str] = ()
) -> tuple[dict[Path, str], list[str]]:
    """Return the group of each image that a label file of a folder gives one in a column, and the
    columns that there are where none is called so.

    Raises:
        DataError: If a label file cannot be understood, or names an image that may be several.
    """
    others: list[str] = []
    for file in candidates(root):
        records, columns = read_records(file)
        if column not in columns or not records:
            others += columns
            continue
        images = Images(root, ignore)
        name = name_column(records, [one for one in columns if one != column], file, images)
        groups: dict[Path, str] = {}
        for number, record in enumerate(records, 2):
            paths = [] if name is None else images.named(record[name], file.parent, None)
            if len(paths) > 1:
                raise ambiguous(file, number, record[name or ""], paths, root)
            if paths and record[column]:
                groups[paths[0]] = composed(record[column])
        if groups:
            return groups, []
        raise DataError(
            f"data.group: {file} has the column {column!r}, and names no image of {root} with a"
            " group in it"
        )
    return {}, list(dict.fromkeys(others))


def groups_by_name(
    pattern: str, root: Path, paths: Sequence[Path], columns: Sequence[str] = ()
) -> dict[Path, str]:
    """Return the group of each image by a regular expression on its name; of images that it does
    not match, their own path.

    Args:
        pattern: Its first parentheses are the group, else all that it matches. With a slash it is
            searched in the path below root, else in the file's name.
        root: The data set.
        paths: Of its images.
        columns: What could have been meant instead, for the message.

    Raises:
        DataError: If it is no regular expression, or matches no image.
    """
    there = f" (which has {listed(columns)})" if columns else ""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DataError(
            f"data.group: got {pattern!r}; expected a column of the label file{there}, or a"
            f" regular expression on the file names ({error})"
        ) from error

    def name_of(path: Path) -> str:
        return path.relative_to(root).as_posix() if "/" in pattern else path.name

    groups: dict[Path, str] = {}
    for path in paths:
        if match := expression.search(name_of(path)):
            text = match.group(1) if expression.groups else match.group()
            if text:
                groups[path] = text
    if not groups:
        raise DataError(
            f"data.group: {pattern!r} matches no file name, such as {name_of(paths[0])!r}; expected"
            f" a column of the label file{there}, or a regular expression whose first parentheses"
            " are the group, such as '^([^_]+)_'"
        )
    return with_own(groups, root, paths)


def with_own(groups: Mapping[Path, str], root: Path, paths: Iterable[Path]) -> dict[Path, str]:
    """Return groups in which each image without one is a group by itself, under its path."""
    return {path: groups.get(path) or f"/{path.relative_to(root).as_posix()}" for path in paths}


def describe(groups: Mapping[Path, str]) -> str:
    """Return in a line how many groups there are."""
    alone = sum(name.startswith("/") for name in groups.values())
    rest = f"; {alone:,} images have none, and are one each" if alone else ""
    count = len({name for name in groups.values() if not name.startswith("/")})
    return f"data.group: {count:,} groups of {len(groups) - alone:,} images{rest}"


def groups_concern(groups: Sequence[str]) -> str:
    """Return why groups cannot be what was meant; empty if they can be.

    Args:
        groups: Of each image; empty names where there are no groups.
    """
    names = {name for name in groups if name}
    if not names or len(groups) < 2:
        return ""
    if len(names) == 1:
        return (
            f"data.group: all images are in one group ({printable(names.pop())}), which one split"
            " alone can have; expected what differs, such as '^([^_]+)_' for rex_1.jpg, ada_1.jpg"
        )
    if len(names) == len(groups):
        return (
            "data.group: no two images are in one group, so nothing is kept together; expected what"
            " several images share, such as '^([^_]+)_' for rex_1.jpg and rex_2.jpg"
        )
    return ""
