"""torchvision's classifiers as data, so that a typo is found and a plan is made without importing
torch.

`python -m breedlab.models.measure_catalogue` rewrites catalogue.json from the torchvision that is
installed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("catalogue.json")


@dataclass(frozen=True)
class Entry:
    """One classifier.

    Attributes:
        parameters: How many it has, with ImageNet's last layer.
        features: Width of what its last layer reads.
        weights: Names of its weights.
    """

    parameters: int
    features: int
    weights: tuple[str, ...]


@cache
def catalogue() -> dict[str, Entry]:
    """Return every torchvision classifier by name."""
    tree = json.loads(FILE.read_text("utf-8"))
    return {
        name: Entry(entry["parameters"], entry["features"], tuple(entry["weights"]))
        for name, entry in tree.items()
    }


def lookup(name: str) -> Entry | None:
    """Return a classifier's entry, None for timm's."""
    return catalogue().get(name)
