"""The activations of a frozen part, computed once per (weights, transform, data) and kept memory-mapped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from breedlab.config.schema import Cache
from breedlab.data.module import PhotoData, batch_indices, epoch_order
from breedlab.errors import TrainingError
from breedlab.files import atomic_write_text
from breedlab.models.classifier import Classifier
from breedlab.ranks import WHOLE, Shard
from breedlab.reporting.console import note
from breedlab.training.cache_key import code_versions, network_digest
from breedlab.training.precision import autocast

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

Progress = Callable[[int, int], None]
_IN_MEMORY = 2_000_000_000
"""Bytes up to which a view is read whole; above it stays on disk and batches are gathered from the map."""
_BATCH = 32
_MOST_IN_A_BATCH, _BATCH_BYTES = 4096, 64_000_000
"""Of validation, whichever is less."""
_SAVE_EVERY_S = 10.0
_LEFT_AFTER_S = 86_400
"""A pass that nobody has gone on with for so long is left over, and makes room like any other file."""


@dataclass(frozen=True)
class Activations:
    """What the trainable part learns from.

    Attributes:
        train: One (n, ...) tensor a view, in the order of the training photos.
        valid: (m, ...).
        labels: int64 (n,) of train.
        valid_labels: int64 (m,).
    """

    train: tuple[torch.Tensor, ...]
    valid: torch.Tensor
    labels: torch.Tensor
    valid_labels: torch.Tensor

    def batches(self, epoch: int, batch_size: int, seed: int) -> Any:
        """The epoch's (activations, labels), in the order that the photos would come in live."""
        view = self.train[epoch % len(self.train)]
        for index in batch_indices(epoch_order(len(self.labels), seed, epoch), batch_size):
            yield view[index].float(), self.labels[index]

    def valid_batches(self, shard: Shard = WHOLE) -> ValidBatches:
        """Return the validation batches of a process, each read when it is asked for."""
        return ValidBatches(self.valid[shard.rank :: shard.world], self.valid_labels[shard.rank :: shard.world])


class ValidBatches(Sequence[tuple[torch.Tensor, torch.Tensor]]):
    """Validation activations in batches of bounded size: of an early boundary, 4,096 images are gigabytes."""

    def __init__(self, activations: torch.Tensor, labels: torch.Tensor) -> None:
        self.activations, self.labels = activations, labels
        bytes_each = 4 * activations[:1].numel()  # computed with as float32
        self.size = max(1, min(_MOST_IN_A_BATCH, _BATCH_BYTES // max(1, bytes_each)))

    def __len__(self) -> int:
        return -(-len(self.labels) // self.size)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = slice(index * self.size, (index + 1) * self.size)
        return self.activations[part].float(), self.labels[part]


class TooLarge(Exception):
    """The activations would pass `cache.max_gb`; they are computed live instead."""


def cached_activations(
    classifier: Classifier,
    data: PhotoData,
    cache: Cache,
    *,
    fingerprint: str,
    precision: str,
    device: torch.device,
    progress: Callable[[str], Any],
) -> Activations:
    """Reads the activations from the cache folder, computing what is not there yet.

    Args:
        classifier: With a frozen part.
        data: The photos.
        cache: Its settings.
        fingerprint: Of the photos' content, classes and splits.
        precision: `fp32` or `bf16`, for computing and storing.
        device: Where to compute.
        progress: Called with a title; gives a context whose value is called with (done, total).

    Raises:
        TooLarge: If all views together would pass `cache.max_gb`.
    """
    views = data.views.frozen_views or 1
    wanted = [("train", view) for view in range(views)] + [("valid", 0)]
    classifier = classifier.to(device).eval()
    shape = _boundary_shape(classifier, data.evaluation.crop, device)
    width = 2 if precision == "bf16" else 4
    photos = views * len(data.photos.splits["train"]) + len(data.photos.splits["valid"])
    size = photos * int(np.prod(shape)) * width
    if size > cache.max_gb * 1e9:
        raise TooLarge(f"the activations of {photos} photos take {size / 1e9:.1f} GB, cache.max_gb is {cache.max_gb:g}")
    network, versions = network_digest(classifier), code_versions()
    found = []
    for split, view in wanted:
        key = {
            "boundary": classifier.freeze,
            "network": network,
            "transform": asdict(data.evaluation),
            "augment": [data.data.augment, data.seed, view] if view else "none",
            "photos": fingerprint,
            "split": split,
            "precision": precision,
            "versions": versions,
        }
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
        path = Path(cache.dir, f"{name}.npy")
        if not path.exists():
            with _alone(path):
                if not path.exists():
                    _make_room(path, size, cache.max_gb)
                    title = f"activations of {split}" + (f", view {view + 1} of {views}" if views > 1 else "")
                    with progress(title) as report:
                        _compute(path, classifier, data, split, view, shape, precision, device, report)
        os.utime(path)  # least recently used is dropped first
        found.append(_load(path, precision))
    return Activations(tuple(found[:-1]), found[-1], data.labels("train"), data.labels("valid"))


def _compute(
    path: Path,
    classifier: Classifier,
    data: PhotoData,
    split: str,
    view: int,
    shape: tuple[int, ...],
    precision: str,
    device: torch.device,
    report: Progress,
) -> None:
    """Writes `<name>.part`, with how many rows of it are done beside it, and renames it when it is whole."""
    count = len(data.photos.splits[split])
    part, marker = path.with_suffix(".part"), path.with_suffix(".done")
    stored = np.uint16 if precision == "bf16" else np.float32  # numpy has no bfloat16: its bits are kept
    done = int(marker.read_text()) if marker.exists() and part.exists() else 0
    mode: Any = "r+" if done else "w+"
    rows = np.lib.format.open_memmap(part, mode=mode, dtype=stored, shape=(count, *shape))

    def save() -> None:
        rows.flush()
        atomic_write_text(marker, str(done))

    saved = time.monotonic()
    try:
        with autocast(device, precision):
            for photos, _ in data.view_dataloader(split, view, batch_size=_BATCH, start=done):
                out = classifier.to_boundary(photos.to(device))
                rows[done : done + len(out)] = _to_numpy(out, precision)
                done += len(out)
                report(done, count)
                if time.monotonic() - saved > _SAVE_EVERY_S:
                    save()
                    saved = time.monotonic()
    except BaseException:
        save()
        raise
    rows.flush()
    marker.unlink(missing_ok=True)  # first: it must never be taken for a later file's
    part.replace(path)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time for each file; the others wait, and then find it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("ab") as file:  # which, renamed, keeps its lock
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                note("another process is computing the same activations; waiting for them")
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                pass  # a file system without locks
        yield
        if path.exists():
            part.unlink(missing_ok=True)  # made by opening it


def _to_numpy(out: torch.Tensor, precision: str) -> np.ndarray[Any, Any]:
    if precision == "bf16":
        return out.to(torch.bfloat16).contiguous().cpu().view(torch.uint16).numpy()
    return out.float().contiguous().cpu().numpy()


def _load(path: Path, precision: str) -> torch.Tensor:
    whole = path.stat().st_size <= _IN_MEMORY
    rows = np.load(path) if whole else np.load(path, mmap_mode="c")  # copy-on-write: torch wants writable memory
    tensor = torch.from_numpy(rows)
    return tensor.view(torch.bfloat16) if precision == "bf16" else tensor


def _boundary_shape(classifier: Classifier, side: int, device: torch.device) -> tuple[int, ...]:
    return tuple(classifier.to_boundary(torch.zeros(1, 3, side, side, device=device)).shape[1:])


def _make_room(wanted: Path, size: int, max_gb: float) -> None:
    """Drops the least recently used until `size` fits under the limit, and sees that the disk has room."""
    folder = wanted.parent
    folder.mkdir(parents=True, exist_ok=True)
    left = [part for part in folder.glob("*.part") if time.time() - part.stat().st_mtime > _LEFT_AFTER_S]
    left = [part for part in left if part != wanted.with_suffix(".part")]
    kept = sorted([*folder.glob("*.npy"), *left], key=lambda path: path.stat().st_mtime)
    total = sum(path.stat().st_size for path in kept)
    while kept and total + size > max_gb * 1e9:
        oldest = kept.pop(0)
        total -= oldest.stat().st_size
        oldest.with_suffix(".done").unlink(missing_ok=True)
        oldest.unlink()
    free = shutil.disk_usage(folder).free
    if free < size and not wanted.with_suffix(".done").exists():  # else it has its room already
        raise TrainingError(
            f"cache.dir: {folder} has {free / 1e9:.1f} GB free, the activations take {size / 1e9:.1f} GB;"
            " free some space, set cache.dir to another disk, or cache.mode=off"
        )
