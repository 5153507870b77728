"""Small pictures of the run's images, inside the page. An image that is gone or broken is left
out."""

from __future__ import annotations

import base64
import csv
import functools
import io
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from breedlab.data.decode import ImageError, decode, read_image
from breedlab.data.fixes import COPY_OF, LABEL
from breedlab.reporting.record import RunRecord

SIDE = 112
"""Pixels of a picture's longer side."""

_GALLERY = 140
_CONFUSIONS = 10
_EXAMPLES = 3
_MISTAKES = 12


@dataclass(frozen=True)
class Shown:
    """An image of the test and what the model made of it.

    Attributes:
        picture: A `data:` address.
        file: Below the data's root.
        truth, taken_for: Class names.
        probability: Of the answer.
    """

    picture: str
    file: str
    truth: str
    taken_for: str
    probability: float


@functools.lru_cache(maxsize=1024)
def thumbnail(path: Path) -> str | None:
    """Return a `data:` URL of an image's thumbnail, upright and in RGB; None if there is no usable
    image."""
    try:
        image = Image.fromarray(decode(read_image(path)))
    except (OSError, ImageError):
        return None
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    packed = io.BytesIO()
    image.save(packed, "WEBP", quality=72)
    return "data:image/webp;base64," + base64.b64encode(packed.getvalue()).decode()


def labels_of(recorded: int | list[int]) -> list[int]:
    """Return the classes of an image from its label in splits.json: one index or several."""
    return recorded if isinstance(recorded, list) else [recorded]


def gallery(run: RunRecord) -> list[tuple[str, list[str]]]:
    """Return a few training images of each class, evenly spaced; fewer per class if there are many
    classes."""
    root, labels = run.image_root, run.splits.get("labels", {}).get("train", [])
    if root is None or not labels:
        return []
    files, classes = run.splits["photos"]["train"], run.classes
    each = max(1, min(_EXAMPLES, _GALLERY // max(1, len(classes))))
    of_class: list[list[str]] = [[] for _ in classes]
    for file, own in zip(files, labels, strict=True):
        for label in labels_of(own):
            of_class[label].append(file)
    rows = []
    for name, mine in list(zip(classes, of_class, strict=True))[:_GALLERY]:
        picks: list[int] = (
            np.linspace(0, len(mine) - 1, min(each, len(mine))).round().astype(int).tolist()
        )
        pictures = [picture for pick in picks if (picture := thumbnail(root / mine[pick]))]
        if pictures:
            rows.append((name, pictures))
    return rows


def suspects(run: RunRecord, why: str = LABEL) -> list[dict[str, Any]]:
    """Return the images whose label is most probably wrong, from the run's `fixes.csv`, with their
    pictures; or those listed for another reason, `why`, and what they are nearly the same as. None
    of them if the file cannot be read."""
    try:
        with (run.path / "fixes.csv").open(
            encoding="utf-8", errors="surrogateescape", newline=""
        ) as table:
            # older versions listed nothing else, and had no such column
            entries = (
                row for row in csv.DictReader(table) if (row.get("why") or LABEL).startswith(why)
            )
            rows = list(itertools.islice(entries, _MISTAKES))
    except (OSError, csv.Error):
        return []
    try:  # people edit this file, and spreadsheets change its format
        return pictured(rows, run.image_root)
    except (KeyError, TypeError, ValueError):
        return []


def pictured(rows: Iterable[Mapping[str, Any]], root: Path | None) -> list[dict[str, Any]]:
    """Return the rows of a list of fixes whose images are there, with their pictures, and those of
    what they are nearly the same as.

    Raises:
        KeyError, TypeError, ValueError: If a row is not of such a list.
    """
    pictures = []
    for row in rows:
        share = f"{float(row['confidence']):.0%}" if row["confidence"] != "" else ""
        if root is not None and (picture := thumbnail(root / row["file"])):
            why = row.get("why") or LABEL
            other = why.removeprefix(COPY_OF)
            like = thumbnail(root / other) if why.startswith(COPY_OF) else None
            pictures.append(
                {**row, "picture": picture, "share": share, "other": other, "like": like}
            )
    return pictures


def confusions(run: RunRecord) -> list[dict[str, Any]]:
    """Return the worst confusions, each with images that were confused and one of the class they
    were taken for."""
    rows = []
    for pair in run.test.get("worst", [])[:_CONFUSIONS]:
        mistaken = [
            index
            for index in _wrong(run)
            if (_name(run, "labels", index), _name(run, "predicted", index))
            == (pair["truth"], pair["taken_for"])
        ]
        examples = [example for index in mistaken[:_EXAMPLES] if (example := _shown(run, index))]
        rows.append({**pair, "examples": examples, "like": _example(run, pair["taken_for"])})
    return rows


def mistakes(run: RunRecord) -> list[Shown]:
    """Return the most confident wrong answers."""
    return [mistake for index in _wrong(run)[:_MISTAKES] if (mistake := _shown(run, index))]


def _wrong(run: RunRecord) -> list[int]:
    """Return the indices of the wrong answers, most confident first."""
    predictions = run.predictions
    pairs = zip(predictions.get("labels", []), predictions.get("predicted", []), strict=True)
    wrong = [index for index, (label, predicted) in enumerate(pairs) if label != predicted]
    return sorted(wrong, key=lambda index: -predictions["probabilities"][index])


def _shown(run: RunRecord, index: int) -> Shown | None:
    file = run.predictions["photos"][index]
    picture = thumbnail(run.image_root / file) if run.image_root else None
    if picture is None:
        return None
    truth, taken_for = _name(run, "labels", index), _name(run, "predicted", index)
    return Shown(picture, file, truth, taken_for, run.predictions["probabilities"][index])


def _name(run: RunRecord, column: str, index: int) -> str:
    label: int = run.predictions[column][index]
    return run.classes[label]


def _example(run: RunRecord, name: str) -> str | None:
    """Return a training image of a class."""
    labels, root = run.splits.get("labels", {}).get("train", []), run.image_root
    if root is None or not labels or name not in run.classes:
        return None
    label = run.classes.index(name)
    file = next(
        (f for f, own in zip(run.splits["photos"]["train"], labels, strict=True) if own == label),
        None,
    )
    return thumbnail(root / file) if file else None
