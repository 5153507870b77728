"""Puts the data in place: drawn or downloaded on first use, then scanned like any other folder."""

from __future__ import annotations

import json
from pathlib import Path

from breedlab.config import Config
from breedlab.config.schema import Sample
from breedlab.data.folders import PhotoSet, is_absent, scan
from breedlab.errors import DataError
from breedlab.reporting.console import note, progress, stage

_SPEC = "sample.json"


def obtain(config: Config) -> PhotoSet:
    """The photos of a config's data set.

    Raises:
        DataError: If they are not there and cannot be drawn or downloaded, or do not fit together.
    """
    data, root = config.data, Path(config.data.root)
    if is_absent(root):
        if data.sample is not None:
            from breedlab.data.sample import write_sample

            with progress(f"drawing photos into {root}") as report:
                write_sample(root, **data.sample.model_dump(), progress=report)
            (root / _SPEC).write_text(json.dumps(data.sample.model_dump()))
        elif data.archive is not None:
            from breedlab.data.download import Archive, fetch

            stage(f"Fetching {data.archive.url}")
            archive = Archive(url=data.archive.url, bytes=data.archive.bytes, folder=data.archive.folder)
            with progress("download") as report:
                fetch(archive, root, progress=lambda _stage, done, total: report(done, total))
    elif data.sample is not None:
        _refuse_other_sample(root, data.sample)
    photos = scan(root, valid_fraction=data.valid_fraction, test_fraction=data.test_fraction, seed=config.seed)
    if photos.cut:
        note(f"no folder for {' and '.join(photos.cut)}: cut from train, stratified, seed {config.seed}")
    return photos


def _refuse_other_sample(root: Path, wanted: Sample) -> None:
    """Photos drawn with other settings must not pass for those that were asked for."""
    try:
        drawn = json.loads((root / _SPEC).read_text())
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
