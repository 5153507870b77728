r"""Values that `${oc.env:NAME}` takes from the environment: used everywhere, and recorded only as
that text.

A token, or the path of someone's home, is in no record, archive or answer of a server that way,
and a run that is resumed elsewhere takes what the variable holds there.

A backslash makes it a text, as in all of Hydra: `\${oc.env:NAME}` is a folder of that name, and is
written down with the backslash.
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
"""A shorter value is part of too many words, so it is not concealed in texts."""

_SIGN = "${oc.env:"
_VARIABLE = re.compile(
    r"(?P<slashes>\\*)\$\{oc\.env:"
    r'(?P<rest>\s*(?P<name>[^\s${},]+)\s*(?:,\s*(?P<default>null|"(?:[^"\\]|\\.)*"))?\s*\})?'
)
"""A variable as `_as_text` writes it: with a default, if it has one, in JSON. After an odd number
of backslashes it is a text."""

_MARK = "\ue000"
"""A placeholder for the dollar sign of a variable while texts next to it are escaped."""

_LEFT_OUT = object()

_FOR_THE_JOB = "backend.environment."
"""Here a text that is nothing but a variable stays as it is: it is taken from the shell when a job
is sent; after a backslash it is not."""


class FromEnvironment(str):
    """A value that comes from the environment, wholly or in part, or that looks as if it did.

    Attributes:
        text: Its text in the config and in records, with the variables.
    """

    text: str

    def __new__(cls, value: str, text: str) -> FromEnvironment:
        concealed_text = super().__new__(cls, value)
        concealed_text.text = text
        return concealed_text

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
            texts = _escaped(OmegaConf.to_container(composed, resolve=True))
        except Exception:  # such as `oc.decode`, which cannot read a variable's name
            texts = OmegaConf.to_container(composed, resolve=False)
    return _plain(_marked(tree, texts, ""))


def _plain(tree: Any) -> Tree:
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


@contextmanager
def _variables_by_name() -> Iterator[None]:
    """Let OmegaConf insert a variable's text instead of its value inside the block."""
    from omegaconf import OmegaConf
    from omegaconf.resolvers import oc

    OmegaConf.register_new_resolver("oc.env", _as_text, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _as_text(name: str, *default: Any) -> str:
    fallbacks = [
        json.dumps(None if value is None else str(value), ensure_ascii=False) for value in default
    ]
    return f"{_MARK}{{oc.env:{', '.join([name, *fallbacks])}}}"


def _escaped(texts: Any) -> Any:
    """Return texts as records have them, with a backslash before what only looks like a
    variable."""
    if isinstance(texts, dict):
        return {key: _escaped(each) for key, each in texts.items()}
    if isinstance(texts, list):
        return [_escaped(each) for each in texts]
    if not isinstance(texts, str):
        return texts
    text = re.sub(r"(\\*)\$\{oc\.env:", lambda match: rf"{match[1] * 2}\${{oc.env:", texts)
    text = re.sub(rf"(\\+){_MARK}", lambda match: f"{match[1] * 2}{_MARK}", text)
    return text.replace(_MARK, "$")


def _marked(value: Any, text: Any, path: str) -> Any:
    if isinstance(value, dict) and isinstance(text, dict):
        return {key: _marked(each, text.get(key), f"{path}{key}.") for key, each in value.items()}
    if isinstance(value, list) and isinstance(text, list) and len(value) == len(text):
        return [_marked(each, text[index], path) for index, each in enumerate(value)]
    if not isinstance(value, str) or not isinstance(text, str) or _SIGN not in text:
        return value
    if path.startswith(_FOR_THE_JOB) and _is_one_variable(text):
        return text
    return FromEnvironment(value, text)


def _is_one_variable(text: str) -> bool:
    return re.fullmatch(r"\\*\$\{oc\.env:\w+\}", text) is not None


def texts_in(tree: Mapping[str, Any], prefix: str = "") -> Tree:
    """Return the text of each leaf that comes from the environment, by its config path; of a list,
    of all it holds."""
    texts: Tree = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            texts |= texts_in(value, f"{path}.")
        elif isinstance(value, FromEnvironment):
            texts[path] = value.text
        elif isinstance(value, list) and any(isinstance(each, FromEnvironment) for each in value):
            texts[path] = [
                each.text if isinstance(each, FromEnvironment) else each for each in value
            ]
    return texts


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
            for callers that need only the rest.
    """
    problems: list[Problem] = []

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, Mapping):
            walked = {key: walk(each, f"{path}.{key}") for key, each in value.items()}
            return {key: each for key, each in walked.items() if each is not _LEFT_OUT}
        if isinstance(value, list):
            return [walk(each, path) for each in value]
        if isinstance(value, FromEnvironment) or not isinstance(value, str) or _SIGN not in value:
            return value
        if f"{path}.".startswith(_FOR_THE_JOB) and _is_one_variable(value):
            return value
        try:
            return FromEnvironment(text_with_values(value), value)
        except KeyError as missing:
            if lenient:
                return _LEFT_OUT if path.startswith("backend.") and path.count(".") == 1 else value
            else:
                problems.append(not_set(path, missing.args[0]))
            return value

    return {key: walk(value, str(key)) for key, value in tree.items()}, problems


def not_set(path: str, name: str) -> Problem:
    """Return the problem of a value whose variable the environment does not have."""
    return Problem(
        path, f"comes from the environment variable {name}, which is not set; export it", "BL109"
    )


def text_with_values(text: str) -> str:
    """Return a text with what its variables hold.

    Raises:
        KeyError: With the name of the first that is not set.
    """
    if "${oc.env:${" in text:  # the name of a variable comes from another
        text = _VARIABLE.sub(_value_of, text)
    return _VARIABLE.sub(_value_or_text, text)


def _value_or_text(match: re.Match[str]) -> str:
    """Return half of a variable's backslashes, and its value; after an odd number of backslashes,
    its text."""
    slashes = match["slashes"]
    backslashes = slashes[: len(slashes) // 2]
    if len(slashes) % 2:
        return backslashes + match[0][len(slashes) :]
    return backslashes + _value_of(match)[len(slashes) :]


def _value_of(match: re.Match[str]) -> str:
    """Return the backslashes before a variable and its value; a text, and what is only the
    beginning of a variable, as it is."""
    slashes, name, default = match["slashes"], match["name"], match["default"]
    if len(slashes) % 2 or match["rest"] is None:
        return match[0]
    if name in os.environ:
        return slashes + os.environ[name]
    if default is None:
        raise KeyError(name)
    return slashes + str(json.loads(default) or "")


def concealed(text: str, pairs: Mapping[str, str]) -> str:
    """Return a text that is written down, with the variables' texts instead of their values."""
    if not pairs:
        return text
    longest_first = sorted(pairs, key=len, reverse=True)
    # In one go, since a text may hold another value.
    return re.sub("|".join(map(re.escape, longest_first)), lambda match: pairs[match[0]], text)
