"""Hydra's side of the config: where conf/ is, and what Hydra refuses, in the same words as
everything else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from breedlab.config.components import component_sections
from breedlab.config.environment import not_set, resolved, tree_of
from breedlab.config.plugins import load_plugins
from breedlab.config.problems import Problem, error_from, nearest
from breedlab.config.validate import Tree, examine, known_paths
from breedlab.config.yaml_folders import (
    SEARCHPATH,
    config_folder,
    groups,
    in_quotes,
    plain,
    yaml_files,
)
from breedlab.errors import ConfigError
from breedlab.registry import SOURCES


def load(overrides: list[str]) -> Tree:
    """What a list of overrides composes to, ready to be validated.

    Raises:
        ConfigError: Naming every override that means nothing, and whatever else is wrong with the
            rest.
    """
    # what is wrong with them is told with the rest of the config
    load_plugins(named_plugins(overrides))
    whole, torn = rejoin(overrides)
    whole = quoted(whole)
    good, found = screen(whole)
    found = [*torn, *found]
    good, space = split_space(forced(good))
    try:
        tree = with_space(compose(good), space)
    except Exception as refusal:  # Hydra's parser, composer and OmegaConf share no base class
        raise explained(good, refusal, found, space) from refusal
    if found:
        raise error_from(beside(found, tree))
    return tree


def compose(overrides: list[str], root: str = "config") -> Tree:
    """What Hydra makes of overrides, not validated; `root` is the YAML file of conf/ to begin
    with."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return tree_of(hydra_compose(root, overrides=overrides))


def named_plugins(overrides: Sequence[str]) -> list[str]:
    """Return the packages that overrides, or the YAML files that they choose, name in `plugins`.

    They have to be imported before anything can be said of the other overrides.
    """
    words = [word for word in overrides if re.match(r"\+{0,2}plugins=", word)]
    if words:
        return _list_in(words[-1])
    if not any(
        re.search("^plugins:", file.read_text("utf-8"), re.MULTILINE)
        for file in yaml_files(overrides)
    ):
        return []
    choices = groups(overrides)
    try:
        tree = compose(
            [word for word in overrides if word.partition("=")[0] in (*choices, SEARCHPATH)]
        )
    except Exception:  # as in `load`
        return []
    return tree["plugins"] if isinstance(tree.get("plugins"), list) else []


def _list_in(word: str) -> list[str]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        names = plain(OverridesParser.create().parse_override(word).value())
    except HydraException:
        return []  # refused where it is composed
    return names if isinstance(names, list) else []


def forced(overrides: list[str]) -> list[str]:
    """Return overrides that Hydra takes for components' own settings, which no YAML file has."""
    # A built-in source is null in YAML where a config has another, and null is not set piece by
    # piece.
    null = {
        f"{SOURCES.section}.{name}"
        for name, source in SOURCES.items()
        if source.__module__ == SOURCES.home
    }
    inside = tuple(
        f"{path}{mark}" for path in component_sections() if path not in null for mark in ".="
    )
    return [f"++{word}" if word.startswith(inside) else word for word in overrides]


def split_space(overrides: list[str]) -> tuple[list[str], list[str]]:
    """Sets apart what is said of open mappings, such as `tuner.space`, where a list may take a
    range's place.

    Hydra merges, it cannot swap; and it knows no name that is not there yet, such as that of a tag.
    """
    space = [
        word
        for word in overrides
        if re.match(r"\+{0,2}(" + "|".join(map(re.escape, _OPEN)) + ")[.=]", word)
    ]
    return [word for word in overrides if word not in space], space


def with_space(tree: Tree, words: list[str]) -> Tree:
    """A tree with its search space changed as the words say; `tuner.space={...}` is the whole
    space."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for override in OverridesParser.create().parse_overrides(words):
        *parents, leaf = override.key_or_group.split(".")
        node = tree
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                node[parent] = {}
            node = node[parent]
        node[leaf] = plain(override.value())
    tree, missing = resolved(tree)
    if missing:
        raise error_from(missing)
    return tree


def rejoin(words: list[str]) -> tuple[list[str], list[Problem]]:
    """Sorts out overrides that the shell took apart at their spaces: around `=`, or in the name of
    a folder.

    Returns:
        The words that are left, and a problem for each override that was in parts.
    """
    left, found = [], []
    choices = groups(words)
    names = {*known_paths(), *choices, *(name for names in choices.values() for name in names)}
    queue = list(words)
    while queue:
        parts = [queue.pop(0)]
        if parts[0].startswith("-"):
            left.append(parts[0])
            continue
        if "=" not in parts[0] and queue and queue[0].startswith("="):
            parts.append(queue.pop(0))
        if parts[-1].endswith("=") and queue and _is_rest(queue[0]):
            parts.append(queue.pop(0))
        key = parts[0].partition("=")[0]
        if len(parts) > 1:
            found.append(
                Problem(" ".join(parts), f"write it without spaces: {''.join(parts)}", "BL106")
            )
            continue
        while (
            key in _FOLDERS
            and "=" in parts[0]
            and queue
            and _is_rest(queue[0])
            and queue[0] not in names
        ):
            parts.append(queue.pop(0))
        if len(parts) > 1:
            text = " ".join(parts)
            found.append(
                Problem(text, f"has spaces; quote it: {_quoted(key, text.partition('=')[2])}")
            )
        else:
            left.append(parts[0])
    return left, found


def _is_rest(word: str) -> bool:
    return "=" not in word and not word.startswith("-")


def _quoted(key: str, value: str) -> str:
    """An override as a shell and Hydra take it, whatever is in it."""
    return f"'{key}=\"{value}\"'" if not re.search(r"[\"'\\]", value) else f"'{key}=\"...\"'"


def screen(overrides: list[str], grid: bool = False) -> tuple[list[str], list[Problem]]:
    """Sorts out what can be refused before Hydra stops at its first complaint: names and choices.

    Args:
        overrides: As typed.
        grid: Whether several values, separated by commas, are allowed.

    Returns:
        The overrides that are left, and the problems of the others.
    """
    choices, paths = groups(overrides), known_paths()
    good, found = [], []
    for word in overrides:
        problem = screened(word, choices, paths, grid)
        if problem is None:
            good.append(word)
        else:
            found.append(problem)
    return good, found


def quoted(words: list[str]) -> list[str]:
    """Overrides whose places are quoted where Hydra would read something else in their names.

    `data.root=archive (1)` is a call of a function to Hydra, and `runs_dir=2024` a number.
    """
    return [_with_quotes(word) for word in words]


def _with_quotes(word: str) -> str:
    key, _, value = word.partition("=")
    if key not in _FOLDERS or not value or value[0] in "\"'" or "${" in value:
        return word
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(word)
        if parsed.is_sweep_override() or parsed.value() is None or isinstance(parsed.value(), str):
            return word
    except HydraException:
        pass
    return f"{key}={in_quotes(value)}"


def screened(
    word: str, choices: Mapping[str, list[str]], paths: list[str], grid: bool
) -> Problem | None:
    """Return what is wrong with an override as such: its name, its choice, or several values where
    one is expected."""
    key, equals, value = word.partition("=")
    if key.startswith(("+", "~", "hydra.", "hydra/")) or "@" in key:
        return None  # additions and deletions are Hydra's to judge
    if not equals:
        named = [
            f"{group}={choice}"
            for group in sorted(choices, key="experiment".__ne__)
            for choice in choices[group]
        ]
        hint = "" if key in paths or key in choices else nearest(key, [*named, *paths, *choices])
        return Problem(word, f"is not a valid override; expected path=value{hint}", "BL106")
    if key in choices:
        wrong = [
            choice
            for choice in value.split(",")
            if re.fullmatch(r"[\w.-]*", choice) and choice not in choices[key]
        ]
        if value.startswith("["):  # Hydra would merge them into one config without a word
            wrong = [value]
        if wrong:
            allowed = choices[key]
            return Problem(
                key,
                f"got {wrong[0]!r}; expected one of"
                f" {', '.join(allowed)}{nearest(wrong[0], allowed)}",
                "BL103",
            )
    elif key not in paths and not key.startswith(tuple(f"{path}." for path in _OPEN)):
        return Problem(key, "unknown name" + nearest(key, [*paths, *choices]), "BL101")
    if not grid and _is_sweep(word):
        hint = f", or write a list: [{value}]" if key in _LISTS and "(" not in value else ""
        if key in _FOLDERS:
            hint = f", or quote a name that has a comma: '{key}=\"{value}\"'"
        return Problem(key, f"{value} is several values; add -m for a run each{hint}", "BL106")
    return None


_OPEN = (
    "tuner.space",
    "backend.tags",
    "backend.environment",
    "endpoint.tags",
    "endpoint.environment",
)
"""Paths whose value is a mapping with names of the person's own."""

_FOLDERS = (
    "data.root",
    "model.weights",
    "cache.dir",
    "runs_dir",
    "endpoint.photo",
    "endpoint.inference_env",
)
"""Paths whose value is a place on this machine, whose name may have spaces."""

_LISTS = (
    "model.head",
    "data.mean",
    "data.std",
    "plugins",
    "profiler.trace_steps",
    "backend.vpc.subnets",
    "backend.vpc.security_groups",
    "tuner.warm_start",
    "endpoint.subnets",
    "endpoint.security_groups",
    "endpoint.alarms",
)
"""Paths whose value is a list."""


def _is_sweep(word: str) -> bool:
    if "," not in word and "(" not in word:
        return False
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(word).is_sweep_override()
    except HydraException:  # an unknown function's is another than one of the grammar
        return False  # reported where it is composed


def explained(
    overrides: list[str], refusal: Exception, found: list[Problem], space: list[str] | None = None
) -> ConfigError:
    """Finds every override that Hydra refuses."""
    tree, refused = one_by_one(overrides)
    found += refused
    for word in space or []:
        try:
            tree = with_space(tree, [word])
        except Exception as error:  # as above
            found.append(reworded(word, error, tree))
    if not found:  # the overrides work one by one, so the files themselves are at fault
        return ConfigError(f"config: {_first_line(refusal)}")
    return error_from(beside(found, tree))


def one_by_one(overrides: list[str], root: str = "config") -> tuple[Tree, list[Problem]]:
    """Compose the overrides that Hydra takes, each tried on top of those that work, groups first.

    Args:
        overrides: Of which Hydra refuses some.
        root: As in `compose`.

    Returns:
        The tree, and the problems of those that were refused.
    """
    accepted = [word for word in overrides if word.startswith(SEARCHPATH)]
    others = [word for word in overrides if word not in accepted]
    choices = groups(accepted, of_deploy=root == "deploy")
    found = []
    for word in sorted(others, key=lambda word: word.lstrip("+~").split("=")[0] not in choices):
        try:
            compose([*accepted, word], root)
        except Exception as error:  # as above
            found.append(reworded(word, error, compose(accepted, root)))
        else:
            accepted.append(word)
    return compose(accepted, root), found


def beside(found: list[Problem], tree: Tree) -> list[Problem]:
    """The problems of words, then those of the rest: that a refused word's path has no value is no
    news."""
    refused = {problem.path.partition("=")[0].strip() for problem in found}
    return found + [problem for problem in examine(tree)[1] if problem.path not in refused]


def reworded(word: str, error: Exception, tree: Tree) -> Problem:
    """Return what Hydra refused an override for, in the words of everything else."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, _, value = word.lstrip("+~").partition("=")
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return Problem(key, f"{value!r} cannot be read; {_readable(key, value)}", "BL106")
    node: Any = tree
    for depth, part in enumerate(parts := key.split(".")):
        if node is None:
            return Problem(
                key, f"got {value!r}, but {'.'.join(parts[:depth])} is null here", "BL106"
            )
        node = node.get(part) if isinstance(node, dict) else node
    if unset := re.search(
        r"nvironment variable '?(\w+)'?(?: not found|, which is not set)", str(error)
    ):
        return not_set(key, unset[1])
    cause = f": {_first_line(error.__cause__)}" if isinstance(error.__cause__, Exception) else ""
    return Problem(key, f"got {value!r}; {_first_line(error)}{cause}", "BL106")


def _readable(key: str, value: str) -> str:
    """Say how to write an override whose key or value Hydra's grammar does not take."""
    section, _, name = key.rpartition(".")
    if section and " " in name:
        bare = value.strip("\"'")
        return f"a name with a space stands in braces: '{section}={{{name}: {bare}}}'"
    if re.search(r"[{,]\s*[\"'][^\"']*[\"']\s*:", value):
        return f"names in braces take no quotes: '{key}={{NAME: VALUE}}'"
    return f"quote it, such as {_quoted(key, value)}"


def _first_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", (str(error).strip() or type(error).__name__).splitlines()[0])
