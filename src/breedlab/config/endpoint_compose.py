"""Overrides of `breedlab deploy` composed and checked as one `endpoint` section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from breedlab.config.components import endpoint_sections
from breedlab.config.compose import compose, one_by_one, reworded
from breedlab.config.endpoint import Deploying, deploy_schema, endpoint_problems
from breedlab.config.overrides import (
    forced_inside,
    quoted,
    rejoin,
    screened,
    split_space,
    with_space,
)
from breedlab.config.problems import Problem, error_from, reword
from breedlab.config.setting import settings
from breedlab.config.yaml_folders import groups


def load_endpoint(overrides: list[str]) -> Deploying:
    """Return what overrides such as `endpoint.name=dogs` compose to.

    Raises:
        ConfigError: Naming every override that means nothing, and anything else that is wrong with
            the rest.
    """
    choices, paths = groups(overrides, of_deploy=True), _paths()
    whole, problems = rejoin(overrides)
    good = []
    for word in quoted(whole):
        problem = screened(word, choices, paths, grid=False)
        if problem is None:
            good.append(word)
        else:
            problems.append(problem)
    good, of_open_mappings = split_space(forced_inside(good, endpoint_sections()))
    try:
        tree = compose(good, "deploy")
    except Exception:  # Hydra's parser, composer and OmegaConf share no base class
        tree, refused = one_by_one(good, "deploy")
        problems += refused
    for word in of_open_mappings:
        try:
            tree = with_space(tree, [word])
        except Exception as error:  # as above
            problems.append(reworded(word, error, tree))
    return validated(tree, problems)


def validated(tree: Mapping[str, Any], problems: list[Problem] | None = None) -> Deploying:
    """Return a tree as typed settings.

    Args:
        tree: `{"endpoint": {...}}`.
        problems: What is wrong already.

    Raises:
        ConfigError: Naming everything that is wrong.
    """
    problems = list(problems or [])
    try:
        deploying = deploy_schema().model_validate(dict(tree))
    except ValidationError as error:
        raise error_from([*problems, *reword(error.errors(), _paths())], "endpoint") from error
    if problems := [*problems, *endpoint_problems(deploying.endpoint)]:
        raise error_from(problems, "endpoint", "BL104")
    return deploying


def _paths() -> list[str]:
    return [setting.path for setting in settings(deploy_schema())]
