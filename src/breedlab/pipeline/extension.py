"""A run that is extended beyond what it was asked for: more epochs of training, more trials of a
search."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from breedlab.config import Config
from breedlab.errors import ResumeError
from breedlab.files import atomic_write_json, read_json_if_whole
from breedlab.pipeline import rundir
from breedlab.training.progress import Done, done

EPOCHS, TRIALS = "trainer.max_epochs", "tuner.trials"
PATHS = (EPOCHS, TRIALS)

SUPERSEDED = "superseded"
"""The folder for what a run replaces: `superseded/1/`, `superseded/2/` and so on."""

_TRAINED = "training.json"
"""Which values of a search the checkpoints belong to."""


def refuse_fewer(run: Path, changed: Mapping[str, Any]) -> None:
    """Raise if a run is to have fewer epochs or trials than it has behind it.

    Raises:
        ConfigError: Naming the path, and how many there are.
    """
    if not changed.keys() & {*PATHS}:
        return
    behind = done(run)
    epochs = behind.epochs + behind.midway
    for path, count, what in (
        (EPOCHS, epochs, "epochs of training"),
        (TRIALS, behind.trials, "trials"),
    ):
        number = changed.get(path)
        if isinstance(number, int) and number < count:
            raise ResumeError(
                f"{path}: got {number}; expected at least {count}, since {run} has {count} {what}"
                " behind it; for fewer start a new run"
            )


def asked(run: Path, config: Config) -> dict[str, tuple[int | None, int | None]]:
    """Return what a run is now to have another number of, by config path: as it was recorded, and
    as it is asked."""
    recorded = rundir.recorded_tree(run) if (run / "config.yaml").is_file() else {}
    numbers = {EPOCHS: config.trainer.max_epochs, TRIALS: config.tuner.trials}
    before = {path: _at(recorded, path) for path in PATHS}
    return {
        path: (before[path], number)
        for path, number in numbers.items()
        if before[path] is not None and before[path] != number
    }


def left(run: Path, config: Config) -> Done:
    """Return how far a run is on its way to what it is asked for now."""
    behind, more = done(run), asked(run, config)
    if _grows(more, EPOCHS):
        behind = replace(behind, trained=False, complete=False)
    if _grows(more, TRIALS):
        behind = replace(behind, complete=False)
    return behind


def extend(config: Config, run: Path) -> list[str]:
    """Extend a run to what it is asked for now, and record that.

    Training continues from `last.ckpt`; a trained network stays the run's until a new trial is
    better.

    Returns:
        What is going to happen, as text; nothing if nothing has changed.
    """
    more = asked(run, config)
    if not more:
        return []
    behind = done(run)
    sentences = []
    if _grows(more, TRIALS):
        _note_what_was_trained(config, run)
        sentences.append(
            f"{TRIALS}: {more[TRIALS][0]} becomes {more[TRIALS][1]}; {behind.trials} have ended"
        )
    if _grows(more, EPOCHS):
        sentences.append(
            f"{EPOCHS}: {more[EPOCHS][0]} becomes {more[EPOCHS][1]}; continues after epoch"
            f" {behind.epochs}"
        )
        if config.optim.schedule != "constant":
            sentences.append(
                f"optim.schedule: from here on, {config.optim.schedule} over"
                f" {more[EPOCHS][1]} epochs"
            )
        (run / "trained.json").unlink(missing_ok=True)
    if sentences and (run / "metrics.json").exists():  # with it the run counts as complete
        (run / "metrics.json").replace(_fresh(run) / "metrics.json")
    entry = {
        "when": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": [config.conceal(word) for word in sys.argv],
        "changed": {path: list(numbers) for path, numbers in more.items()},
        "behind": {"epochs": behind.epochs, "trials": behind.trials},
    }
    lineage = read_json_if_whole(run / "lineage.json")
    if lineage is not None:
        lineage["extended"] = [*lineage.get("extended", []), entry]
        atomic_write_json(run / "lineage.json", lineage, indent=2)
    rundir.rewrite_config(run, {path: numbers[1] for path, numbers in more.items()})
    return sentences


def extended_after(run: Path) -> int | None:
    """Return how many epochs there were when a run was last given more; None if it never was."""
    tree = read_json_if_whole(run / "lineage.json") or {}
    extensions = [entry for entry in tree.get("extended", []) if EPOCHS in entry["changed"]]
    return int(extensions[-1]["behind"]["epochs"]) if extensions else None


def trained_values(run: Path) -> dict[str, Any]:
    """Return what a search found for the training that a run has begun, by config path; empty if
    that is not known."""
    record = read_json_if_whole(run / _TRAINED, needs=("values",))
    search = (read_json_if_whole(run / "metrics.json") or {}).get("search")
    return dict((record or search or {}).get("values", {}))


def begin_training(run: Path, trial: int, values: Mapping[str, Any]) -> str:
    """Record which trial's values are trained from here on; what was trained of another's is set
    aside.

    Returns:
        What was set aside, as text, or nothing.
    """
    now = {"trial": trial, "values": json.loads(json.dumps(dict(values)))}
    before = read_json_if_whole(run / _TRAINED, needs=("trial", "values"))
    if before == now:
        return ""
    text = ""
    if before is not None and before["values"] != now["values"] and (run / "checkpoints").is_dir():
        aside = _fresh(run)
        for name in ("trained.json", "tensorboard/final", "checkpoints", "fine_tune"):
            if (run / name).exists():
                shutil.move(run / name, aside / Path(name).name)
        text = (
            f"trial {before['trial']}, which was trained before, is no longer the best; its"
            f" checkpoints: {aside}"
        )
    atomic_write_json(run / _TRAINED, now, indent=2)
    return text


def _note_what_was_trained(config: Config, run: Path) -> None:
    """Record which trial was trained, which older versions did not: the best of the trials so
    far."""
    if (run / _TRAINED).exists() or not (run / "checkpoints" / "last.ckpt").exists():
        return
    search = (read_json_if_whole(run / "metrics.json") or {}).get("search")
    if search:
        atomic_write_json(
            run / _TRAINED, {"trial": search["trial"], "values": search["values"]}, indent=2
        )
        return
    from breedlab.tuning.best import best_so_far

    best = best_so_far(config, run)
    atomic_write_json(run / _TRAINED, {"trial": best.number, "values": best.values}, indent=2)


def _fresh(run: Path) -> Path:
    folder = run / SUPERSEDED
    number = 1 + max(
        (int(path.name) for path in folder.glob("*") if path.name.isdecimal()), default=0
    )
    (folder / str(number)).mkdir(parents=True)
    return folder / str(number)


def _grows(more: Mapping[str, tuple[int | None, int | None]], path: str) -> bool:
    before, after = more.get(path, (None, None))
    return before is not None and after is not None and after > before


def _at(tree: Mapping[str, Any], path: str) -> int | None:
    section, leaf = path.split(".")
    return (tree.get(section) or {}).get(leaf)
