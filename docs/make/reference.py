"""A hook of MkDocs: write the reference from the code, so that nothing is typed twice.

Pages of the repository's root (ARCHITECTURE.md and the like) become pages of the site as they are.
"""

from __future__ import annotations

import inspect
import io
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import breedlab
from breedlab import errors
from breedlab.cli import COMMANDS
from breedlab.config.schema import schema
from breedlab.config.setting import Setting, settings
from breedlab.config.validate import tunable
from breedlab.serving.openapi import RESPONSES

ROOT = Path(__file__).resolve().parents[2]
ROOT_PAGES = {
    "index.md": "README.md",
    "explanation/architecture.md": "ARCHITECTURE.md",
    "explanation/security.md": "SECURITY.md",
    "project/contributing.md": "CONTRIBUTING.md",
    "project/changelog.md": "CHANGELOG.md",
    "project/third-party.md": "THIRD_PARTY_NOTICES.md",
}
SUBCOMMANDS = {
    "jobs": ["list", "show", "stop", "fetch", "resume"],
    "account": ["policies", "bootstrap"],
}


def on_config(config: Any) -> Any:
    """Append pages missing from `nav` to the how-to guides."""
    docs = Path(config.docs_dir)
    pages = {
        file.relative_to(docs).as_posix()
        for file in docs.rglob("*.md")
        if "make" not in file.relative_to(docs).parts
    }
    guides = next(part["How-to guides"] for part in config.nav if "How-to guides" in part)
    guides.extend(sorted(pages - _names(config.nav)))
    return config


def _names(nav: Any) -> set[str]:
    if isinstance(nav, str):
        return {nav}
    parts = nav.values() if isinstance(nav, dict) else nav
    return set().union(*map(_names, parts))


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the repository's root, and put the generated ones in the place of those in
    docs/, which say to readers of the repository how to have them."""
    from mkdocs.structure.files import File

    texts = {name: write() for name, write in PAGES.items()}
    texts |= {name: root_page(name) for name in ROOT_PAGES}
    for name, text in texts.items():
        if (placeholder := files.get_file_from_path(name)) is not None:
            files.remove(placeholder)
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Replace `<!-- generated: NAME -->` with text generated from the code, and links to pages of
    the repository's root by the site's."""
    up = "../" * page.file.src_uri.count("/")
    for place, source in ROOT_PAGES.items():
        markdown = markdown.replace(f"]({up}../{source}", f"]({up}{place}")
    return re.sub(r"<!-- generated: (\w+) -->", lambda match: PARTS[match[1]](), markdown)


def root_page(page: str) -> str:
    """Return a page of the repository's root with its links changed to the site's."""
    text = (ROOT / ROOT_PAGES[page]).read_text("utf-8")
    up = "../" * page.count("/")
    for place, source in ROOT_PAGES.items():
        text = text.replace(f"]({source})", f"]({up}{place})")
    text = text.replace("](docs/", f"]({up}")
    return re.sub(r"\[([^]]+)\]\(LICENSE\)", r"\1", text)  # no page of the site


def config_page() -> str:
    """Return every setting of the config: type and range, default, meaning."""
    lines = [
        "# Settings",
        "",
        "Every path of the config, as `breedlab help` lists it. Set one on the command line "
        "(`optim.lr=0.01`) or in an experiment's YAML. `breedlab help PATH` also says which config "
        "groups set it and which code reads it. The column *search* marks what `tuner.space` may "
        "vary.",
    ]
    searched = tunable()
    section = None
    for setting in settings(schema()):
        if setting.section is not None:
            section = setting.path
            heading = "##" if "." not in setting.path else "###"
            lines += ["", f"{heading} `{setting.path}`", "", _escaped(setting.meaning), "", *_TABLE]
            continue
        parent = setting.path.rpartition(".")[0]
        if not parent and section is None:
            section = ""
            lines += ["", "## The run itself", "", *_TABLE]
        lines.append(_row(setting, setting.path in searched))
    choices = [each for each in settings(schema()) if each.registry is not None]
    lines += ["", "## Components", "", "The choices of each setting that selects a component."]
    for setting in choices:
        lines += ["", f"### Choices of `{setting.path}`", "", *_choices(setting)]
    return _without_empty_tables("\n".join(lines)) + "\n"


_TABLE = ("| path | type and range | default | search | meaning |", "|---|---|---|---|---|")


def _row(setting: Setting, searched: bool) -> str:
    default = "required" if setting.default is None else f"`{setting.default}`"
    cells = [
        f'<a id="{setting.path}"></a>`{setting.path}`',
        _escaped(setting.kind),
        default.replace("|", "\\|"),
        "yes" if searched else "",
        _escaped(setting.meaning),
    ]
    return f"| {' | '.join(cells)} |"


def _choices(setting: Setting) -> Iterator[str]:
    assert setting.registry is not None
    yield "| name | meaning | settings |"
    yield "|---|---|---|"
    for name, component in setting.registry.items():
        own = f"`{setting.registry.section}.{name}`" if component.model_fields else ""
        yield (
            f"| `{setting.registry.prefix}{name}` |"
            f" {_escaped(_first_paragraph(component.__doc__))} | {own} |"
        )


def _without_empty_tables(text: str) -> str:
    """Drop the header of a table without rows, as in a section that contains only sections."""
    head = "\n".join(_TABLE)
    return re.sub(re.escape(head) + r"\n(?!\|)", "", text + "\n").rstrip("\n")


def _first_paragraph(text: str | None) -> str:
    return " ".join((text or "").partition("\n\n")[0].split())


def _escaped(text: str) -> str:
    """Return text for a table cell, with Markdown and HTML escaped outside code."""
    parts = text.replace("|", "\\|").split("`")
    parts[::2] = [re.sub(r"([<>*_])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def commands_page() -> str:
    """Return the help of every command."""
    lines = [
        "# Commands",
        "",
        "The output of `breedlab COMMAND --help`. In a checkout, `python scripts/COMMAND.py` is "
        "the same command. `breedlab DIR` inspects a folder of images and trains on it.",
        "",
    ]
    for name, summary in COMMANDS.items():
        lines += [f"## breedlab {name}", "", f"{_escaped(summary.partition(':')[0])}.", ""]
        lines += _fenced(help_of(name))
        for subcommand in SUBCOMMANDS.get(name, []):
            lines += [f"### breedlab {name} {subcommand}", ""]
            lines += _fenced(help_of(name, subcommand))
    return "\n".join(lines)


def _fenced(text: str) -> list[str]:
    return ["```text", text.strip("\n"), "```", ""]


def help_of(name: str, *words: str) -> str:
    """Return the output of `breedlab NAME ... --help`, 100 columns wide."""
    out = io.StringIO()
    argv = ["breedlab", *words, "--help"]
    with (
        mock.patch.object(sys, "argv", [f"breedlab {name}"]),
        mock.patch.dict("os.environ", {"COLUMNS": "100"}),
        redirect_stdout(out),
        redirect_stderr(io.StringIO()),
    ):
        try:
            import_module(f"breedlab.cli.{name}").main(argv[1:])
        except SystemExit as ended:
            assert not ended.code, f"breedlab {name} {words}: --help ends with {ended.code}"
    return out.getvalue()


def python_page() -> str:
    """Return the public Python API, as in `breedlab.__all__`."""
    lines = [
        "# Python API",
        "",
        "The names in `import breedlab`. Everything else may change without notice.",
    ]
    for name in breedlab.__all__:
        thing = getattr(breedlab, name)
        if name.startswith("__"):
            lines += ["", f"## `breedlab.{name}`", "", "The version of the package, a string."]
        elif inspect.isclass(thing):
            lines += ["", f"## `class breedlab.{name}`", "", *_documented(thing)]
            if thing.__module__ == "breedlab.api":
                lines += _members(name, thing)
        else:
            lines += ["", f"## `breedlab.{name}{_signature(thing)}`", "", *_documented(thing)]
    return "\n".join(lines) + "\n"


def _members(name: str, cls: type) -> Iterator[str]:
    for member, value in vars(cls).items():
        if member.startswith("_"):
            continue
        if isinstance(value, property):
            yield from ("", f"### `{name}.{member}`", "", *_documented(value))
        elif inspect.isfunction(value):
            yield from ("", f"### `{name}.{member}{_signature(value)}`", "", *_documented(value))


def _signature(function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    parameters = [each for each in signature.parameters.values() if each.name != "self"]
    return str(signature.replace(parameters=parameters)).replace("'", "")


def _documented(thing: Any) -> Iterator[str]:
    """Yield a docstring as Markdown: its sections (Args, Raises, ...) as lists."""
    item = re.compile(r"^    (\w+): (.*)$")
    for line in (inspect.getdoc(thing) or "").splitlines():
        if line in ("Args:", "Attributes:", "Raises:", "Returns:"):
            yield from (f"**{line.rstrip(':')}**", "")
        elif match := item.match(line):
            yield f"- `{match[1]}`: {match[2]}"
        else:
            yield f"  {line.strip()}" if line.startswith("     ") else line.strip()


def errors_page() -> str:
    """Return the errors and the exit codes of commands."""
    classes = [
        each
        for each in vars(errors).values()
        if inspect.isclass(each) and issubclass(each, errors.BreedlabError)
    ]
    lines = [
        "# Errors and exit codes",
        "",
        "A command that fails prints one message, without a traceback, and exits with one of these "
        "codes. In Python, each is a subclass of `breedlab.BreedlabError`.",
        "",
        "| code | exception | when |",
        "|---|---|---|",
        "| 0 | | Success. |",
    ]
    for each in classes:
        lines.append(
            f"| {each.exit_code} | `{each.__name__}` | {_escaped(_first_paragraph(each.__doc__))} |"
        )
    lines += [
        "| 130 | | Ctrl-C; the last line says how to resume. |",
        "| 141 | | The output pipe was closed, as with `breedlab help \\| head`. |",
        "",
        "## Codes",
        "",
        "Each message begins with the code of its kind, such as `[BL101]`; in Python it is the "
        "exception's `code`. Wording may improve; codes stay.",
        "",
        "| code | meaning |",
        "|---|---|",
        *(f"| {code} | {_escaped(meaning)} |" for code, meaning in errors.CODES.items()),
        "",
        "`breedlab debug` also exits with 1 if a rule fired, and `breedlab predict` if one of "
        "several images could not be read.",
    ]
    return "\n".join(lines) + "\n"


def _statuses() -> str:
    lines = ["| status | when |", "|---|---|"]
    lines += [f"| {status} | {spec['description']} |" for status, spec in RESPONSES.items()]
    return "\n".join(lines)


def _limits() -> str:
    from breedlab.serving import fetch, file_checks, invocations, request_parser

    rows = {
        "a request's body": f"{request_parser.MAX_BYTES / 1e6:g} MB",
        "the time for it to arrive": f"{request_parser.BODY_SECONDS:g} seconds",
        "images in a list": f"{request_parser.MAX_IMAGES}",
        "an image": f"{file_checks.MAX_PIXELS / 1e6:g} megapixels",
        "images in progress or queued": f"{invocations.CAPACITY}",
        "all bodies and fetched images together": f"{request_parser.MAX_HELD / 1e6:g} MB",
        "an image fetched by its URL": f"{fetch.MAX_BYTES / 1e6:g} MB, {fetch.SECONDS:g} seconds, "
        f"{fetch.REDIRECTS} redirects",
    }
    lines = [f"| {name} | {limit} |" for name, limit in rows.items()]
    return "\n".join(["| limit on | at most |", "|---|---|", *lines])


PAGES: dict[str, Callable[[], str]] = {
    "reference/config.md": config_page,
    "reference/commands.md": commands_page,
    "reference/python.md": python_page,
    "reference/errors.md": errors_page,
}
PARTS: dict[str, Callable[[], str]] = {"statuses": _statuses, "limits": _limits}
