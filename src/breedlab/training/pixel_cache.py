"""Decoded images, kept memory-mapped next to the activations: live training then decodes each
file once.

What validation sees is kept as the evaluation transform makes it, bit for bit. What training cuts
its random crops from is kept as decoded, or, of images larger than the smallest crop needs, shrunk
to that.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from breedlab import hardware
from breedlab.config.sections import Cache
from breedlab.console import note
from breedlab.data import decode
from breedlab.data.dataset import KeptImages, read_pixels
from breedlab.data.image_set import LabeledImage
from breedlab.data.module import ImageData
from breedlab.data.transforms import EvalTransform, shrunk, shrunk_size, side_for_crops
from breedlab.errors import DiskFull
from breedlab.training.cache_key import code_versions
from breedlab.training.feature_cache import FeatureFile, alone, make_room, writing

Make = Callable[[LabeledImage], np.ndarray[Any, Any]]
Progress = Callable[[str], Any]


class MappedImages:
    """The images of one file, one after the other, each with its own size.

    Args:
        path: A .npy of bytes.
        sizes: (n, 2), their heights and widths.
        original: (n, 2), those of the images' files.
    """

    def __init__(
        self, path: Path, sizes: np.ndarray[Any, Any], original: np.ndarray[Any, Any]
    ) -> None:
        self._path, self._sizes, self._starts, self._original = (
            path,
            sizes,
            _starts(sizes),
            original,
        )

    @cached_property
    def _bytes(self) -> np.ndarray[Any, Any]:
        # copy-on-write: torch wants it writable
        return np.asarray(np.load(self._path, mmap_mode="c"))

    def __getitem__(self, index: int) -> np.ndarray[Any, Any]:
        height, width = self._sizes[index]
        return self._bytes[self._starts[index] : self._starts[index + 1]].reshape(height, width, 3)

    def original_size(self, index: int) -> tuple[int, int]:
        height, width = self._original[index].tolist()
        return height, width

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the memory map, which would be pickled as its content: each worker maps the
        file itself."""
        return {name: value for name, value in vars(self).items() if name != "_bytes"}


def kept_images(
    data: ImageData, cache: Cache, fingerprint: str, progress: Progress
) -> dict[str, KeptImages]:
    """Return what is kept of the training and the validation images, decoding what is not there
    yet.

    Args:
        data: The images, their transforms and whether training augments them.
        cache: Its settings.
        fingerprint: Of the images' content, classes and splits.
        progress: Called with a title; gives a context whose value is called with (done, total).

    Returns:
        By split; empty where they do not fit into `cache.max_gb` or on the disk, which is said.
    """
    train, valid = data.images.splits["train"], data.images.splits["valid"]
    stores = [_evaluated("valid", valid, data.evaluation)]
    # the first view of a frozen backbone is the evaluated one
    if data.training is None or data.views.frozen_views:
        stores.append(_evaluated("train", train, data.evaluation))
    if data.training is not None and data.views.frozen_views != 1:
        sizes = _known_sizes(train, cache, fingerprint, progress)
        stores.append(_decoded("train", train, data.evaluation, sizes))
    common = {
        "photos": fingerprint,
        "transform": asdict(data.evaluation),
        "versions": code_versions(),
    }
    files = [
        FeatureFile(
            Path(cache.dir),
            {**common, "pixels": [store.split, store.kind]},
            (int(store.starts[-1]),),
            "uint8",
        )
        for store in stores
    ]
    total = sum(file.nbytes for file in files)
    try:
        if total > cache.max_gb * 1e9:
            raise _Live(f"kept, they take {total / 1e9:.1f} GB, cache.max_gb is {cache.max_gb:g}")
        _fill(list(zip(files, stores, strict=True)), cache, progress)
    except _Live as reason:
        note(f"images are decoded every epoch: {reason}")
        return {}
    mapped: dict[str, dict[str, MappedImages]] = {"train": {}, "valid": {}}
    for file, store in zip(files, stores, strict=True):
        os.utime(file.path)  # least recently used is dropped first
        mapped[store.split][store.kind] = MappedImages(file.path, store.sizes, store.original)
    return {split: KeptImages(**images) for split, images in mapped.items()}


class _Live(Exception):
    """Raised with the reason why no images are kept."""


class _Store:
    """What a file will contain.

    Attributes:
        split: Of the data set.
        kind: `evaluated` or `decoded`.
        images: Of the split, in their order.
        sizes: (n, 2), the heights and widths that `make` returns.
        original: (n, 2), those of the image files, where they matter.
        make: Returns what is kept of an image.
    """

    def __init__(
        self,
        split: str,
        kind: str,
        images: Sequence[LabeledImage],
        sizes: np.ndarray[Any, Any],
        make: Make,
    ) -> None:
        self.split, self.kind, self.images, self.sizes, self.make = split, kind, images, sizes, make
        self.starts = _starts(sizes)
        self.original = sizes


def _evaluated(split: str, images: Sequence[LabeledImage], evaluation: EvalTransform) -> _Store:
    sizes = np.full((len(images), 2), evaluation.crop, dtype=np.int64)
    return _Store(split, "evaluated", images, sizes, partial(_evaluate, evaluation))


def _evaluate(evaluation: EvalTransform, labeled: LabeledImage) -> np.ndarray[Any, Any]:
    image: np.ndarray[Any, Any] = evaluation(read_pixels(labeled.path)).permute(1, 2, 0).numpy()
    return image


def _decoded(
    split: str,
    images: Sequence[LabeledImage],
    evaluation: EvalTransform,
    whole: np.ndarray[Any, Any],
) -> _Store:
    side = side_for_crops(evaluation.crop)
    sizes = np.array(
        [shrunk_size(int(height), int(width), side) for height, width in whole], dtype=np.int64
    )
    store = _Store(
        split, "decoded", images, sizes, partial(_shrink, side, evaluation.interpolation)
    )
    store.original = whole
    return store


def _shrink(side: int, interpolation: str, image: LabeledImage) -> np.ndarray[Any, Any]:
    return shrunk(read_pixels(image.path), side, interpolation)


def _starts(sizes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return at which byte each image begins, and where the last one ends."""
    lengths = sizes.astype(np.int64).prod(axis=1) * 3
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _known_sizes(
    images: Sequence[LabeledImage], cache: Cache, fingerprint: str, progress: Progress
) -> np.ndarray[Any, Any]:
    """Return the (height, width) of each image, read from the files once."""
    key = {"photos": fingerprint, "sizes of": "train", "versions": code_versions()}
    file = FeatureFile(Path(cache.dir), key, (len(images), 2), "int32")
    with suppress(DiskFull):
        if not file.is_whole():
            with alone([file]):
                if not file.is_whole():
                    make_room([file], cache.max_gb, lambda: shutil.disk_usage(cache.dir).free)
                    with writing(file) as writer:
                        writer.append(
                            np.array(list(_sizes(images, progress)), np.int32)[writer.rows :]
                        )
        return np.asarray(np.load(file.path))
    return np.array(list(_sizes(images, progress)), np.int32)


def _sizes(images: Sequence[LabeledImage], progress: Progress) -> Iterator[tuple[int, int]]:
    with progress("sizes of the training images") as report:
        for number, size in enumerate(hardware.in_threads(_size, images), 1):
            report(number, len(images))
            yield size


def _size(image: LabeledImage) -> tuple[int, int]:
    try:
        return decode.size(decode.read_image(image.path))
    except (OSError, decode.ImageError):
        height, width, _ = read_pixels(image.path).shape  # says what happened to it
        return height, width


def _fill(files: Sequence[tuple[FeatureFile, _Store]], cache: Cache, progress: Progress) -> None:
    if all(file.is_whole() for file, _ in files):
        return
    with alone([file for file, _ in files if not file.is_whole()]):
        missing = [(file, store) for file, store in files if not file.is_whole()]
        total = sum(len(store.images) for _, store in missing)
        count = 0
        try:
            make_room(
                [file for file, _ in files], cache.max_gb, lambda: shutil.disk_usage(cache.dir).free
            )
            with progress("images decoded once, for all epochs") as report:
                for file, store in missing:
                    for _ in _decode_into(file, store):
                        count += 1
                        report(count, total)
        except DiskFull as error:  # which is worse for what the run has to write than for this
            for file, _ in missing:
                file.part.unlink(missing_ok=True)
                file.marker.unlink(missing_ok=True)
            raise _Live(f"the disk of {cache.dir} has no room for {total:,} of them") from error


def _decode_into(file: FeatureFile, store: _Store) -> Iterator[int]:
    """Write a store's file from its first missing image on; yields after each image."""
    with writing(file) as writer:
        first = int(np.searchsorted(store.starts, writer.rows))
        lengths = np.diff(store.starts)[first:]
        yield from range(first)
        images = hardware.in_threads(store.make, store.images[first:])
        for number, (length, image) in enumerate(zip(lengths, images, strict=True), first):
            flat = np.ascontiguousarray(image).reshape(-1)
            if len(flat) != length:
                raise _Live(f"{store.images[number].path} is of another size than its file says")
            writer.append(flat)
            yield writer.rows
