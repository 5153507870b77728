"""The images of a data set, by split: the result of reading folders and label files."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class LabeledImage:
    """A file, the index of its class, and what it belongs to: no group is in two splits; empty
    where there are no groups.

    With `data.multi_label`, `labels` has the indices of all its classes, in order, and `label` is
    -1, which is not the index of a class.
    """

    path: Path
    label: int
    group: str = ""
    labels: tuple[int, ...] | None = None

    @property
    def classes(self) -> tuple[int, ...]:
        """The indices of all its classes."""
        return (self.label,) if self.labels is None else self.labels

    @property
    def recorded(self) -> int | list[int]:
        """What a run's records say of its class, or classes."""
        return self.label if self.labels is None else [*self.labels]


@dataclass(frozen=True)
class ImageSet:
    """All images of a data set.

    Attributes:
        root: The folder that was read.
        classes: Names as people see them, in label order.
        splits: Images by split, sorted by path.
        cut: Which splits had no folder and were cut from train.
        flaws: What has to be fixed before the images can be used, though those that are there can
            be read.
        notes: What users may want to know about the folders: how they were read, litter passed
            over.
        left_out: What was not read that may have been meant to be: files by their endings, images
            outside classes.
        label_files: The files that hold the labels, where class folders do not.
        multi_label: Whether an image may have several classes, or none.
    """

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, tuple[LabeledImage, ...]]
    cut: tuple[str, ...] = field(default=())
    flaws: tuple[str, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())
    left_out: tuple[str, ...] = field(default=())
    label_files: tuple[Path, ...] = field(default=())
    multi_label: bool = False

    def counts(self, split: str) -> list[int]:
        """Return the number of images of each class in a split."""
        images = Counter(label for image in self.splits[split] for label in image.classes)
        return [images[label] for label in range(len(self.classes))]


_OLD_NAMES: dict[str, type] = {"Photo": LabeledImage, "PhotoSet": ImageSet}


def __getattr__(name: str) -> type:
    """Return a class by its old name, with a warning, until the next release."""
    if name not in _OLD_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new = _OLD_NAMES[name]
    warnings.warn(
        f"{name} is now {new.__name__}; the old name goes with the next release", FutureWarning, 2
    )
    return new
