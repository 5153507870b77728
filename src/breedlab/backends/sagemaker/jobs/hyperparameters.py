"""Hyperparameters as SageMaker carries them, and as the config takes them: one rule for names, the
fields for types.

SageMaker's name of the config path `a.b` is `a__b`: a dot would end up in the name of a shell
variable. Values travel as texts, and what arrives differs with who starts the job: 32 comes as `32`
or `"32"`, true as `true`, `True` or `"true"`. So nothing is guessed from how a value looks; the
config's field says what it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError, create_model

from breedlab.config.components import section_of
from breedlab.config.problems import Problem, error_from, reword
from breedlab.config.schema import Config, schema
from breedlab.config.section import Section
from breedlab.config.validate import known_paths
from breedlab.errors import ConfigError
from breedlab.suggestions import nearest

_FOREIGN = ("sagemaker_", "_tuning_")
"""How the names begin that SageMaker and its SDK add for themselves."""

_WORDS = {"true": True, "false": False, "none": None, "null": None}


def sagemaker_name(path: str) -> str:
    """Return SageMaker's name of a config path.

    Raises:
        ConfigError: If the name could not be turned back, or SageMaker would not take it.
    """
    name = path.replace(".", "__")
    if not re.fullmatch(r"[A-Za-z0-9_]{1,255}", name) or config_path(name) != path:
        raise ConfigError(
            f"{path}: is not a valid name on SageMaker; expected letters, digits, and single '_'"
            " between dots, 255 at most",
            "BL117",
        )
    return name


def config_path(name: str) -> str:
    """Return the config path of a SageMaker name."""
    return re.sub(r"__(?!_)", ".", name)


def encode(value: Any) -> str:
    """Return a config value as JSON, so that numbers stay numbers and strings stay strings."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def decode(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job's hyperparameters by config path, each converted to its field's type.

    Args:
        hyperparameters: By SageMaker's name, as in the JSON of `SM_HPS`. SageMaker's own names are
            left out.

    Raises:
        ConfigError: Naming every name that no config path carries, and every value that its field
            refuses.
    """
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, text in hyperparameters.items():
        if name.startswith(_FOREIGN):
            continue
        path = config_path(name)
        value = _value_model(path) if re.fullmatch(r"[A-Za-z0-9_]+", name) else None
        if value is None:
            problems.append(Problem(name, _unknown(name), "BL101"))
            continue
        try:
            values[path] = _typed(value, text)
        except ValidationError as error:
            for problem in reword(error.errors(), ()):
                where = name + problem.path.removeprefix("value")
                problems.append(replace(problem, path=where))
    if problems:
        raise error_from(problems, "hyperparameters")
    return values


def _unknown(name: str) -> str:
    paths = [path for path in known_paths() if _value_model(path) is not None]
    path = config_path(name)
    if path in paths:  # written with its dots
        return f"SageMaker's names have no dots; did you mean {sagemaker_name(path)}?"
    if path in known_paths():
        inside = next(other for other in paths if other.startswith(f"{path}."))
        return f"is a group of values; name one of them, such as {sagemaker_name(inside)}"
    return "unknown name" + nearest(path, paths).replace(".", "__")


def _value_model(path: str) -> type[Section] | None:
    """Return a model whose field `value` is the config's field at a path; None for an unknown path
    or a whole section."""
    return _value_model_in(schema(), path)


@cache
def _value_model_in(config: type[Config], path: str) -> type[Section] | None:
    *parents, leaf = path.split(".")
    section: type[BaseModel] = config
    for name in parents:
        below = _section(section, name)
        if below is None:
            return None
        section = below
    field = section.model_fields.get(leaf)
    if field is None or field.annotation is _section(section, leaf):
        return None
    return create_model("Value", __base__=Section, value=(field.rebuild_annotation(), ...))


def _section(section: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Return the section that a field holds, optional or not."""
    field = section.model_fields.get(name)
    return None if field is None else section_of(field.annotation)


def _typed(model: type[Section], value: Any) -> Any:
    """Return the first reading of a value that the field accepts, or the error of the most likely
    one."""
    refusals: list[ValidationError] = []
    for reading in _readings(value):
        try:
            return dict(model.model_validate({"value": reading}).model_dump())["value"]
        except ValidationError as error:
            refusals.append(error)
    raise refusals[1] if isinstance(value, str) and len(refusals) > 1 else refusals[0]


def _readings(value: Any) -> Iterator[Any]:
    """Yield the possible readings of a value, the literal one first."""
    yield value
    if isinstance(value, str):
        if value.strip().lower() in _WORDS:
            yield _WORDS[value.strip().lower()]
            return
        try:
            value = json.loads(value)
        except ValueError:
            return
        yield value
    if isinstance(value, float) and value.is_integer():
        yield int(value)  # 1e2, 32.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)  # a text of digits, such as an experiment called 42
