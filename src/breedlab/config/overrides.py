"""The words of a command that set values: joined where a shell split them, quoted, and checked
before Hydra composes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from breedlab.config.components import component_sections
from breedlab.config.environment import resolved
from breedlab.config.problems import Problem, error_from, unknown
from breedlab.config.validate import Tree, known_paths
from breedlab.config.yaml_folders import groups, in_quotes, plain
from breedlab.registry import SOURCES
from breedlab.suggestions import nearest


def forced(overrides: list[str]) -> list[str]:
    """Return overrides that Hydra takes for components' own settings, which no YAML file has."""
    # A built-in source is null in YAML where a config has another, and null is not set piece by
    # piece.
    null = {
        f"{SOURCES.section}.{name}"
        for name, source in SOURCES.items()
        if source.__module__ == SOURCES.home
    }
    return forced_inside(overrides, [path for path in component_sections() if path not in null])


def forced_inside(overrides: list[str], sections: Iterable[str]) -> list[str]:
    """Return overrides that Hydra takes inside some sections, which no YAML file has."""
    starts = tuple(f"{path}{mark}" for path in sections for mark in ".=")
    return [f"++{word}" if word.startswith(starts) else word for word in overrides]


def split_space(overrides: list[str]) -> tuple[list[str], list[str]]:
    """Separate the overrides of open mappings, such as `tuner.space`, where a list may replace a
    range.

    Hydra merges, it cannot swap; and it knows no name that is not there yet, such as that of a tag.
    """
    space = [
        word
        for word in overrides
        if re.match(r"\+{0,2}(" + "|".join(map(re.escape, _OPEN)) + ")[.=]", word)
    ]
    return [word for word in overrides if word not in space], space


def with_space(tree: Tree, words: list[str]) -> Tree:
    """Return a tree with the overrides applied to its search space; `tuner.space={...}` replaces
    the whole space."""
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
    """Detect overrides that the shell split at spaces: around `=`, or in the name of a folder.

    Returns:
        The words that are left, and a problem for each override that was in parts.
    """
    whole, problems = [], []
    choices = groups(words)
    names = {*known_paths(), *choices, *(name for names in choices.values() for name in names)}
    queue = list(words)
    while queue:
        parts = [queue.pop(0)]
        if parts[0].startswith("-"):
            whole.append(parts[0])
            continue
        if "=" not in parts[0] and queue and queue[0].startswith("="):
            parts.append(queue.pop(0))
        if parts[-1].endswith("=") and queue and _is_rest(queue[0]):
            parts.append(queue.pop(0))
        key = parts[0].partition("=")[0]
        if len(parts) > 1:
            problems.append(
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
            problems.append(
                Problem(
                    text,
                    f"has spaces; quote it: {quoted_override(key, text.partition('=')[2])}",
                    "BL106",
                )
            )
        else:
            whole.append(parts[0])
    return whole, problems


def _is_rest(word: str) -> bool:
    return "=" not in word and not word.startswith("-")


def quoted_override(key: str, value: str) -> str:
    """Return an override quoted for the shell and Hydra; `...` replaces a value that has quotes or
    backslashes itself."""
    return f"'{key}=\"{value}\"'" if not re.search(r"[\"'\\]", value) else f"'{key}=\"...\"'"


def screen(overrides: list[str], grid: bool = False) -> tuple[list[str], list[Problem]]:
    """Report all bad names and choices at once, since Hydra would stop at the first.

    Args:
        overrides: As typed.
        grid: Whether several values, separated by commas, are allowed.

    Returns:
        The overrides that are left, and the problems of the others.
    """
    choices, paths = groups(overrides), known_paths()
    good, problems = [], []
    for word in overrides:
        problem = screened(word, choices, paths, grid)
        if problem is None:
            good.append(word)
        else:
            problems.append(problem)
    return good, problems


def quoted(words: list[str]) -> list[str]:
    """Return overrides with paths quoted if Hydra would misread their names.

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
    if key.lstrip("+") in _OPEN and (entry := _TWO_COLONS.search(value)):
        name, _, last = entry[1].rpartition(":")
        escaped = name.replace(":", r"\:")
        return Problem(
            key.lstrip("+"),
            f"{entry[1]!r} has two colons; put a backslash before those of the name,"
            f" {escaped}:{last}, or quotes around the value",
            "BL106",
        )
    if key.startswith(("+", "~", "hydra.", "hydra/")) or "@" in key:
        return None  # additions and deletions are Hydra's to judge
    if not equals:
        groups = [
            f"{group}={choice}"
            for group in sorted(choices, key="experiment".__ne__)
            for choice in choices[group]
        ]
        hint = "" if key in paths or key in choices else nearest(key, [*groups, *paths, *choices])
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
        return Problem(key, unknown(key, [*paths, *choices]), "BL101")
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
"""Paths whose value is a mapping with names of the user's own."""

_TWO_COLONS = re.compile(r"[{,]\s*([^{},\"'\\:]+:[^{},\"'\\]*:\s[^{},\"']*)(?=[,}])")
"""An entry that Hydra would take for the name `team` and the value `owner: vision`."""

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
