"""Checkpoints that are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from breedlab import distributed
from breedlab.files import atomic_open, damaged
from breedlab.models.weights import CARD


def read_checkpoint(path: Path, mmap: bool = False) -> dict[str, Any]:
    """Return what a checkpoint holds, on the CPU, read as plain data.

    Args:
        path: The file.
        mmap: Whether its tensors may stay on disk, for callers that read little of it.

    Raises:
        DamagedFile: If it is not a checkpoint, or is cut off.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(
            path, map_location="cpu", weights_only=True, mmap=mmap
        )
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        run = path.parent.parent
        hint = (
            f"remove {run / 'trained.json'} and {path.parent} to train again; the trials of a"
            " search are kept"
        )
        raise damaged(
            path, "it is empty" if path.stat().st_size == 0 else str(error), hint
        ) from error
    return checkpoint


def of_classifier(state: Mapping[str, torch.Tensor], part: str = "") -> dict[str, torch.Tensor]:
    """Return what a checkpoint's state dict holds of the learner's classifier, by the classifier's
    own names.

    Args:
        state: The state dict.
        part: What of the classifier, such as `head.`; all of it by default.
    """
    prefix = f"classifier.{part}"
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }


def write_weights(path: Path, state: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> None:
    """Write a checkpoint that has weights and the model's description, and no training to resume.

    Args:
        path: The file.
        state: The learner's state dict.
        card: As `TrainingContext.card` returns it.
    """
    with atomic_open(path) as file:
        torch.save({"state_dict": dict(state), CARD: dict(card)}, file)


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoint files that are written next to the target and then renamed.

    Lightning writes to the temporary folder and moves the file; across file systems that is a copy,
    which a full disk or a kill leaves half written.
    """

    def load_checkpoint(self, path: str | Path, *how: Any, **named: Any) -> dict[str, Any]:
        """Read the checkpoint on rank 0 for all: other hosts may not have the run's directory."""
        return distributed.rank_zero_only(lambda: read_checkpoint(Path(path)))

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_open(target) as file:
            torch.save(checkpoint, file)
