"""What a person gets who installs the wheel instead of cloning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


pytestmark = pytest.mark.slow


def run(site: Path, folder: Path, *words: str | Path) -> str:
    """What a Python that has the wheel prints, from a folder that is no checkout."""
    own = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=own, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_carries_configs_and_entry_and_plans_a_run(site: Path, tmp_path: Path) -> None:
    assert (site / "breedlab" / "entry" / "inference.py").is_file()
    planned = run(
        site,
        tmp_path,
        site / "bin" / "breedlab",
        "launch",
        "experiment=resnet34_hpo",
        "dry_run=true",
    )
    assert "133 classes" in planned and "20 trials x 20 epochs" in planned


def test_a_job_gets_the_same_source_from_the_wheel_as_from_a_checkout(
    site: Path, tmp_path: Path
) -> None:
    """So that what runs in a job from one runs in a job from the other."""
    write = """
import sys
from pathlib import Path
from breedlab.backends.sagemaker.jobs.source import write_source
from breedlab.config import validate
from breedlab.config.compose import load
write_source(Path(sys.argv[1]), validate(load(["experiment=quickstart", "debugger=default"])))
"""
    for name, where in (("wheel", site), ("checkout", ROOT / "src")):
        (tmp_path / name).mkdir()
        run(where, tmp_path, "-c", write, tmp_path / name)
    wheel, checkout = (contents(tmp_path / name) for name in ("wheel", "checkout"))
    assert (
        wheel.keys() == checkout.keys()
        and "entry/train.py" in wheel
        and "conf/config.yaml" in wheel
    )
    assert wheel == checkout


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
