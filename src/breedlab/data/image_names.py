"""Which images of a folder the names in a label file mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from breedlab.data.label_files import FILE_NAMES, column_called
from breedlab.data.layout import listed, split_of
from breedlab.data.listing import find_images
from breedlab.errors import LabelFileError
from breedlab.names import composed

FEW = 3
"""How many of many things a message about a label file names."""


class Images:
    """The images of a folder by the ways in which label files name them."""

    def __init__(self, root: Path, ignore: Sequence[str]) -> None:
        ignored = {composed(name) for name in ignore}
        self.root = root
        self.all = [
            path
            for path in find_images(root)
            if composed(path.relative_to(root).parts[0]) not in ignored
        ]
        self._by_end: dict[str, list[Path]] = {}
        for path in self.all:
            relative = PurePosixPath(composed(path.relative_to(root).as_posix()))
            for name in {
                str(relative),
                str(relative.with_suffix("")),
                relative.name,
                relative.stem,
            }:
                self._by_end.setdefault(name, []).append(path)

    def named(self, name: str, home: Path, split: str | None) -> list[Path]:
        """Return the images that a name may mean: by its path from the file's folder or the root,
        else by its end."""
        parts = [
            part for part in composed(name).replace("\\", "/").split("/") if part not in ("", ".")
        ]
        here = composed(home.relative_to(self.root).as_posix())
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            paths = self._by_end.get(f"{here}/{end}", []) if here != "." else []
            paths = paths or self._by_end.get(end, [])
            if paths:
                # A test without labels often numbers its images from 1 again.
                return [
                    path for path in paths if self.split_of(path) == (split or "train")
                ] or paths
        return []

    def split_of(self, path: Path) -> str | None:
        """Return the split that an image's topmost folder is named for."""
        parts = path.relative_to(self.root).parts
        return split_of(parts[0]) if len(parts) > 1 else None


def name_column(
    records: list[dict[str, str]], columns: Sequence[str], file: Path, images: Images
) -> str | None:
    """Return the column that names images: by its own name, else the one that names most of
    them."""
    sample = records[:: max(1, len(records) // 50)]

    def hits(column: str) -> int:
        return sum(
            bool(row[column]) and bool(images.named(row[column], file.parent, None))
            for row in sample
        )

    name = column_called(columns, FILE_NAMES)
    if name is None or not hits(name):
        best = max(columns, key=hits)
        name = best if hits(best) else name
    return name


def ambiguous(
    file: Path, line: int, name: str, paths: Sequence[Path], root: Path
) -> LabelFileError:
    """Return the refusal of a name that several images have."""
    return LabelFileError(
        f"{file}: line {line} names {name!r}, which may be"
        f" {listed([str(path.relative_to(root)) for path in paths], FEW)};"
        " expected the path from the file's folder"
    )
