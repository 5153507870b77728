"""The parser of every command: one style of help, examples below it, and the nearest name to what
is not one."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from breedlab.commands import command
from breedlab.errors import UsageError
from breedlab.suggestions import nearest

_PLUGINS = """\
plugins=[my_package] first imports packages of yours that a bare archive needs and does not name:
those with the model's head or engine, or a metric. A run directory names them itself."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors say what was meant, and end with exit code 2.

    Args:
        name: The command.
        usage: How it is called, a way a line, without the command itself.
        description: What it does.
        examples: Calls to copy, without the command itself.
        notes: What is printed below the examples.
        paths: Config paths that the command takes as well.
        plugins: Whether the command takes `plugins=[my_package]`; see `cli.plugins`.
    """

    def __init__(
        self,
        name: str,
        *usage: str,
        description: str,
        examples: Sequence[str] = (),
        notes: str = "",
        paths: Sequence[str] = (),
        plugins: bool = False,
    ) -> None:
        typed = command(name)
        lines = [f"  {typed} {example}".rstrip() for example in examples]
        epilog = "\n".join(["examples:", *lines]) if lines else ""
        super().__init__(
            prog=typed,
            usage=f"\n{' ' * 7}".join(f"{typed} {way}".rstrip() for way in usage) or None,
            description=description,
            epilog="\n\n".join(
                part for part in (epilog, notes, _PLUGINS if plugins else "") if part
            ),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._paths = list(paths)

    def add_subparsers(self, **options: Any) -> Any:
        """Add subcommands, each with a parser whose errors look the same."""
        return super().add_subparsers(**{"parser_class": _SubParser, "prog": self.prog, **options})

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, with the nearest name, and exit with 2."""
        super().error(f"[{UsageError.code}] {message}{self._hint(message)}")

    def _hint(self, message: str) -> str:
        if unknown := re.search(r"unrecognized arguments: .*?(--?[\w-]+)", message):
            flag = unknown[1]
            return nearest(flag, visible_flags(self)) or nearest(
                flag.lstrip("-").replace("-", "_"), self._paths
            )
        if wrong := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            return nearest(wrong[1], re.findall(r"[\w.-]+", wrong[2]))
        return ""


def page_file(text: str) -> Path:
    """Return where a page is to be written; refuse what may be another file, named by mistake."""
    path = Path(text)
    if path.suffix.lower() not in (".html", ".htm") and not path.is_dir():
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a name that ends in .html")
    return path


class _SubParser(Parser):
    def __init__(self, **options: Any) -> None:
        argparse.ArgumentParser.__init__(self, **{"allow_abbrev": False, **options})
        self._paths = []


def visible_flags(parser: argparse.ArgumentParser) -> list[str]:
    """Return the flags that a parser's help lists, including those of its subcommands."""
    return list(dict.fromkeys(_flags(parser)))


def _flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if action.help != argparse.SUPPRESS:
            yield from (flag for flag in action.option_strings if flag.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for inside in action.choices.values():
                yield from _flags(inside)
