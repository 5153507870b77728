"""The confusions of a test as `metrics.json` holds them: only cells that are not zero."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Cells = dict[tuple[int, int], int]
"""Images by (true label, predicted label)."""

DRAWN = 150
"""The most classes that a picture has room for; of more, those with the most mistakes are drawn."""

_NUMBERS = re.compile(r"\[\s+(-?[\d.e+-]+(?:,\s+-?[\d.e+-]+)*)\s+\]")


def read_cells(test: Mapping[str, Any]) -> Cells:
    """Return the cells of a test; tests of older versions have a matrix instead, one row per true
    class."""
    confusion = test.get("confusion") or []
    if isinstance(confusion, Mapping):
        return {
            (int(truth), int(predicted)): int(count)
            for truth, predicted, count in confusion["cells"]
        }
    return {
        (i, j): int(count)
        for i, row in enumerate(confusion)
        for j, count in enumerate(row)
        if count
    }


def drawn_classes(cells: Cells, count: int, most: int = DRAWN) -> list[int]:
    """Return the labels to draw, in order: all, or those with the most mistakes, as true or as
    predicted class."""
    if count <= most:
        return list(range(count))
    mistakes: Counter[int] = Counter()
    for (truth, predicted), images in cells.items():
        if truth != predicted:
            mistakes[truth] += images
            mistakes[predicted] += images
    ranked = sorted(range(count), key=lambda label: (-mistakes[label], label))
    return sorted(ranked[:most])


def readable_json(tree: Any) -> str:
    """Return indented JSON in which a list of numbers is one line, not a line per number."""
    text = json.dumps(tree, indent=2)
    return _NUMBERS.sub(lambda match: "[" + re.sub(r"\s+", " ", match[1]) + "]", text)


def worst_mistaken(cells: Cells) -> dict[int, tuple[int, int]]:
    """Return for each true label the other label that it was most often taken for, and how
    often."""
    worst: dict[int, tuple[int, int]] = {}
    for (truth, predicted), images in sorted(cells.items()):
        if truth != predicted and images > worst.get(truth, (0, 0))[1]:
            worst[truth] = (predicted, images)
    return worst


def among(cells: Cells, labels: Sequence[int]) -> Cells:
    """Return the cells between some labels, by their places in that list."""
    place = {label: index for index, label in enumerate(labels)}
    return {(place[i], place[j]): n for (i, j), n in cells.items() if i in place and j in place}
