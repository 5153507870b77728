"""Puts the data in place: drawn or downloaded on first use, then scanned like any other folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from breedlab.config import Config
from breedlab.config.schema import Data, Sample
from breedlab.console import note, progress, stage
from breedlab.data.folders import PhotoSet, is_absent, survey
from breedlab.errors import DataError
from breedlab.files import atomic_write_json

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_SPEC = "sample.json"


def obtain(config: Config) -> PhotoSet:
    """The photos of a config's data set.

    Raises:
        DataError: If they are not there and cannot be drawn or downloaded. Flaws are the check's to tell.
    """
    data, root = config.data, Path(config.data.root)
    if is_absent(root) and (data.sample is not None or data.archive is not None):
        with _alone(root):
            if is_absent(root):  # still, when it is this process's turn
                _make(data, root)
    if data.sample is not None:
        _refuse_other_sample(root, data.sample)
    photos = survey(
        root,
        valid_fraction=data.valid_fraction,
        test_fraction=data.test_fraction,
        seed=config.seed,
        ignore=data.ignore,
    )
    if photos.cut:
        note(f"no folder for {' and '.join(photos.cut)}: cut from train, stratified, seed {config.seed}")
    return photos


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One process at a time puts photos at a place; the others wait, and then find them."""
    lock = root.absolute().parent / f".{root.name}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError:
        yield  # what puts the photos there says it better
        return
    try:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                note(f"another process is putting photos at {root}; waiting for them")
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                pass  # a file system without locks
        yield
    finally:
        file.close()
        lock.unlink(missing_ok=True)  # where the photos are there, who comes now needs no lock


def _make(data: Data, root: Path) -> None:
    if data.sample is not None:
        from breedlab.data.sample import write_sample

        with progress(f"drawing photos into {root}") as report:
            write_sample(root, **data.sample.model_dump(), progress=report)
        atomic_write_json(root / _SPEC, data.sample.model_dump())
    elif data.archive is not None:
        from breedlab.data.download import Archive, fetch

        stage(f"Fetching {data.archive.url}")
        archive = Archive(url=data.archive.url, bytes=data.archive.bytes, folder=data.archive.folder)
        with progress("download") as report:
            fetch(archive, root, progress=lambda _stage, done, total: report(done, total))


def _refuse_other_sample(root: Path, wanted: Sample) -> None:
    """Photos drawn with other settings must not pass for those that were asked for."""
    try:
        drawn = json.loads((root / _SPEC).read_text("utf-8"))
    except (OSError, ValueError):
        return  # a folder of the person's own
    wrong = [
        f"{name} {drawn.get(name)}, now {value}"
        for name, value in wanted.model_dump().items()
        if drawn.get(name) != value
    ]
    if wrong:
        raise DataError(
            f"data.sample: {root} was drawn with {'; '.join(wrong)};"
            " remove the folder to have it drawn again, or name another: data.root=..."
        )
