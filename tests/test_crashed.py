"""A test whose process ends is one that failed, also where it passes in the next process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

CRASHES_ONCE = """
import os
from pathlib import Path

def test_that_crashes():
    first = Path(__file__).with_name("first")
    if not first.exists():
        first.touch()
        os._exit(1)

def test_that_does_not():
    pass
"""


def test_it_is_tried_again_with_those_that_failed(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(CRASHES_ONCE)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    words = [sys.executable, "-m", "pytest", "-p", "crashes", "-v"]
    environment = {**os.environ, "PYTHONPATH": str(HERE)}

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*words, *options], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    assert run("--numprocesses", "1", "--dist", "loadfile").returncode == 1
    again = run("--last-failed", "--last-failed-no-failures", "none")
    assert again.returncode == 0, again.stdout
    assert "test_that_crashes PASSED" in again.stdout
    assert "test_that_does_not" not in again.stdout
