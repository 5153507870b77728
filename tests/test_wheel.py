"""What a person gets who installs the wheel instead of cloning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_wheel_carries_configs_and_entry_and_plans_a_run(site: Path, tmp_path: Path) -> None:
    assert (site / "breedlab" / "entry" / "inference.py").is_file()
    done = subprocess.run(
        [sys.executable, site / "bin" / "breedlab", "launch", "experiment=resnet34_hpo", "dry_run=true"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "133 classes" in done.stdout and "20 trials x 5 epochs" in done.stdout
