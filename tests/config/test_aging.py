"""A config that an older version recorded lacks what has come since; it is read all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
from codes import raises_code
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from breedlab.config import Config, validate
from breedlab.config.migrations import MIGRATIONS, SCHEMA_VERSION, stamp, upgrade
from breedlab.config.schema import schema
from breedlab.config.yaml_folders import config_folder
from breedlab.serving import description

BASE_GROUPS = {
    "model": "resnet34",
    "data": "image_folder",
    "optim": "adam",
    "trainer": "default",
    "tuner": "none",
    "debugger": "none",
    "profiler": "none",
    "backend": "local",
    "serving": "default",
}

GIVEN = {("name",), ("model", "name"), ("model", "weights"), ("data", "root"), ("tuner", "space")}
"""What an experiment has to say; a class cannot know it."""


def leaves(tree: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key)


def at(tree: dict[str, Any], path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def test_the_classes_have_the_defaults_of_the_base_groups() -> None:
    minimal = {
        "name": "x",
        "model": {"name": "resnet34", "weights": "IMAGENET1K_V1"},
        "data": {"root": "photos"},
    }
    defaults = schema().model_validate(minimal).model_dump()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        for group, choice in BASE_GROUPS.items():
            written = OmegaConf.to_container(compose(f"{group}/{choice}"))
            assert isinstance(written, dict)
            for path in leaves(written):
                if path not in GIVEN and path[:2] not in GIVEN:
                    assert at(defaults, path) == at(written, path), ".".join(path)


def test_a_config_without_a_field_that_came_later_is_read(configure: Callable[..., Config]) -> None:
    recorded = configure().model_dump()
    # several of one class: whole or not at all
    shared_classes = {("debugger", "collections"), ("debugger", "rules")}
    for path in leaves(recorded):
        if path in GIVEN or path[:2] in shared_classes:
            continue
        older = deepcopy(recorded)
        del at(older, path[:-1])[path[-1]]
        validate(older, recorded=True)
    for rule in recorded["debugger"]["rules"]:
        older = deepcopy(recorded)
        del older["debugger"]["rules"][rule]
        assert validate(older, recorded=True).debugger.rules == validate(recorded).debugger.rules


def test_a_tree_without_a_version_is_the_first_version() -> None:
    assert upgrade({"a": 1}, "run", "config.yaml") == {"a": 1}
    assert upgrade(stamp({"a": 1}), "run", "config.yaml") == {"a": 1}


def test_a_migration_runs_once_in_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("breedlab.config.migrations.SCHEMA_VERSION", 3)
    monkeypatch.setitem(MIGRATIONS, ("run", 1), lambda tree: {"b": tree["a"] * 10})
    monkeypatch.setitem(MIGRATIONS, ("run", 2), lambda tree: {"c": tree["b"] + 1})
    assert upgrade({"a": 1}, "run", "config.yaml") == {"c": 11}
    assert upgrade({"schema_version": 2, "b": 5}, "run", "config.yaml") == {"c": 6}
    assert upgrade({"schema_version": 1, "a": 1}, "job", "job.json") == {"a": 1}


def test_an_endpoint_reads_the_same_version() -> None:
    assert description.SCHEMA_VERSION == SCHEMA_VERSION


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0, "1", True, None])
def test_a_version_that_is_not_ours_is_refused(version: Any) -> None:
    with raises_code("BL111", names="config.yaml"):
        upgrade({"schema_version": version}, "run", "config.yaml")
