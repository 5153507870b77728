"""Features that the cache has of the same images in another set: after labels are fixed, images
removed, or splits cut anew, only the set is another.

`<name>.rows` beside a file of the cache has the digest of each image's content, in their order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from breedlab.files import atomic_write_bytes, read_json_if_whole
from breedlab.training.feature_cache import FeatureFile, writing

_BYTES = 16
_OF_THE_SET = ("photos", "split")
"""What of a file's key says nothing of a single image's features."""
_BLOCK = 4096


def record_rows(file: FeatureFile, digests: Sequence[str]) -> None:
    """Write which images a file has, once.

    Args:
        file: Of images that are not augmented.
        digests: Of their contents, hexadecimal.
    """
    place = file.path.with_suffix(".rows")
    if not place.exists():
        atomic_write_bytes(place, bytes.fromhex("".join(digests)))


@dataclass(frozen=True)
class Found:
    """Where the features of images are.

    Attributes:
        sources: Arrays of features.
        places: Of each image, which of them, and which row of it, int (n, 2); -1 of those in none.
    """

    sources: list[np.ndarray[Any, Any]]
    places: np.ndarray[Any, Any]

    @property
    def absent(self) -> list[int]:
        """The indices of the images in none."""
        indices: list[int] = np.flatnonzero(self.places[:, 0] < 0).tolist()
        return indices

    def completed(self, features: np.ndarray[Any, Any]) -> Found:
        """Return it with the features of the absent images, in their order."""
        places, absent = self.places.copy(), self.absent
        places[absent] = [(len(self.sources), row) for row in range(len(absent))]
        return Found([*self.sources, features], places)

    def write(self, file: FeatureFile) -> None:
        """Write a file from its beginning; no image may be absent."""
        with writing(file) as writer:
            while writer.rows < len(self.places):
                block = self.places[writer.rows : writer.rows + _BLOCK]
                out = np.empty((len(block), *file.shape[1:]), file.dtype)
                for number in np.unique(block[:, 0]):
                    mine = block[:, 0] == number
                    out[mine] = self.sources[number][block[mine, 1]]
                writer.append(out)


def find_rows(file: FeatureFile, digests: Sequence[str]) -> Found:
    """Return where other files of the cache have the features of a file's images.

    Args:
        file: Of images that are not augmented.
        digests: Of their contents, in their order.
    """
    wanted = [bytes.fromhex(digest) for digest in digests]
    missing, place_of = set(wanted), dict[bytes, tuple[int, int]]()
    sources: list[np.ndarray[Any, Any]] = []
    for features, rows in _of_the_same_network(file):
        here = {rows[at : at + _BYTES]: at // _BYTES for at in range(0, len(rows), _BYTES)}
        if shared := missing & here.keys():
            place_of |= {digest: (len(sources), here[digest]) for digest in shared}
            sources.append(features)
            missing -= shared
        if not missing:
            break
    places = [place_of.get(digest, (-1, -1)) for digest in wanted]
    return Found(sources, np.array(places, dtype=np.int64).reshape(-1, 2))


def _of_the_same_network(file: FeatureFile) -> Iterator[tuple[np.ndarray[Any, Any], bytes]]:
    """Yield the features of other files that differ in the set of images alone, and their digests,
    the most recently used first."""
    wanted = _without_set(json.loads(json.dumps(file.key)))  # as a manifest has it
    found: list[tuple[float, Path]] = []
    for rows in file.folder.glob("*.rows"):
        tree = read_json_if_whole(rows.with_suffix(".json"))
        path = rows.with_suffix(".npy")
        if tree is not None and path != file.path and _without_set(tree.get("key")) == wanted:
            try:
                status = path.stat()
            except OSError:  # deleted meanwhile, or not finished
                continue
            if status.st_size == tree.get("bytes"):
                found.append((status.st_mtime, path))
    for _, path in sorted(found, reverse=True):
        try:
            features, digests = np.load(path, mmap_mode="r"), path.with_suffix(".rows").read_bytes()
        except (OSError, ValueError):
            continue
        if features.shape[1:] == file.shape[1:] and len(digests) == _BYTES * len(features):
            yield features, digests


def _without_set(key: Any) -> dict[str, Any]:
    return {name: value for name, value in dict(key or {}).items() if name not in _OF_THE_SET}
