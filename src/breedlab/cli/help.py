"""`breedlab help`: every setting of the config, or one in detail."""

from __future__ import annotations

import ast
import itertools
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from breedlab import registry
from breedlab.cli.parser import Parser
from breedlab.config.compose import named_plugins
from breedlab.config.endpoint import deploy_schema
from breedlab.config.plugins import load_plugins
from breedlab.config.problems import error_from
from breedlab.config.schema import schema
from breedlab.config.setting import Setting, as_yaml, settings
from breedlab.config.validate import tunable
from breedlab.config.yaml_folders import parsed, with_search_path, yaml_files
from breedlab.errors import ConfigError
from breedlab.suggestions import nearest
from breedlab.version import PACKAGE

_WIDTH, _COLUMN = 110, 30
_ROOMS = {"debugger": "debugging", "profiler": "profiling"}


def main(argv: list[str]) -> int:
    """Print settings in detail.

    Raises:
        ConfigError: If there is no such setting.
    """
    overrides = [word for word in with_search_path(argv) if "=" in word]
    words = with_search_path([word for word in argv if "=" not in word])
    paths = command_parser().parse_args([word for word in words if "=" not in word]).paths
    if problems := load_plugins(named_plugins(overrides)):
        raise error_from(problems)
    by_path = {
        setting.path: setting for setting in [*settings(deploy_schema()), *settings(schema())]
    }
    named = {path: list(_named(path, by_path)) for path in paths}
    if unknown := [path for path in paths if not named[path]]:
        raise ConfigError(
            "\n".join(f"{path}: unknown name{nearest(path, by_path)}" for path in unknown), "BL101"
        )
    wanted = dict.fromkeys(itertools.chain.from_iterable(named.values()))
    texts = [_about(by_path[path], list(by_path.values()), overrides) for path in wanted]
    print("\n\n".join(texts) if texts else _listed(list(by_path.values())))
    sys.stdout.flush()
    return 0


def command_parser() -> Parser:
    """Return what reads the command's args."""
    parser = Parser(
        "help",
        "[PATH ...] [plugins=[my_package]]",
        description=(
            "Explain a setting (optim.lr) or a section (optim): type, range, default, meaning, what"
            " sets it\nand where it is used. Without PATH, list all settings."
        ),
        examples=("optim.lr", "endpoint", "data.augment plugins=[my_package]"),
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="a setting, or a section")
    return parser


def _named(path: str, by_path: Mapping[str, Setting]) -> Iterator[str]:
    """Yield the settings that a path is about: itself, or the mapping that it is a key of, with the
    setting that the key names (`tuner.space.optim.lr`)."""
    if path in by_path:
        yield path
        return
    for dot in re.finditer(r"\.", path):
        mapping, key = path[: dot.start()], path[dot.end() :]
        if mapping in by_path and by_path[mapping].kind == "a mapping":
            yield mapping
            if key in by_path:
                yield key


def _listed(settings_shown: list[Setting]) -> str:
    """Return settings, one a line, under the meaning of their sections."""
    lines = []
    for setting in settings_shown:
        if setting.section is not None:
            lines.append(f"\n{setting.path}: {setting.meaning}")
        else:
            default = "has to be given" if setting.default is None else setting.default
            meaning = setting.meaning or setting.kind
            lines.append(f"  {setting.path:{_COLUMN}}  {meaning} [{default}]")
    return "\n".join(lines).strip("\n")


def _about(setting: Setting, all_settings: list[Setting], overrides: list[str]) -> str:
    if setting.section is not None:
        inside = [other for other in all_settings if other.path.startswith(f"{setting.path}.")]
        return _listed([setting, *inside])
    rows = {
        "type": setting.kind,
        "default": "none; it has to be given" if setting.default is None else setting.default,
        "set by": ", ".join(_set_by(setting.path, overrides)),
        "search": "tuner.space may vary it" if setting.path in tunable() else "",
        "used in": ", ".join(used_in(setting)),
    }
    lines = [f"{setting.path}: {setting.meaning}" if setting.meaning else setting.path]
    for name, text in rows.items():
        if text:
            lines += textwrap.wrap(
                f"{name:10}{text}", _WIDTH, initial_indent="  ", subsequent_indent=" " * 12
            )
    return "\n".join([*lines, *_components(setting)])


def _components(setting: Setting) -> Iterator[str]:
    """Yield what each choice is, and where its own settings are."""
    if setting.registry is None:
        return
    choices = setting.registry
    width = max(map(len, choices.choices()))
    for name, component in choices.items():
        text = " ".join((component.__doc__ or "").partition("\n\n")[0].split())
        own = f" Settings: {choices.section}.{name}" if component.model_fields else ""
        yield f"  {choices.prefix + name:{width}}  {text}{own}"


def _set_by(path: str, overrides: list[str]) -> Iterator[str]:
    """Yield which choices of which groups set a path, and to what: `optim=sgd to 0.01`."""
    for file, tree in _trees(tuple(overrides)):
        group = file.parent.name
        value: Any = tree if group == "experiment" else {group: tree}
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            yield f"{group}={file.stem} to {as_yaml(value)}"


@cache
def _trees(overrides: tuple[str, ...]) -> list[tuple[Path, Any]]:
    return [(file, parsed(file.read_text("utf-8"))) for file in yaml_files(overrides)]


def used_in(setting: Setting) -> list[str]:
    """Return the files of breedlab, or of the plugin, that read a setting."""
    *_, parent, leaf = ["config", *setting.path.split(".")]
    readers = [name for name, text in _sources() if leaf in text and _reads(text, leaf, {parent})]
    if setting.registry is not None:
        variable = next(name for name, value in vars(registry).items() if value is setting.registry)
        readers += [
            name for name, text in _sources() if re.search(rf"\b{variable}\.(chosen|made)\(", text)
        ]
    room = _ROOMS.get(setting.path.partition(".")[0])
    if not readers and room:  # which takes a part of the config, and knows nothing of its path
        owners = {"self", "limits", "rule", "config", "collection", "settings"}
        readers = [
            name for name, text in _sources() if f"/{room}/" in name and _reads(text, leaf, owners)
        ]
    if not readers:
        # Not in an f-string, which writes a command for the user, and reads nothing.
        readers = [
            name
            for name, text in _sources()
            if re.search(rf'(?<!f)"{re.escape(setting.path)}=', text)
        ]
    own = Path(sys.modules[setting.owner.__module__].__file__ or "")
    return list(dict.fromkeys(readers)) or [
        str(own.relative_to(PACKAGE.parent) if PACKAGE in own.parents else own)
    ]


def _reads(text: str, leaf: str, owners: set[str]) -> bool:
    """Return whether a source reads `OWNER.leaf`, as in `config.optim.lr`."""
    return any((owner, leaf) in _attributes(text) for owner in owners)


@cache
def _attributes(text: str) -> set[tuple[str, str]]:
    """Return every attribute that a source reads, with the last name before it."""
    pairs = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            owner = node.value
            pairs.add(
                (
                    owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", ""),
                    node.attr,
                )
            )
    return pairs


@cache
def _sources() -> list[tuple[str, str]]:
    files = sorted(PACKAGE.rglob("*.py"))
    return [(str(file.relative_to(PACKAGE.parent)), file.read_text("utf-8")) for file in files]
