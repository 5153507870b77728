"""Checkpoints that are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from breedlab import ranks


class WholeCheckpoints(TorchCheckpointIO):
    """Writes beside the target and renames.

    Lightning's own writes to the temporary folder and moves; across file systems that is a copy, which a full
    disk or a kill leaves in half.
    """

    def load_checkpoint(self, path: str | Path, *how: Any, **named: Any) -> dict[str, Any]:
        """Rank 0 reads it for all: the other hosts of a run need not have its directory."""
        read = super().load_checkpoint
        return ranks.once(lambda: read(path, *how, **named))

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with scratch.open("wb") as file:
                torch.save(checkpoint, file)
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)
