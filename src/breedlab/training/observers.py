"""The callbacks that watch a training and change nothing in it: the debugger's hook, the profiler."""

from __future__ import annotations

from pathlib import Path

import lightning

from breedlab.config import Config


def observers(config: Config, run: Path) -> list[lightning.Callback]:
    """What the config's `debugger` and `profiler` ask for, writing below the run directory."""
    return []
