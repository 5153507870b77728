"""Continue a run: its recorded config, and what a command may change of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from breedlab.commands import command
from breedlab.config import Config, validate
from breedlab.config.compose import load
from breedlab.config.validate import leaf_values, replace
from breedlab.errors import ResumeError
from breedlab.files import read_json_if_whole


def resumed(run: Path, overrides: list[str], dry_run: bool) -> Config:
    """Return the recorded config of the run to continue, with what a continued run may change.

    Only what the overrides say is compared: a default that has changed since contradicts nothing.
    """
    from breedlab.pipeline.extension import refuse_fewer
    from breedlab.pipeline.rundir import recorded_config, recorded_overrides

    words = [
        word for word in overrides if word.lstrip("+~").split("=")[0] not in ("resume", "dry_run")
    ]
    lineage = read_json_if_whole(run / "lineage.json") or {}
    trained_on = lineage.get("data", {}).get("photos", {}).get("train")
    changes = _given(recorded_overrides(run), words, trained_on) if words else {}
    recorded = recorded_config(run, changes)
    before = dict(leaf_values(_as_run(recorded, trained_on).model_dump()))
    changed = {path: value for path, value in changes.items() if before.get(path) != value}
    if wrong := [path for path in sorted(changed) if path not in _FREE]:
        raise ResumeError(
            f"resume: {run} was started with another config; leave these out, or start a new run:\n"
            + "\n".join(
                f"  {path}: recorded {before.get(path)!r}, given {changes[path]!r}"
                for path in wrong
            )
        )
    refuse_fewer(run, changed)
    config = replace(recorded, changed) if changed else recorded
    return config.model_copy(update={"dry_run": dry_run, "resume": None})


_FREE = (
    *("resume", "dry_run", "trainer.max_epochs", "tuner.trials"),
    *("cache.dir", "cache.max_gb", "cache.mode", "runs_dir", "data.root", "backend.wait"),
)
"""What a continued run may change: where files are, and how long it continues. The images have to
be the same."""


def _as_run(config: Config, images: int | None) -> Config:
    """Return a config with its batch sizes capped as in a run on this number of images, to compare
    it with the recorded one."""
    from breedlab.pipeline.suitability import cap_batch_sizes

    return config if images is None else cap_batch_sizes(config, images)[0]


def _given(recorded: list[str], words: list[str], images: int | None) -> dict[str, Any]:
    """Return the value of every config path that words name, or change by naming a group's choice.

    Args:
        recorded: The words that the run was started with.
        words: Those that it is to continue with.
        images: How many it trains on; None if that is not known.
    """
    replaced = {word.lstrip("+").partition("=")[0] for word in words}
    # What is replaced need not be known here: a variable of the environment that it came from may
    # not be set.
    recorded = [
        word
        for word in recorded
        if "${oc.env:" not in word or word.partition("=")[0] not in replaced
    ]
    now = dict(leaf_values(_as_run(validate(load([*recorded, *words])), images).tree()))
    without = dict(leaf_values(load(recorded)))
    paths = {word.lstrip("+").partition("=")[0] for word in words}
    changed = {path for path in now if path not in without or without[path] != now[path]}
    taken_out = without.keys() - now.keys()  # of an open mapping, such as `tuner.space`
    return {path: now.get(path) for path in changed | taken_out | (paths & now.keys())}


def refuse_lost_images(config: Config, run: Path) -> None:
    """Raise ResumeError if a run's images are not where they were."""
    from breedlab.data.sources import source_of

    root = config.data.root
    if "://" in root or Path(root).exists() or source_of(config.data):
        return
    from_here = "" if Path(root).is_absolute() else f", from {Path.cwd()}"
    raise ResumeError(
        f"resume: the images of {run} were at {root}, which does not exist{from_here}; say where"
        f" they are: {command('launch', f'resume={run}', 'data.root=DIR')}"
    )
