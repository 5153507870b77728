"""The source of a job: `src conf entry`, its requirements and the resolved config."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

import breedlab
from breedlab.config import Config
from breedlab.config.compose import config_folder


def write_source(folder: Path, config: Config) -> None:
    """Fills a folder with what a job runs."""
    package = Path(breedlab.__file__).parent
    ignore = shutil.ignore_patterns("__pycache__", "conf", "entry")
    shutil.copytree(package, folder / "src" / "breedlab", ignore=ignore)
    shutil.copytree(config_folder(), folder / "conf")
    entry = package / "entry" if (package / "entry").is_dir() else package.parents[1] / "entry"
    shutil.copytree(entry, folder / "entry", ignore=ignore)
    (folder / "requirements.txt").write_text("")
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(), sort_keys=False))
