"""How far a run got, read from its directory: what a resume would find done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from breedlab.files import read_json_if_whole

REQUIRED = ("epochs", "reason", "best_epoch", "best")
"""The keys that `trained.json` must have; a file without them is damaged."""


@dataclass(frozen=True)
class Done:
    """What a run has done so far.

    Attributes:
        trials: Trials of the search that ended; an interrupted one runs again.
        has_checkpoint: Whether training has a checkpoint to continue from.
        epochs: Whole epochs of the training.
        midway: Whether the checkpoint is from the middle of the epoch after them.
        trained: Whether training ended; test and export are still to come.
        complete: Whether there is nothing left to do.
    """

    trials: int = 0
    has_checkpoint: bool = False
    epochs: int = 0
    midway: bool = False
    trained: bool = False
    complete: bool = False


def done(run: Path) -> Done:
    """Return the progress of a run."""
    trials = len(list(run.glob("trials/*/trial.json")))
    last = run / "checkpoints" / "last.ckpt"
    record = read_json_if_whole(run / "trained.json", needs=REQUIRED)
    if is_complete(run) or record is not None or not last.exists():
        epochs = int((record or {}).get("epochs", 0))
        return Done(
            trials, last.exists(), epochs, trained=record is not None, complete=is_complete(run)
        )
    # only a checkpoint's counters need torch
    from breedlab.training.checkpoints import read_checkpoint

    loop = read_checkpoint(last, mmap=True)["loops"]["fit_loop"]
    epochs = loop["epoch_progress"]["current"]
    return Done(trials, True, epochs["processed"], epochs["ready"] > epochs["processed"])


def is_complete(run: Path) -> bool:
    """Return whether a run has everything; its metrics are written last of all."""
    metrics = read_json_if_whole(run / "metrics.json", needs=("test",))
    return (run / "model.tar.gz").exists() and metrics is not None
