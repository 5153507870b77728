"""docs/aws-trial.md taken apart: the commands of each script, and what it says is to be seen."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from breedlab.cli import deploy, jobs, launch, predict

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "aws-trial.md"
NAMES = {
    "$ROLE": "SageMakerRole",
    "$BUCKET": "my-bucket",
    "$REGION": "us-east-1",
    "$RUN": "runs/trial",
}
MAIN = {
    f"scripts/{command.__name__.rpartition('.')[2]}.py": command.main
    for command in (launch, jobs, predict, deploy)
}


def commands(script: int | None = None) -> list[list[str]]:
    """Return every command of ours on the page, or of one script, in words."""
    text = DOCUMENT.read_text() if script is None else section(script)
    for name, value in NAMES.items():
        text = text.replace(name, value)
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [
        shlex.split(line)
        for block in blocks
        for line in block.splitlines()
        if line.startswith("python ")
    ]


def section(script: int) -> str:
    return DOCUMENT.read_text().split(f"\n## {script}. ")[1].split("\n## ")[0]


def expected(script: int) -> list[str]:
    """Return what the lists of a script have in backticks."""
    bullets = re.findall(r"^- .*(?:\n  .*)*", section(script), re.MULTILINE)
    return [" ".join(quote.split()) for quote in re.findall(r"`([^`]+)`", "\n".join(bullets))]


def steps(script: int, capsys: pytest.CaptureFixture[str], *more: str) -> Iterator[str]:
    """Run a script's commands, one a step; each yields what was printed.

    Args:
        script: Its number on the page.
        capsys: Pytest's.
        more: Overrides for the launch.
    """
    for _, command, *words in commands(script):
        added = more if command == "scripts/launch.py" else ()
        assert MAIN[command]([*words, *added]) == 0, words
        yield " ".join(capsys.readouterr().out.split())
