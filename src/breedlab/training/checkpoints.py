"""Checkpoints that are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO


class WholeCheckpoints(TorchCheckpointIO):
    """Writes beside the target and renames.

    Lightning's own writes to the temporary folder and moves; across file systems that is a copy, which a full
    disk or a kill leaves in half.
    """

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
