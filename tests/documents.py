"""What the pages hold, for the tests: blocks of code, their commands, and which test runs each."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
RUN, CHECKED = "sh", "bash"
"""Blocks whose commands run on the quickstart's run as they stand; blocks whose commands need more,
such as images of your own, an AWS account, or an hour."""


@dataclass(frozen=True)
class Block:
    page: Path
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    page: str
    text: str
    language: str

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
            bare = re.sub(r"\s{2,}#.*$|\s>\s\S+", "", line).strip()
            found += [
                Command(str(block.page.relative_to(ROOT)), part.strip(), block.language)
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


TRIAL = "docs/aws-trial.md"
IN_ACCOUNT = ("account", "batch", "deploy", "jobs", "upload")


def runner(command: Command) -> str | None:
    """Return which test runs a command: as it stands, or with its NAME, DIR, and addresses put in.
    None if no test does; `NOT_RUN` of tests/docs/test_docs_commands.py says why."""
    args = of_breedlab(command.args)
    if command.args[0] == "curl" or "--endpoint http" in command.text:
        return "requests"
    if args is None or command.args[0] == "torchrun":
        return None
    if command.page == TRIAL:
        return "trial"
    if command.language == RUN:
        return "quickstart"
    if args == ["launch", "experiment=quickstart"]:
        return "demo"
    if "plugins=" in command.text or "my_cluster" in command.text:
        return "plugins"
    name = args[0]
    if name in ("completion", "export", "serve"):
        return name
    if command.page in ("docs/how-to/ray.md", "docs/plugins.md"):
        return Path(command.page).stem if "http://ray-head" not in command.text else None
    if name in IN_ACCOUNT or "--endpoint" in args or "orchestrate=pipeline" in command.text:
        return "account"
    if "backend=sagemaker" in args and "dry_run=true" not in args:
        return "account"
    if name in ("check", "evaluate", "predict", "report") or "dry_run=true" in args:
        return "own images"
    return None  # it trains, for minutes or more


def run_by(test: str) -> list[Command]:
    """Return the commands that a test runs, each once."""
    found = {each.text: each for each in commands(RUN, CHECKED) if runner(each) == test}
    return list(found.values())
