"""The run directory: where everything about a run is kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from breedlab.config import Config, validate
from breedlab.config.environment import resolved
from breedlab.config.migrations import stamp, upgrade
from breedlab.config.problems import error_from
from breedlab.config.validate import with_values
from breedlab.config.yaml_folders import parsed
from breedlab.data.check import Report
from breedlab.data.folders import SPLITS
from breedlab.data.image_set import ImageSet
from breedlab.errors import FileError, ResumeError
from breedlab.files import (
    atomic_write_json,
    atomic_write_text,
    read_json,
    read_json_if_whole,
    remove_leftovers,
    why_no_folder,
)
from breedlab.pipeline.lineage import describe_lineage


def create(
    config: Config,
    overrides: list[str],
    report: Report,
    directory: Path | None = None,
    start: Mapping[str, Any] | None = None,
) -> Path:
    """Make `<runs_dir>/<name>/<stamp>/` with config, overrides, splits and lineage.

    Args:
        config: The experiment.
        overrides: What the user typed.
        report: The checked images.
        directory: The directory to create instead, if the caller decides where runs are.
        start: What the lineage has to say of the network: `transform`, and `parent` where the
            weights name a run.
    """
    run = reserve(config, overrides, directory)
    atomic_write_json(run / "splits.json", _splits(config, report), indent=1)
    atomic_write_json(run / "lineage.json", describe_lineage(config, report, start or {}), indent=2)
    return run


def reserve(config: Config, overrides: list[str], directory: Path | None = None) -> Path:
    """Create `<runs_dir>/<name>/<stamp>/`, or the given directory, with config and overrides.

    Raises:
        ConfigError: If the place cannot be written.
    """
    parent = directory or Path(config.runs_dir, config.name)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        run = directory or _fresh(parent)
    except OSError as error:
        raise FileError(
            f"runs_dir: {parent} cannot be written ({error.strerror}); name another place:"
            " runs_dir=..."
        ) from error
    write_yaml(run / "config.yaml", stamp(config.recorded()))
    write_yaml(run / "overrides.yaml", overrides)
    return run


def clear_halves(run: Path) -> None:
    """Remove files that a killed process left half written."""
    remove_leftovers(run)
    for half in run.glob("*.tmp"):  # as versions before `files.py` called them
        half.unlink()
    for half in run.glob(".export-*"):
        shutil.rmtree(half)


def is_begun(run: Path) -> bool:
    """Return whether there is a run directory to resume; its lineage is written last."""
    return (run / "lineage.json").is_file()


def recorded_config(run: Path, changes: Mapping[str, Any] | None = None) -> Config:
    """Return the config that a run was started with; values from environment variables are read
    anew.

    Args:
        run: The run directory.
        changes: The values, by config path, that are about to be replaced: for those, an
            environment variable need not be set.

    Raises:
        ConfigError: If the folder is not a run directory, its config is damaged, a newer breedlab
            wrote it, or a variable of the environment is not set.
    """
    source = f"resume: {run / 'config.yaml'}"
    tree, missing = resolved(upgrade(recorded_tree(run), "run", source))
    if missing := [problem for problem in missing if problem.path not in (changes or {})]:
        raise error_from(missing, source)
    return validate(tree, source, recorded=True)


def recorded_tree(run: Path) -> dict[str, Any]:
    """Return a run's `config.yaml` as it is.

    Raises:
        ConfigError: If there is none, or it is damaged.
    """
    tree: dict[str, Any] = _recorded(run, "config.yaml", dict)
    return tree


def rewrite_config(run: Path, values: Mapping[str, Any]) -> None:
    """Record other values in a run's config, and as words in its overrides."""
    write_yaml(
        run / "overrides.yaml",
        [*recorded_overrides(run), *(f"{path}={v}" for path, v in values.items())],
    )
    write_yaml(run / "config.yaml", with_values(recorded_tree(run), values))


def recorded_overrides(run: Path) -> list[str]:
    """Return the overrides that started the run."""
    words: list[str] = _recorded(run, "overrides.yaml", list)
    return words


def _recorded(run: Path, name: str, kind: type) -> Any:
    expected = "expected a run directory such as runs/<experiment>/<stamp>"
    try:
        tree = parsed((run / name).read_text("utf-8"))
    except OSError as error:
        state = f"has no {name}" if run.is_dir() else why_no_folder(run)
        raise ResumeError(f"resume: {run} {state}; {expected}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ResumeError(
            f"resume: {run / name} is damaged ({' '.join(str(error).split())[:100]}); {expected}"
        ) from error
    if not isinstance(tree, kind):
        kind_name = "config" if kind is dict else "list"
        raise ResumeError(f"resume: {run / name} holds no {kind_name}; {expected}")
    return tree


def note_moved_images(config: Config, run: Path) -> None:
    """Record where a run's images are now, if they have moved; they were found to be the same."""
    recorded = recorded_tree(run)
    root = config.recorded()["data"]["root"]
    if root == recorded["data"]["root"]:
        return
    rewrite_config(run, {"data.root": root})
    for name, place in (("lineage.json", ("data",)), ("splits.json", ())):
        tree = read_json_if_whole(run / name)
        if tree is not None:
            node = tree
            for key in place:
                node = node[key]
            node["root"] = root
            atomic_write_json(run / name, tree, indent=2)


def recorded_fingerprint(run: Path) -> str:
    """Return the fingerprint of the images that a run was started with."""
    return str(lineage(run)["data"]["fingerprint"])


def recorded_transform(run: Path) -> dict[str, Any] | None:
    """Return the evaluation transform that a run was started with, empty if that record was lost.

    None of a run of an older breedlab, which did not record it.
    """
    recorded = lineage(run)
    transform: dict[str, Any] | None = recorded.get("transform")
    return {} if transform is None and recorded.get("written_anew") else transform


def lineage(run: Path) -> dict[str, Any]:
    """Return the content of a run's `lineage.json`: where the run comes from."""
    read: dict[str, Any] = read_json(
        run / "lineage.json", hint="resume the run, which writes it anew"
    )
    return read


def damaged_records(run: Path) -> list[str]:
    """Return which of a run's `lineage.json` and `splits.json` cannot be read, or are missing."""
    needs = {"lineage.json": ("data",), "splits.json": ("classes", "photos")}
    return [
        name for name, names in needs.items() if read_json_if_whole(run / name, needs=names) is None
    ]


def has_same_splits(config: Config, run: Path, report: Report) -> bool:
    """Return whether a run's `splits.json` names exactly the images of a report, by split and
    label."""
    recorded, splits = read_json(run / "splits.json"), _splits(config, report)
    return all(recorded.get(part) == splits[part] for part in ("classes", "photos", "labels"))


def write_records_anew(config: Config, report: Report, run: Path, names: Sequence[str]) -> None:
    """Write what `damaged_records` named, from the images as they are now."""
    for name in names:
        tree = (
            _splits(config, report)
            if name == "splits.json"
            else {**describe_lineage(config, report, {}), "written_anew": True}
        )
        atomic_write_json(run / name, tree, indent=2)


def write_predictions(run: Path, images: ImageSet, predictions: Mapping[str, Any]) -> None:
    """Write `predictions.json`: the answer for each test image, column by column.

    Args:
        run: The run directory.
        images: Whose test split was looked at.
        predictions: In the split's order, what was predicted and its probability.
    """
    test = images.splits["test"]
    columns = {
        "photos": [os.path.relpath(image.path, images.root) for image in test],
        "labels": [image.recorded for image in test],
        **predictions,
    }
    atomic_write_json(run / "predictions.json", columns)


def write_yaml(path: Path, tree: Any) -> None:
    atomic_write_text(path, yaml.safe_dump(tree, sort_keys=False))


def _fresh(parent: Path) -> Path:
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for suffix in ["", *(f"_{n}" for n in range(2, 1000))]:  # several runs may start in one second
        run = parent / f"{stamp}{suffix}"
        try:
            run.mkdir()
        except FileExistsError:
            continue
        return run
    raise AssertionError("a thousand runs in one second")


def _splits(config: Config, report: Report) -> dict[str, Any]:
    images, photos, labels = report.images, {}, {}
    for split in SPLITS:
        photos[split] = [os.path.relpath(each.path, images.root) for each in images.splits[split]]
        labels[split] = [each.recorded for each in images.splits[split]]
    return {
        "root": config.conceal(str(images.root)),
        "classes": list(images.classes),
        "cut_from_train": list(images.cut),
        "photos": photos,
        "labels": labels,
        "warnings": [config.conceal(text) for text in report.warnings],
        "left_out": [
            {
                "file": os.path.relpath(finding.path, images.root),
                "reason": config.conceal(finding.reason),
            }
            for finding in (*report.bad, *report.conflicts, *report.leaks)
        ],
    }
