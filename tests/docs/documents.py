"""What README.md and docs/ hold, for the tests: blocks of code and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN, CHECKED = "sh", "bash"
"""Blocks whose commands the tests run; blocks whose commands they check, since they need images of
your own, an AWS account, or an hour."""


@dataclass(frozen=True)
class Block:
    page: Path
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    page: str
    text: str

    @property
    def args(self) -> list[str]:
        return shlex.split(self.text)

    def __str__(self) -> str:
        return f"{self.page}: {self.text[:70]}"


def blocks(*languages: str) -> list[Block]:
    """Return the fenced blocks of some languages ("" for none), page by page."""
    found = []
    for page in PAGES:
        for language, text in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.S | re.M):
            if language in languages:
                found.append(Block(page, language, text))
    return found


def commands(*languages: str) -> list[Command]:
    """Return every command of the blocks of some languages, lines that go on joined."""
    found = []
    for block in blocks(*languages):
        text = block.text.replace("\\\n", " ")
        for line in text.splitlines():
            bare = re.sub(r"\s{2,}#.*$", "", line).strip()
            found += [
                Command(str(block.page.relative_to(ROOT)), part.strip())
                for part in bare.split("&&")
                if part.strip()
            ]
    return found


def write_own_configs(folder: Path) -> None:
    """Write the files that the pages show, where a block's first line says where they are."""
    for block in blocks("yaml"):
        if found := re.match(r"# (\w+/\S+\.yaml)\n", block.text):
            file = folder / found[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text.partition("\n")[2])
    (folder / "fixes.csv").write_text("file,fix\n")


def of_breedlab(args: list[str]) -> list[str] | None:
    """Return `breedlab COMMAND ...` without its first word, however it is spelled; None if it is
    another program."""
    if args[0] == "torchrun":
        script = next(n for n, word in enumerate(args) if word.endswith(".py"))
        return of_breedlab(["python", *args[script:]])
    if args[0] == "breedlab":
        return args[1:]
    if args[0] == "python" and (found := re.fullmatch(r"scripts/(\w+)\.py", args[1])):
        return [found[1], *args[2:]]
    return None
