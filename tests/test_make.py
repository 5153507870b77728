"""The Makefile as a person meets it who has not read it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*words: str) -> subprocess.CompletedProcess[str]:
    # As from a shell: under `make test`, make would take itself for a part of that.
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    return subprocess.run(
        ["make", *words], cwd=ROOT, env=clean, capture_output=True, text=True, timeout=60
    )


def test_help_lists_every_target_that_has_a_comment() -> None:
    commented = re.findall(r"^([a-z-]+):.*## (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    lines = make("help").stdout.splitlines()
    assert [line.split(None, 2)[1:] for line in lines] == [list(pair) for pair in commented]
    assert {"demo", "test", "fast", "check", "help"} <= {name for name, _ in commented}


def test_a_misspelled_target_is_sent_to_the_list() -> None:
    ended = make("tset")
    assert ended.returncode == 2
    assert "no target 'tset'; 'make help' lists" in ended.stderr


def test_make_alone_is_the_demo() -> None:
    assert "experiment=quickstart" in make("--dry-run").stdout


def test_every_test_under_awss_stack_is_in_a_file_that_test_aws_runs() -> None:
    marked = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"mark\.aws_stack\b", file.read_text("utf-8"))
        and file != Path(__file__).resolve()
    }
    (command,) = (
        line for line in make("--dry-run", "test-aws").stdout.splitlines() if "-m aws_stack" in line
    )
    assert {word for word in command.split() if word.endswith(".py")} == marked


def test_coverage_counts_copies_of_a_module_as_the_module(tmp_path: Path) -> None:
    """After 49 minutes, `make coverage` ended with "No source for code" of an archive's copy."""
    coverage = pytest.importorskip("coverage")
    copies = ("content/code/breedlab/version.py", "job/source/src/breedlab/errors.py")
    for number, copy in enumerate(copies):
        data = coverage.CoverageData(basename=str(tmp_path / f"data.{number}"))
        data.add_arcs({str(tmp_path / copy): [(-1, 1), (1, -1)]})
        data.write()
    (tmp_path / "data.killed").write_bytes(b"SQLite format 3\0 and no more")
    base = [sys.executable, "-m", "coverage"]
    where = [f"--rcfile={ROOT / 'pyproject.toml'}", f"--data-file={tmp_path / 'data'}"]
    subprocess.run([*base, "combine", *where, tmp_path], cwd=ROOT, check=True, capture_output=True)
    (tmp_path / "data.killed").unlink(missing_ok=True)
    ended = subprocess.run(
        [*base, "report", *where, "--fail-under=0"], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert {"src/breedlab/version.py", "src/breedlab/errors.py"} <= set(ended.stdout.split())
