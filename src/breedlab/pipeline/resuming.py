"""Resume a run: check that its images are the same, repair its records, restore its settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from breedlab import config as configs
from breedlab.config import Config
from breedlab.console import note, warn
from breedlab.data.check import Report
from breedlab.errors import ConfigError, OtherImages
from breedlab.files import read_json
from breedlab.pipeline import extension, rundir
from breedlab.pipeline.current_run import CurrentRun
from breedlab.training.progress import is_complete


def reenter(config: Config, resume: Path, report: Report, current: CurrentRun) -> Path:
    """Make a run directory the current run again, and return it.

    Raises:
        ConfigError: If the images are not those that it was started with, or another process works
            on it.
    """
    # Resolved now, since the link `latest` is about to move.
    directory = Path(os.path.relpath(resume.resolve()))
    damaged = rundir.damaged_records(directory)
    if "lineage.json" not in damaged:
        if rundir.recorded_fingerprint(directory) != report.fingerprint:
            raise _other_images(config, directory, report)
    elif "splits.json" not in damaged and not rundir.has_same_splits(config, directory, report):
        raise _other_images(config, directory, report)
    rundir.note_moved_images(config, directory)
    current.enter(config, directory)
    rundir.clear_halves(directory)
    for text in extension.extend(config, directory):
        note(text)
    if damaged:
        warn(
            f"{' and '.join(damaged)} of {directory} could not be read; written anew from the"
            " images as they are now"
        )
        rundir.write_records_anew(config, report, directory, damaged)
    return directory


def as_begun(config: Config, recorded: dict[str, Any] | None) -> Config:
    """Return the config with the transform that the run was begun with instead of `auto`,
    whatever that means today."""
    if config.tuner.strategy == "auto":
        return config  # each backbone brings its own transform
    if recorded is None:
        from breedlab.pipeline.former import transform

        recorded = transform(config)
        if recorded:
            warn(
                "an older breedlab started this run; it continues with that version's transform; a"
                " new run may do better"
            )
    names = {
        "image_size": "crop",
        "resize": "resize",
        "interpolation": "interpolation",
        "mean": "mean",
        "std": "std",
    }
    return configs.replace(
        config, {f"data.{n}": recorded[key] for n, key in names.items() if key in recorded}
    )


def complete_metrics(directory: Path) -> dict[str, Any] | None:
    """Return the metrics of a complete run; None if it is not complete."""
    if not is_complete(directory):
        return None
    metrics: dict[str, Any] = read_json(directory / "metrics.json")
    return metrics


def _other_images(config: Config, directory: Path, report: Report) -> ConfigError:
    fixes = f", with the fixes of {config.data.fixes}," if config.data.fixes else ""
    unfix = " and the fixes" if config.data.fixes else ""
    return OtherImages(
        f"resume: the images under {report.images.root}{fixes} are not those that {directory} was"
        f" started with; restore them{unfix}, say where they are now (data.root=DIR), or start a"
        " new run"
    )
