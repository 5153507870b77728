"""Where a run comes from: its data, the code and packages that ran, and the run whose weights it
started from."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from breedlab.config import Config
from breedlab.data.check import Report
from breedlab.data.folders import SPLITS
from breedlab.weight_files import file_of

_PACKAGES = (
    "breedlab",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "optuna",
    "timm",
    "simplejpeg",
    "pillow",
)


def describe_lineage(config: Config, report: Report, start: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `lineage.json` says of a run that starts now.

    Args:
        config: The experiment.
        report: The checked images.
        start: What there is to say of the network: `transform`, and `parent` where the weights
            name a run.
    """
    parent = _parent(config.model.weights) or start.get("parent")
    return {
        "experiment": config.name,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "seed": config.seed,
        "command": [config.conceal(word) for word in sys.argv],
        "git": git_state(),
        "data": {
            "root": config.conceal(str(report.images.root.resolve())),
            "fingerprint": report.fingerprint,
            "photos": {split: len(report.images.splits[split]) for split in SPLITS},
        },
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
        "transform": start.get("transform"),
        "parent": None if parent is None else config.conceal(parent),
    }


def _parent(weights: str) -> str | None:
    """Return the run whose weights it starts from, if there is one."""
    for folder in Path(file_of(weights)).resolve().parents:
        if (folder / "lineage.json").is_file():
            return str(folder)
    return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def git_state() -> dict[str, Any] | None:
    """Return the commit of the folder that the run was started in; None outside a checkout or
    without git."""

    def ask(*words: str) -> str:
        return subprocess.run(
            ["git", *words], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
