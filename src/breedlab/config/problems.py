"""Problems of a config, worded for the user who wrote it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from breedlab.commands import command
from breedlab.config.yaml_folders import OF_DEPLOY
from breedlab.errors import ConfigError
from breedlab.suggestions import nearest


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, what to do about it, and the code that it is known by."""

    path: str
    message: str
    code: str = field(default=ConfigError.code, compare=False)


Rule = Callable[..., Iterator[Problem]]
"""A rule across fields: see `config.rules`."""


def error_from(
    problems: Iterable[Problem], source: str = "config", code: str = ConfigError.code
) -> ConfigError:
    """Return all problems as one error, each on a line of its own.

    Args:
        problems: At least one.
        source: What has them.
        code: Of those that have none of their own.
    """
    unique = list(dict.fromkeys(problems))
    count = "1 problem" if len(unique) == 1 else f"{len(unique)} problems"
    lines = [f"{source}: {count}", *(f"  {p.path}: {p.message}" for p in unique)]
    codes = {code if p.code == ConfigError.code else p.code for p in unique}
    return ConfigError("\n".join(lines), codes.pop() if len(codes) == 1 else "")


def paths_of(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return every config path in a tree, branches and leaves."""
    paths = []
    for key, value in tree.items():
        paths.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            paths += paths_of(value, f"{prefix}{key}.")
    return paths


def reword(errors: Iterable[Mapping[str, Any]], names: Iterable[str]) -> list[Problem]:
    """Return Pydantic's error records as problems, one per config path.

    Args:
        errors: `ValidationError.errors()`. A field that may be one of several types has one record
            a type.
        names: The config paths that exist, for the nearest to a typo.
    """
    by_path: dict[str, list[Mapping[str, Any]]] = {}
    for error in errors:
        path = ".".join(str(part) for part in error["loc"] if not _is_union_branch(str(part)))
        by_path.setdefault(path, []).append(error)
    # Where one branch of a union got as far as a list's members, what the others say of the whole
    # is beside the point.
    parents = {path for path in by_path if _has_members(path, by_path)}
    by_path = {path: records for path, records in by_path.items() if path not in parents}
    return [
        Problem(path, _message(path, records, list(names)), _CODES.get(records[0]["type"], "BL103"))
        for path, records in by_path.items()
    ]


_CODES = {"extra_forbidden": "BL101", "missing": "BL102"}


def _has_members(path: str, paths: Iterable[str]) -> bool:
    return any(other.startswith(f"{path}.") for other in paths)


def unknown(path: str, names: Sequence[str]) -> str:
    """Return what is said of a path that is none of `names`, with the nearest of them."""
    section = path.partition(".")[0]
    if section in OF_DEPLOY and not _has_members(section, names):
        return f"unknown name; {section} belongs to `{command('deploy')}`"
    return "unknown name" + nearest(path, names)


def _message(path: str, records: list[Mapping[str, Any]], names: list[str]) -> str:
    kind, value = records[0]["type"], records[0]["input"]
    if kind == "extra_forbidden":
        return unknown(path, names)
    if kind == "missing":
        return "is missing from the config"
    expected = " or ".join(dict.fromkeys(_expectation(record) for record in records))
    choices = [choice for record in records for choice in _choices(record)]
    return f"got {value!r}; expected {expected}{nearest(str(value), choices)}"


def _is_union_branch(part: str) -> bool:
    """Return whether a part of a location is the branch of a union, which Pydantic adds, such as
    `literal['auto']` or `constrained-int`."""
    return part in {"int", "float", "str", "bool"} or any(mark in part for mark in "[('-")


def _choices(record: Mapping[str, Any]) -> list[str]:
    if record["type"] != "literal_error":
        return []
    return str(record["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")


_BOUNDS = {
    "greater_than": ("gt", "a number greater than"),
    "greater_than_equal": ("ge", "a number of at least"),
    "less_than": ("lt", "a number less than"),
    "less_than_equal": ("le", "a number of at most"),
}
_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a string",
    "string_too_short": "a non-empty string",
    "list_type": "a list such as [1,2,3]",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "string_pattern_mismatch": "letters, digits, '_', '.' and '-', the first a letter or digit",
}


def _expectation(record: Mapping[str, Any]) -> str:
    kind, context = record["type"], record.get("ctx", {})
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        bound = context[key]
        return f"{words} {bound}" if isinstance(bound, int) else f"{words} {bound:g}"
    if kind == "too_short":
        return f"a list of at least {context['min_length']}"
    if kind == "too_long":
        return f"a list of at most {context['max_length']}"
    if kind == "value_error":
        return str(context["error"])
    choices = _choices(record)
    if choices:
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    return _TYPES.get(kind, str(record["msg"]).removeprefix("Input should be "))
