"""Compose a config with Hydra, and report what it refuses like any other problem."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from breedlab.config.composition import composed
from breedlab.config.environment import not_set, tree_of
from breedlab.config.overrides import (
    forced,
    quoted,
    quoted_override,
    rejoin,
    screen,
    split_space,
    with_space,
)
from breedlab.config.plugins import load_plugins
from breedlab.config.problems import Problem, error_from
from breedlab.config.validate import Tree, examine
from breedlab.config.yaml_folders import (
    SEARCHPATH,
    groups,
    plain,
    yaml_files,
)
from breedlab.errors import ConfigError


def load(overrides: list[str]) -> Tree:
    """Return the composed config of a list of overrides, ready to be validated.

    Raises:
        ConfigError: Naming every override that means nothing, and anything else that is wrong with
            the rest.
    """
    # alone: without a plugin, all that it brings would be reported as unknown, too
    if lacking := load_plugins(named_plugins(overrides)):
        raise error_from(lacking)
    whole, torn = rejoin(overrides)
    whole = quoted(whole)
    good, problems = screen(whole)
    problems = [*torn, *problems]
    good, space = split_space(forced(good))
    try:
        tree = with_space(compose(good), space)
    except Exception as refusal:  # Hydra's parser, composer and OmegaConf share no base class
        raise explained(good, refusal, problems, space) from refusal
    if problems:
        raise error_from(beside(problems, tree))
    return tree


def compose(overrides: list[str], root: str = "config") -> Tree:
    """Return Hydra's composed config, not validated; `root` is the YAML file of conf/ to start
    from."""
    return tree_of(composed(overrides, root))


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


def explained(
    overrides: list[str],
    refusal: Exception,
    problems: list[Problem],
    space: list[str] | None = None,
) -> ConfigError:
    """Find every override that Hydra refuses."""
    tree, refusals = one_by_one(overrides)
    problems += refusals
    for word in space or []:
        try:
            tree = with_space(tree, [word])
        except Exception as error:  # as above
            problems.append(reworded(word, error, tree))
    if not problems:  # the overrides work one by one, so the files themselves are at fault
        return ConfigError(f"config: {_first_line(refusal)}")
    return error_from(beside(problems, tree))


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
    group_choices = [word for word in others if word.lstrip("+~").split("=")[0] in choices]
    with suppress(Exception):  # as above; mostly it is a value that Hydra refuses
        compose([*accepted, *group_choices], root)
        accepted += group_choices
        group_choices = []
    problems = []
    for word in [
        *group_choices,
        *(word for word in others if word not in [*group_choices, *accepted]),
    ]:
        try:
            compose([*accepted, word], root)
        except Exception as error:  # as above
            problems.append(reworded(word, error, compose(accepted, root)))
        else:
            accepted.append(word)
    return compose(accepted, root), problems


def beside(problems: list[Problem], tree: Tree) -> list[Problem]:
    """Return the problems of overrides, then the other problems, except that a refused override's
    path has no value."""
    refused_paths = {problem.path.partition("=")[0].strip() for problem in problems}
    return problems + [problem for problem in examine(tree)[1] if problem.path not in refused_paths]


def reworded(word: str, error: Exception, tree: Tree) -> Problem:
    """Return why Hydra refused an override, worded like other problems."""
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
    value_in_quotes = value if re.fullmatch(r"([\"']).*\1|\[.*\]", value) else f'"{value}"'
    in_braces = f"{section}={{{_escaped(name)}: {value_in_quotes}}}"
    if section and re.search(f"[{_SPECIAL}]", name) and _is_read(in_braces):
        return f"put this name in braces: {shlex.quote(in_braces)}"
    plain_names = f"{key}={_with_plain_names(value)}"
    if value.startswith("{") and _is_read(plain_names):
        return (
            "names in braces take no quotes, and a backslash before special characters:"
            f" {shlex.quote(plain_names)}"
        )
    return f"quote it, such as {quoted_override(key, value)}"


_SPECIAL = r"\s:=()\[\]{},"
"""Characters that Hydra's grammar takes in a name only in braces and after a backslash; a space
needs none."""


def _escaped(name: str) -> str:
    return re.sub(rf"(?=[{_SPECIAL}])(?! )", r"\\", name)


def _with_plain_names(mapping: str) -> str:
    """Return a mapping as Hydra reads it, without quotes around names."""
    name = re.compile(
        r"(?P<before>[{,]\s*)"
        r"(?:(?P<quote>[\"'])(?P<quoted>[^\"']+)(?P=quote)\s*:|(?P<bare>[^{},\"']*\S)\s*:(?=\s))"
    )
    return name.sub(
        lambda match: f"{match['before']}{_escaped(match['quoted'] or match['bare'])}:", mapping
    )


def _is_read(word: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def _first_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", (str(error).strip() or type(error).__name__).splitlines()[0])
