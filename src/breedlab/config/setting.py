"""One setting of the config in words: what it may be, what it is by default, what it means."""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Interval, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from breedlab.config.components import Choice, section_of
from breedlab.registry import Registry


@dataclass(frozen=True)
class Setting:
    """A setting, or a section of settings.

    Attributes:
        path: Its config path.
        meaning: What it is, from the docstring below the field; a section's from its class.
        kind: Its type and range in words; empty for a section.
        default: As YAML writes it; None if it has to be given.
        owner: The class that the field is of.
        section: The class of a section; None for a setting.
        registry: The components that it chooses from, if it does.
    """

    path: str
    meaning: str
    kind: str
    default: str | None
    owner: type[BaseModel]
    section: type[BaseModel] | None = None
    registry: Registry[Any] | None = None


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[Setting]:
    """Yield every setting and section below a model, in its order."""
    meanings = field_docstrings(model)
    for name, field in model.model_fields.items():
        path, section = f"{prefix}{name}", section_of(field.annotation)
        if section is not None:
            words = meanings.get(name) or inspect.getdoc(section) or ""
            yield Setting(path, _first_paragraph(words), "", None, model, section)
            yield from settings(section, f"{path}.")
        else:
            choice = next((mark for mark in field.metadata if isinstance(mark, Choice)), None)
            yield Setting(
                path,
                _first_paragraph(meanings.get(name, "")),
                _type_in_words(field.annotation, field.metadata),
                _default(field),
                model,
                registry=choice.registry if choice else None,
            )


def field_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring below each field of a model and of those that it builds on, by name."""
    docstrings: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not issubclass(cls, BaseModel) or cls is BaseModel:
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        except (OSError, TypeError, SyntaxError):  # made at run time, or without its source
            continue
        body = getattr(tree.body[0], "body", [])
        for field, below in pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and _is_text(below)
            ):
                docstrings[field.target.id] = inspect.cleandoc(below.value.value)
    return docstrings


def _is_text(node: ast.AST) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _first_paragraph(text: str) -> str:
    return " ".join(text.partition("\n\n")[0].split())


def _default(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    return as_yaml(field.get_default(call_default_factory=True))


def as_yaml(value: Any) -> str:
    """Return a value as the config's YAML has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping | list | tuple):
        plain = dict(value) if isinstance(value, Mapping) else list(value)
        text: str = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=math.inf)
        return text.strip()
    return str(value)


def _type_in_words(annotation: Any, marks: list[Any]) -> str:
    """Return what a field takes, such as `a number greater than 0`."""
    for mark in marks:
        if isinstance(mark, Choice):
            return f"one of {', '.join(mark.registry.choices())}"
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_in_words(inner[0], [*inner[1:], *marks])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_type_in_words(part, marks) for part in inner))
    if origin is Literal:
        types = ", ".join(map(str, inner))
        return f"one of {types}" if len(inner) > 1 else types
    if origin is list:
        return f"a list{_length(marks)}, each {_type_in_words(inner[0], [])}"
    if origin is dict:
        return "a mapping"
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a string",
        NoneType: "null",
    }
    return names.get(annotation, getattr(annotation, "__name__", str(annotation))) + _bounds(
        annotation, marks
    )


def _bounds(annotation: Any, marks: list[Any]) -> str:
    if annotation not in (int, float):
        return ""
    limits: list[Any] = []
    for mark in _flat(marks):
        limits += mark if isinstance(mark, Interval) else [mark]
    words = []
    for kind, attribute, word in (
        (Gt, "gt", "greater than"),
        (Ge, "ge", "of at least"),
        (Lt, "lt", "less than"),
        (Le, "le", "at most"),
    ):
        for limit in limits:
            if isinstance(limit, kind):
                words.append(f"{word} {_number(getattr(limit, attribute))}")
    return f" {' and '.join(words)}" if words else ""


def _flat(marks: list[Any]) -> Iterator[Any]:
    """Yield marks, those inside a `Field` of pydantic's as well."""
    for mark in marks:
        yield from mark.metadata if isinstance(mark, FieldInfo) else [mark]


def _length(marks: list[Any]) -> str:
    bounds = {type(mark): mark for mark in _flat(marks)}
    least = bounds[MinLen].min_length if MinLen in bounds else 0
    most = bounds[MaxLen].max_length if MaxLen in bounds else None
    if most is not None:
        return f" of {most}" if least == most else f" of at most {most}"
    return f" of at least {least}" if least else ""


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
