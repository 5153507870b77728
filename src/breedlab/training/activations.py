"""The activations of a frozen part, computed once per (weights, transform, data) and kept
memory-mapped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from breedlab.config.sections import Cache
from breedlab.console import note
from breedlab.data.batches import batch_indices, epoch_order
from breedlab.data.module import ImageData
from breedlab.distributed import WHOLE, Shard
from breedlab.models.classifier import Classifier
from breedlab.registry import AUGMENTATIONS
from breedlab.training.cache_key import code_versions, network_digest
from breedlab.training.engine_choice import EAGER, Choice, FeatureEngines
from breedlab.training.feature_cache import FeatureFile, alone, make_room, writing
from breedlab.training.feature_engines import BATCH, Engine
from breedlab.training.feature_rows import find_rows, record_rows

Progress = Callable[[int, int], None]
_IN_MEMORY = 500_000_000
"""Bytes of all views up to which they are read whole; above, they stay on disk and batches are
gathered from maps."""
_MOST_IN_A_BATCH, _BATCH_BYTES = 4096, 64_000_000
"""Images, and bytes, of a validation batch: the smaller limit counts."""


@dataclass(frozen=True)
class Activations:
    """What the trainable part learns from.

    Attributes:
        train: One (n, ...) tensor per view, in the order of the training images.
        valid: (m, ...).
        labels: int64 (n,) of train, or float (n, classes) with `data.multi_label`.
        valid_labels: int64 (m,), or float (m, classes) likewise.
    """

    train: tuple[torch.Tensor, ...]
    valid: torch.Tensor
    labels: torch.Tensor
    valid_labels: torch.Tensor

    def batches(
        self, epoch: int, batch_size: int, seed: int, chances: torch.Tensor | None = None
    ) -> Any:
        """Yield the epoch's (activations, labels), in the order in which images would be loaded.

        Args:
            epoch, seed, chances: As for `epoch_order`.
            batch_size: Images in a batch.
        """
        view = self.train[epoch % len(self.train)]
        order = epoch_order(len(self.labels), seed, epoch, chances)
        for index in batch_indices(order, batch_size):
            yield view[index].float(), self.labels[index]

    def valid_batches(self, most: int = _MOST_IN_A_BATCH, shard: Shard = WHOLE) -> ValidBatches:
        """Return the validation batches of a process, each read when it is asked for.

        Args:
            most: Images in a batch; fewer where their activations are large.
            shard: The process's part.
        """
        mine = slice(shard.rank, None, shard.world)
        return ValidBatches(self.valid[mine], self.valid_labels[mine], most)


class ValidBatches(Sequence[tuple[torch.Tensor, torch.Tensor]]):
    """Validation activations in batches of bounded size: of an early boundary, 4,096 images are
    gigabytes."""

    def __init__(
        self, activations: torch.Tensor, labels: torch.Tensor, most: int = _MOST_IN_A_BATCH
    ) -> None:
        self.activations, self.labels = activations, labels
        bytes_each = 4 * activations[:1].numel()  # computed with as float32
        self.size = max(1, min(most, _BATCH_BYTES // max(1, bytes_each)))

    def __len__(self) -> int:
        return -(-len(self.labels) // self.size)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = slice(index * self.size, (index + 1) * self.size)
        return self.activations[part].float(), self.labels[part]


@dataclass(frozen=True)
class Computing:
    """How the activations of a set of images are computed, and found again.

    Attributes:
        fingerprint: Of the images' content, classes and splits.
        precision: `fp32` or `bf16`, for computing and storing.
        device: Where PyTorch computes.
        engines: What computes.
        progress: Called with a title; gives a context whose value is called with (done, total).
        digests: Of the images' contents, by which features are found that were computed for another
            set of the same images.
    """

    fingerprint: str
    precision: str
    device: torch.device
    engines: FeatureEngines
    progress: Callable[[str], Any]
    digests: Mapping[Path, str] | None = None


class TooLarge(Exception):
    """The activations would pass `cache.max_gb`; they are computed live instead."""


def cached_activations(
    classifier: Classifier,
    data: ImageData,
    cache: Cache,
    how: Computing,
) -> Activations:
    """Read the activations of train and validation from the cache folder, computing what is not
    there yet.

    Args:
        classifier: With a frozen part.
        data: The images.
        cache: Its settings.
        how: The activations are computed.

    Raises:
        TooLarge: If all views together would pass `cache.max_gb`.
        DiskFull: If the disk has no room for them.
    """
    views = cached_parts(classifier, data, _parts(data), cache, how)
    return Activations(tuple(views[:-1]), views[-1], data.labels("train"), data.labels("valid"))


def _parts(data: ImageData) -> list[tuple[str, int]]:
    """Return the split and the view of each part that training needs."""
    return [("train", view) for view in range(data.views.frozen_views or 1)] + [("valid", 0)]


def cached_parts(
    classifier: Classifier,
    data: ImageData,
    parts: Sequence[tuple[str, int]],
    cache: Cache,
    how: Computing,
) -> list[torch.Tensor]:
    """Return the activations of parts of the images, a (split, view) each, as
    `cached_activations`: with the same engine, under the same names."""
    classifier = classifier.to(how.device).eval()
    shape = _boundary_shape(classifier, data.evaluation.crop, how.device)
    common: dict[str, Any] = {
        "boundary": classifier.freeze,
        "network": network_digest(classifier),
        "transform": asdict(data.evaluation),
        "photos": how.fingerprint,
        "precision": how.precision,
        "versions": code_versions(),
    }
    if data.data.train_size:
        common["train_size"] = data.data.train_size
    count = sum(len(data.images.splits[split]) for split, _ in parts)
    usual = sum(len(data.images.splits[split]) for split, _ in _parts(data))
    choice = how.engines.choose(classifier, common, usual, lambda: first_images(data))
    files = _files(common, choice, parts, data, cache, shape, how.precision)
    if not all(file.is_whole() for file in files) and choice.engine != EAGER:
        choice, _ = how.engines.engine_or_eager(classifier, choice)
        files = _files(common, choice, parts, data, cache, shape, how.precision)
    size = sum(file.nbytes for file in files)
    if size > cache.max_gb * 1e9:
        raise TooLarge(
            f"the activations of {count} images take {size / 1e9:.1f} GB, cache.max_gb is"
            f" {cache.max_gb:g}"
        )
    if not all(file.is_whole() for file in files):
        with alone([file for file in files if not file.is_whole()]):
            make_room(files, cache.max_gb, lambda: shutil.disk_usage(cache.dir).free)

            def engine() -> Engine:
                return how.engines.engine(classifier, choice.engine)

            if how.digests:
                _gather(files, parts, data, how, how.digests, engine)
            missing = [
                (file, part) for file, part in zip(files, parts, strict=True) if not file.is_whole()
            ]
            if missing:
                with how.progress("activations of the frozen part") as report:
                    _compute(missing, engine(), data, how.precision, report)
    for file, (split, view) in zip(files, parts, strict=True):
        os.utime(file.path)  # least recently used is dropped first
        if how.digests and view == 0:
            record_rows(file, [how.digests[image.path] for image in data.images.splits[split]])
    return [_load(file, how.precision, whole=size <= _IN_MEMORY) for file in files]


def _gather(
    files: Sequence[FeatureFile],
    parts: Sequence[tuple[str, int]],
    data: ImageData,
    how: Computing,
    digests: Mapping[Path, str],
    engine: Callable[[], Engine],
) -> None:
    """Write the files most of whose images other files have, and compute the rest of them: after
    labels were fixed, or splits cut anew, the images are the same."""
    reused = 0
    for file, (split, view) in zip(files, parts, strict=True):
        if view or file.is_whole() or file.rows_done():
            continue
        found = find_rows(file, [digests[image.path] for image in data.images.splits[split]])
        absent = found.absent
        if 2 * len(absent) > file.shape[0]:
            continue  # an ordinary pass, which can be interrupted
        reused += file.shape[0] - len(absent)
        if absent:
            loader = data.view_dataloader(split, 0, BATCH, indices=absent)
            computed = []
            with how.progress("activations of the images that are new") as report:
                for out in engine().stream(images for images, _ in loader):
                    computed.append(_to_numpy(out, how.precision))
                    report(sum(map(len, computed)), len(absent))
            found = found.completed(np.concatenate(computed))
        found.write(file)
    if reused:
        note(f"activations of {reused:,} images are taken from the cache")


def first_images(data: ImageData) -> torch.Tensor:
    """Return training images (n, 3, side, side) from all over the split, whose classes come one
    after the other."""
    dataset = data.dataset("train")
    return torch.stack(
        [dataset[0, index][0] for index in range(0, len(dataset), -(-len(dataset) // BATCH))]
    )


def _files(
    common: dict[str, Any],
    choice: Choice,
    parts: Sequence[tuple[str, int]],
    data: ImageData,
    cache: Cache,
    shape: tuple[int, ...],
    precision: str,
) -> list[FeatureFile]:
    files = []
    for split, view in parts:
        augment = [AUGMENTATIONS.identity(data.data), data.seed, view] if view else "none"
        key = {**common, "engine": choice.versioned, "split": split, "augment": augment}
        # numpy has no bfloat16: its bits are kept
        dtype = "uint16" if precision == "bf16" else "float32"
        files.append(
            FeatureFile(Path(cache.dir), key, (len(data.images.splits[split]), *shape), dtype)
        )
    return files


def _compute(
    files: Sequence[tuple[FeatureFile, tuple[str, int]]],
    engine: Engine,
    data: ImageData,
    precision: str,
    report: Progress,
) -> None:
    """Compute files, each with its (split, view), in one stream of images that are decoded
    meanwhile."""
    starts = [(split, view, file.rows_done()) for file, (split, view) in files]
    rows, total = sum(start for _, _, start in starts), sum(file.shape[0] for file, _ in files)
    features = engine.stream(images for images, _ in data.stream(starts, BATCH))
    for file, _ in files:
        with writing(file) as writer:
            while writer.rows < file.shape[0]:
                out = next(features)
                writer.append(_to_numpy(out, precision))
                rows += len(out)
                report(rows, total)


def _to_numpy(out: torch.Tensor, precision: str) -> np.ndarray[Any, Any]:
    if precision == "bf16":
        return out.to(torch.bfloat16).contiguous().cpu().view(torch.uint16).numpy()
    return out.float().contiguous().cpu().numpy()


def _load(file: FeatureFile, precision: str, whole: bool) -> torch.Tensor:
    # copy-on-write: torch wants it writable
    rows = np.load(file.path) if whole else np.load(file.path, mmap_mode="c")
    tensor = torch.from_numpy(rows)
    return tensor.view(torch.bfloat16) if precision == "bf16" else tensor


def _boundary_shape(classifier: Classifier, side: int, device: torch.device) -> tuple[int, ...]:
    return tuple(classifier.to_boundary(torch.zeros(1, 3, side, side, device=device)).shape[1:])
