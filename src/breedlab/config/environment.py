"""Values that `${oc.env:NAME}` takes from the environment: used everywhere, and written down
nowhere but by that text.

A token, or the path of somebody's home, is in no record, archive or answer of a server that way,
and a run that is resumed elsewhere takes what the variable holds there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from breedlab.config.problems import Problem

if TYPE_CHECKING:
    from omegaconf import DictConfig

Tree = dict[str, Any]

SHORT = 6
"""A value of fewer characters stands in every second word, and is not looked for in texts."""

_SIGN = "${oc.env:"
_VARIABLE = re.compile(r'\$\{oc\.env:\s*([^\s${},]+)\s*(?:,\s*(null|"(?:[^"\\]|\\.)*"))?\s*\}')
"""A variable as `_as_text` writes it: with a default, if it has one, in JSON."""

_LEFT_OUT = object()

_FOR_THE_JOB = "backend.environment."
"""Here a text that is nothing but a variable stays as it is: it is taken from the shell when a job
is sent."""


class FromEnvironment(str):
    """A value that comes from the environment, wholly or in part.

    Attributes:
        text: What stands for it in the config.
    """

    text: str

    def __new__(cls, value: str, text: str) -> FromEnvironment:
        made = super().__new__(cls, value)
        made.text = text
        return made

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        return str(self), self.text


def tree_of(composed: DictConfig) -> Tree:
    """Return what Hydra composed as plain containers, in which `FromEnvironment` marks what comes
    from there."""
    from omegaconf import OmegaConf

    tree = OmegaConf.to_container(composed, resolve=True)
    if _SIGN not in json.dumps(OmegaConf.to_container(composed, resolve=False)).replace(" ", ""):
        return _plain(tree)
    with _variables_by_name():
        try:
            texts = OmegaConf.to_container(composed, resolve=True)
        except Exception:  # such as `oc.decode`, which cannot read a variable's name
            texts = OmegaConf.to_container(composed, resolve=False)
    return _plain(_marked(tree, texts, ""))


def _plain(tree: Any) -> Tree:
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


@contextmanager
def _variables_by_name() -> Iterator[None]:
    """Inside, OmegaConf puts a variable's text where it would put its value."""
    from omegaconf import OmegaConf
    from omegaconf.resolvers import oc

    OmegaConf.register_new_resolver("oc.env", _as_text, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _as_text(name: str, *default: Any) -> str:
    fallbacks = [json.dumps(None if value is None else str(value)) for value in default]
    return f"${{oc.env:{', '.join([name, *fallbacks])}}}"


def _marked(value: Any, text: Any, path: str) -> Any:
    if isinstance(value, dict) and isinstance(text, dict):
        return {key: _marked(each, text.get(key), f"{path}{key}.") for key, each in value.items()}
    if isinstance(value, list) and isinstance(text, list) and len(value) == len(text):
        return [_marked(each, text[index], path) for index, each in enumerate(value)]
    if not isinstance(value, str) or not isinstance(text, str) or _SIGN not in text:
        return value
    if path.startswith(_FOR_THE_JOB) and re.fullmatch(r"\$\{oc\.env:\w+\}", text):
        return text
    return FromEnvironment(value, text)


def texts_in(tree: Mapping[str, Any], prefix: str = "") -> Tree:
    """Return the text of each leaf that comes from the environment, by its config path; of a list,
    of all it holds."""
    found: Tree = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= texts_in(value, f"{path}.")
        elif isinstance(value, FromEnvironment):
            found[path] = value.text
        elif isinstance(value, list) and any(isinstance(each, FromEnvironment) for each in value):
            found[path] = [
                each.text if isinstance(each, FromEnvironment) else each for each in value
            ]
    return found


def with_texts(tree: Mapping[str, Any]) -> Tree:
    """Return a tree as it is shown, with the text of each leaf that comes from the environment."""

    def walk(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: walk(each) for key, each in value.items()}
        if isinstance(value, list):
            return [walk(each) for each in value]
        return value.text if isinstance(value, FromEnvironment) else value

    return {key: walk(value) for key, value in tree.items()}


def marked(value: Any, text: Any) -> Any:
    """Return a leaf that is known to come from the environment, marked as such."""
    return _marked(value, text, "")


def resolved(tree: Mapping[str, Any], lenient: bool = False) -> tuple[Tree, list[Problem]]:
    """Return a recorded tree with what the environment holds now, and a problem for each variable
    that is not set.

    Args:
        tree: As it was recorded. It is not changed.
        lenient: Whether a leaf may stay a text, or where the config takes no text have its default:
            for whoever needs only the rest.
    """
    found: list[Problem] = []

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, Mapping):
            walked = {key: walk(each, f"{path}.{key}") for key, each in value.items()}
            return {key: each for key, each in walked.items() if each is not _LEFT_OUT}
        if isinstance(value, list):
            return [walk(each, path) for each in value]
        if not isinstance(value, str) or _SIGN not in value:
            return value
        if f"{path}.".startswith(_FOR_THE_JOB) and re.fullmatch(r"\$\{oc\.env:\w+\}", value):
            return value
        try:
            return FromEnvironment(text_with_values(value), value)
        except KeyError as missing:
            if lenient:
                return _LEFT_OUT if path.startswith("backend.") and path.count(".") == 1 else value
            else:
                found.append(not_set(path, missing.args[0]))
            return value

    return {key: walk(value, str(key)) for key, value in tree.items()}, found


def not_set(path: str, name: str) -> Problem:
    """Return the problem of a value whose variable the environment does not have."""
    return Problem(path, f"comes from the environment variable {name}, which is not set; export it")


def text_with_values(text: str) -> str:
    """Return a text with what its variables hold.

    Raises:
        KeyError: With the name of the first that is not set.
    """

    def value(match: re.Match[str]) -> str:
        name, default = match.groups()
        if name in os.environ:
            return os.environ[name]
        if default is None:
            raise KeyError(name)
        return str(json.loads(default) or "")

    if "${oc.env:${" in text:  # the name of a variable comes from another
        text = _VARIABLE.sub(value, text)
    return _VARIABLE.sub(value, text)


def concealed(text: str, pairs: Mapping[str, str]) -> str:
    """Return a text that is written down, with the variables' texts in place of their values."""
    for value in sorted(pairs, key=len, reverse=True):
        text = text.replace(value, pairs[value])
    return text
