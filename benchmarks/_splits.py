"""What benchmarks on a folder of images share: how it is cut anew for each seed, and runs on it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from _harness import CACHE

SPLITS = ("train", "valid", "test")
_OTHER_NAMES = {"valid": ("validation", "val")}


def sample() -> Path:
    """Return the images of the demo, drawn once."""
    from breedlab.data.sample import write_sample

    root = CACHE / "accuracy" / "sample"
    if not root.exists():
        write_sample(root, classes=8, train=40, valid=12, test=15, size=192, seed=0)
    return root


def counts(root: Path) -> dict[str, int]:
    return {split: len(files(root, split)) for split in SPLITS}


def files(root: Path, split: str) -> list[Path]:
    names = (split, *_OTHER_NAMES.get(split, ()))
    return sorted(path for name in names for path in (root / name).glob("*/*") if path.is_file())


def linked(source: Path, target: Path, seed: int, fixed: bool) -> Path:
    """Return a folder of links with as many images of each class in each split as the source has:
    the source's own if `fixed`, else drawn anew."""
    shutil.rmtree(target, ignore_errors=True)
    by_split = {
        (split, path.parent.name): list[Path]() for split in SPLITS for path in files(source, split)
    }
    for split in SPLITS:
        for path in files(source, split):
            by_split[split, path.parent.name].append(path)
    if not fixed:
        draw = random.Random(seed)
        for name in sorted({name for _, name in by_split}):
            parts = [by_split.get((split, name), []) for split in SPLITS]
            every = [path for part in parts for path in part]
            draw.shuffle(every)
            for part in parts:
                part[:], every = every[: len(part)], every[len(part) :]
    for (split, name), paths in by_split.items():
        for number, path in enumerate(paths):
            link = target / split / name / f"{number:04}{path.suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(path.resolve(), link)
    return target


class Failed(SystemExit):
    """A process that ended without what it should say last."""


def settings(runs: Path) -> list[str]:
    """Return the overrides that all runs of ours share.

    Args:
        runs: Where their directories go.
    """
    return [
        *("data=image_folder", "model=efficientnet_lite0", "debugger=none", "profiler=none"),
        *("serving.engine=eager", "serving.precision=fp32", f"runs_dir={runs}"),
    ]


def last_line(mark: str, words: list[str], env: Mapping[str, str] = os.environ) -> str:
    """Return what a Python process says last after a mark.

    Raises:
        Failed: If it fails, or says no such thing.
    """
    done = subprocess.run(
        [sys.executable, *words], env=dict(env), capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(f"{mark} ")]
    if done.returncode or not lines:
        raise Failed(f"failed:\n{(done.stderr or done.stdout)[-3000:]}")
    return lines[-1].removeprefix(f"{mark} ")
