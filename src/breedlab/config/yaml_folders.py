"""Where the YAML files of the config are: in conf/, and in the user's own folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from breedlab.errors import UsageError
from breedlab.version import PACKAGE

SEARCHPATH = "hydra.searchpath"


def config_folder() -> Path:
    """Return the path of conf/: next to src/ in a checkout, inside the package in a wheel."""
    packaged = PACKAGE / "conf"
    return packaged if packaged.is_dir() else PACKAGE.parents[1] / "conf"


OF_DEPLOY = ("endpoint",)
"""The groups that `breedlab deploy` composes; all others are `breedlab launch`'s."""


def groups(overrides: Sequence[str] = (), of_deploy: bool = False) -> dict[str, list[str]]:
    """Return the config groups of `breedlab launch`, or of `breedlab deploy`, and their choices.

    Args:
        overrides: Those with `hydra.searchpath` name more folders with choices.
        of_deploy: Whether to return those of `breedlab deploy`.
    """
    choices: dict[str, set[str]] = {}
    for folder in (config_folder(), *own_folders(overrides)):
        for group in folder.iterdir():
            if group.is_dir() and (group.name in OF_DEPLOY) == of_deploy:
                choices.setdefault(group.name, set()).update(
                    path.stem for path in group.glob("*.yaml")
                )
    return {name: sorted(choices[name]) for name in sorted(choices) if choices[name]}


def yaml_files(overrides: Sequence[str] = ()) -> list[Path]:
    """Return the files of all groups' choices, as `groups` has them."""
    return [
        file
        for folder in (config_folder(), *own_folders(overrides))
        for file in sorted(folder.glob("*/*.yaml"))
    ]


def with_search_path(argv: list[str]) -> list[str]:
    """Return the args with `--config-dir FOLDER` replaced by Hydra's override for the same, so that
    the rest of the args can be read with it.

    Raises:
        ConfigError: If such a folder does not exist.
    """
    others, folders, queue = [], [], list(argv)
    while queue:
        word = queue.pop(0)
        flag, equals, value = word.partition("=")
        if flag in ("--config-dir", "-cd") and (equals or queue):
            folders.append(Path(value if equals else queue.pop(0)).expanduser().absolute())
        else:
            others.append(word)
    if folders:
        on_path = [word for word in others if word.startswith(SEARCHPATH)]
        places = [*_search_path(on_path), *map(str, folders)]
        others = [word for word in others if word not in on_path]
        others.append(f"{SEARCHPATH}=[{','.join(map(in_quotes, places))}]")
    for folder in own_folders(others):
        if not folder.is_dir():
            example = f"{folder}/experiment/NAME.yaml"
            raise UsageError(
                f"--config-dir: {folder} is not a directory; expected a folder of configs, as"
                f" {example}"
            )
    return others


def _search_path(overrides: Sequence[str]) -> list[str]:
    """Return the folders that `hydra.searchpath=[...]` names."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    words = [word for word in overrides if word.startswith(SEARCHPATH)]
    try:
        values = [
            plain(override.value()) for override in OverridesParser.create().parse_overrides(words)
        ]
    except HydraException as error:
        raise UsageError(
            f"{SEARCHPATH}: cannot be read; expected {SEARCHPATH}=[FOLDER,...]"
        ) from error
    folders: list[str] = []
    for value in values:
        folders += map(str, value if isinstance(value, list) else [value])
    return folders


def own_folders(overrides: Sequence[str]) -> list[Path]:
    """Return the folders that `hydra.searchpath=[...]` names."""
    if not any(word.startswith(SEARCHPATH) for word in overrides):
        return []  # and Hydra's parser, which takes a while, is not imported for it
    return [
        Path(place.removeprefix("file://"))
        for place in _search_path(overrides)
        if not place.startswith("pkg://")
    ]


def in_quotes(value: str) -> str:
    """Return a string in Hydra's quotes: quotes are escaped, and so are backslashes before them and
    at the end."""
    return '"' + re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), value) + '"'


def literally(value: str) -> str:
    """Return a string in Hydra's quotes whose `${...}` is literal."""
    escaped = re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + r"\${", value)
    return in_quotes(escaped)


def parsed(text: str) -> Any:
    """Return what YAML says. libyaml, which PyYAML mostly has, takes a tenth of its own time."""
    import yaml

    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def plain(value: Any) -> Any:
    """Return a value with quoted strings of Hydra's grammar as strings."""
    if isinstance(value, dict):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.text if hasattr(value, "text") else value
