"""From a composed tree to a typed config, or to every problem at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from pydantic import BaseModel, ValidationError

from breedlab.config import candidates, rules
from breedlab.config.components import component_sections, section_of
from breedlab.config.environment import SHORT, FromEnvironment
from breedlab.config.passwords import password_problems
from breedlab.config.plugins import load_plugins
from breedlab.config.problems import Problem, error_from, paths_of, reword
from breedlab.config.schema import Config, schema
from breedlab.config.space import PAIRED, Space, SpaceError, grid_points, leaves, read_dimension
from breedlab.suggestions import nearest

Tree = dict[str, Any]

_NOT_SEARCHED = "BL117"
MISSING = "???"
"""What YAML holds where a user has to give the value."""

# What a trial may vary: everything here changes how the network learns, nothing what is measured or
# where.
TUNABLE = (
    "cache.views",
    "data.batch_size",
    "data.augment",
    "data.mixup",
    "data.cutmix",
    "data.class_weights",
    "data.sampling",
    "model.head",
    "model.head_type",
    "model.dropout",
    "optim.name",
    "optim.lr",
    "optim.weight_decay",
    "optim.momentum",
    "optim.schedule",
    "optim.warmup_epochs",
    "optim.layer_decay",
    "optim.loss",
    "optim.label_smoothing",
    "trainer.ema",
    "trainer.gradient_clip",
)


def tunable() -> list[str]:
    """Return every config path that a search may vary, including components' own settings."""
    searched = [
        f"{path}.{name}"
        for path, component in component_sections(searched=True).items()
        for name in component.model_fields
    ]
    return list(dict.fromkeys([*TUNABLE, *searched]))


def _searched(strategy: Any) -> list[str]:
    """Return what a strategy may vary."""
    features = [path for pair in PAIRED for path in pair]
    return [*dict.fromkeys([*features, *tunable()])] if strategy == "auto" else tunable()


def validate(tree: Tree, source: str = "config", recorded: bool = False) -> Config:
    """Check a whole tree.

    Args:
        tree: Plain containers and scalars, as Hydra composed them.
        source: Where it comes from, for the message.
        recorded: Whether it was validated before, perhaps by an older version: what it lacks has
            its default. In what was composed just now nothing may be lacking.

    Raises:
        ConfigError: Naming every problem, each with its config path.
    """
    return accepted(*examine(tree, recorded), source)


def accepted(config: Config | None, problems: list[Problem], source: str = "config") -> Config:
    """Return what `examine` found to be right.

    Raises:
        ConfigError: Naming every problem, if it found any.
    """
    if config is None or problems:
        raise error_from(problems, source)
    return config


def examine(tree: Tree, recorded: bool = False) -> tuple[Config | None, list[Problem]]:
    """Validate a whole tree, once; arguments as in `validate`.

    Returns:
        The config, None where the tree is invalid; and everything that is wrong with it.
    """
    if lacking := load_plugins(tree.get("plugins")):  # what these bring would seem unknown
        return None, [_without_value(problem, tree) for problem in lacking]
    absent = [] if recorded else _never_recorded(tree)
    config, own = _typed(tree)
    space = [
        problem if problem.code == _NOT_SEARCHED else dataclasses.replace(problem, code="BL105")
        for problem in _space_problems(tree, config, own)
    ]
    return config, [_without_value(problem, tree) for problem in [*absent, *own, *space]]


def _never_recorded(tree: Tree) -> list[Problem]:
    """Return what is wrong with a tree that was composed just now, though an older version may have
    recorded it."""
    absent = [
        Problem(path, "is missing from the config", "BL102") for path in _absent(Config, tree)
    ]
    return [*absent, *password_problems(dict(leaf_values(tree)))]


def _without_value(problem: Problem, tree: Tree) -> Problem:
    """Return a problem that does not print what a variable of the environment holds."""
    message = problem.message
    for path, value in leaf_values(tree):
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, FromEnvironment) and (path == problem.path or len(each) >= SHORT):
                message = message.replace(str(each), each.text) if each else message
    return dataclasses.replace(problem, message=message)


def revive(tree: Tree) -> Config:
    """Return the config of a tree that another process of this run has validated."""
    load_plugins(tree.get("plugins"))
    return schema().model_validate(tree)


def replace(config: Config, values: Mapping[str, Any]) -> Config:
    """Return the same config with other values at some config paths.

    What a search may propose is looked at again only where that is what changes.

    Raises:
        ConfigError: Naming every problem of the values.
    """
    tree = with_values(config.tree(), values)
    if any(path.startswith("tuner.") for path in values):
        return validate(tree)
    return accepted(*_typed(tree))


def search_space(config: Config) -> Space:
    """Return the dimensions of `tuner.space` by config path, in the order given."""
    return {
        path: read_dimension(path, description) for path, description in leaves(config.tuner.space)
    }


def trial_count(config: Config) -> int:
    """Return how many trials the search has, 0 if there is none."""
    if config.tuner.strategy == "grid":
        return len(grid_points(search_space(config)))
    if config.tuner.strategy == "auto":
        most = candidates.count(search_space(config))
        return min(config.tuner.trials or most, most)
    return 0 if config.tuner.strategy == "none" else config.tuner.trials or 0


def with_values(tree: Tree, values: Mapping[str, Any]) -> Tree:
    """Return a copy of a tree with other values at some config paths."""
    changed = deepcopy(tree)
    for path, value in values.items():
        *parents, leaf = path.split(".")
        node = changed
        for parent in parents:
            # the section of a component, whose settings are all at their defaults
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
        node[leaf] = list(value) if isinstance(value, tuple) else value
    return changed


def _typed(tree: Tree) -> tuple[Config | None, list[Problem]]:
    """Return a tree's config, None where it is invalid, and what is wrong besides its search
    space."""
    missing = [path for path, value in leaf_values(tree) if value == MISSING]
    if missing:
        wrong = [
            Problem(path, f"has no value; give it one: {path}=...", "BL102") for path in missing
        ]
        others = reword(_errors(tree), known_paths())
        others = [problem for problem in others if problem.path not in missing]
        return None, wrong + others + rules.problems(_valid_sections(tree))
    try:
        config = schema().model_validate(tree)
    except ValidationError as error:
        wrong = reword(error.errors(), known_paths())
        return None, wrong + rules.problems(_valid_sections(tree))
    return config, rules.problems(_sections(config))


def _sections(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in Config.model_fields}


def _absent(model: type[BaseModel], tree: Tree, prefix: str = "") -> Iterator[str]:
    """Yield the config path of every field of a model that a tree does not have."""
    for name, field in model.model_fields.items():
        if name not in tree:
            yield f"{prefix}{name}"
        elif (section := section_of(field.annotation)) and isinstance(tree[name], dict):
            yield from _absent(section, tree[name], f"{prefix}{name}.")


def _errors(tree: Tree) -> list[Any]:
    try:
        schema().model_validate(tree)
    except ValidationError as error:
        return list(error.errors())
    return []


def leaf_values(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf with its config path."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaf_values(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _valid_sections(tree: Tree) -> dict[str, Any]:
    sections = {}
    for name, field in schema().model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            section = tree.get(name)
            if isinstance(section, dict) and MISSING in (
                value for _, value in leaf_values(section)
            ):
                continue
            try:
                sections[name] = kind.model_validate(section)
            except ValidationError:
                continue
        elif kind is bool and isinstance(tree.get(name), bool):
            sections[name] = tree[name]
    return sections


def _space_problems(tree: Tree, config: Config | None, own: list[Problem]) -> list[Problem]:
    """Return what a search may propose and the fields would not accept.

    Args:
        tree: The whole of it.
        config: What it is, where it is valid.
        own: What is wrong with it besides its search space.
    """
    tuner = tree.get("tuner")
    if (
        not isinstance(tuner, dict)
        or tuner.get("strategy") == "none"
        or not isinstance(tuner.get("space"), dict)
    ):
        return []
    problems: list[Problem] = []
    paths: set[str] = set()
    allowed = _searched(tuner.get("strategy"))
    for path, description in leaves(tuner["space"]):
        where = f"tuner.space.{path}"
        if path not in allowed:
            auto = " (tuner=auto may)" if path in _searched("auto") else ""
            problems.append(
                Problem(
                    where,
                    f"is not a config path that a search can vary{auto}" + nearest(path, allowed),
                    _NOT_SEARCHED,
                )
            )
        elif not isinstance(tree.get(path.split(".")[0]), dict):
            continue  # the section itself is missing, which is reported
        elif path in paths:
            problems.append(
                Problem(where, "is given twice, once nested and once dotted; expected once")
            )
        else:
            problems += _dimension_problems(tree, config, path, description, own)
        paths.add(path)
    return problems


def _dimension_problems(
    tree: Tree, config: Config | None, path: str, description: Any, own: list[Problem]
) -> list[Problem]:
    try:
        dimension = read_dimension(path, description)
    except SpaceError as error:
        return [
            Problem(f"tuner.space.{error.path}", f"got {error.value!r}; expected {error.expected}")
        ]
    problems = []
    partner = _partner(tree, path)
    for index, value in enumerate(dimension.probes()):
        together = {path: value} | {
            other: values[index] for other, values in partner.items() if index < len(values)
        }
        changed = with_values(tree, together)
        of_probe = (
            _typed(changed)[1] if config is None else _retyped(config, changed, list(together))
        )
        for problem in of_probe:
            if problem in own:
                continue
            about = problem.message
            if problem.path != path and not problem.path.startswith(f"{path}."):
                about = f"{value!r} does not go with {problem.path}: {about}"
            problems.append(Problem(f"tuner.space.{path}", about))
    return problems


def _retyped(config: Config, tree: Tree, paths: list[str]) -> list[Problem]:
    """Return what is wrong with a valid config once some of its values are others.

    Args:
        config: The valid one.
        tree: With the other values.
        paths: Where they are.
    """
    sections = _sections(config)
    problems = []
    for name in {path.partition(".")[0] for path in paths}:
        try:
            sections[name] = type(sections[name]).model_validate(tree[name])
        except ValidationError as error:
            del sections[name]
            records = [{**record, "loc": (name, *record["loc"])} for record in error.errors()]
            problems += reword(records, known_paths())
    return problems + rules.problems(sections)


def _partner(tree: Tree, path: str) -> dict[str, list[Any]]:
    """Return the list that goes with a path's, value by value, where there is one: only `auto` has
    such lists, others combine all values."""
    partners: dict[str, list[Any]] = {}
    if tree["tuner"].get("strategy") != "auto":
        return partners
    space = dict(leaves(tree["tuner"]["space"]))
    for pair in PAIRED:
        if path in pair:
            for other in pair:
                if other != path and isinstance(space.get(other), list):
                    partners[other] = space[other]
    return partners


def known_paths() -> list[str]:
    """Return every config path that the schema has, branches and leaves."""

    def of(model: type[BaseModel]) -> Tree:
        tree: Tree = {}
        for name, field in model.model_fields.items():
            section = section_of(field.annotation)
            tree[name] = of(section) if section else None
        return tree

    return paths_of(of(schema()))
