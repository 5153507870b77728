"""conf/: every file is usable, and holds every default there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from breedlab.config import search_space, validate
from breedlab.config.compose import compose, load
from breedlab.config.problems import paths_of
from breedlab.config.space import grid_points
from breedlab.config.validate import known_paths
from breedlab.config.yaml_folders import config_folder, groups

EXPERIMENTS = sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml"))
CHOICES = [
    (group, choice)
    for group, choices in groups().items()
    if group != "experiment"
    for choice in choices
]

# What a choice needs beside itself, on top of quickstart.
COMPANIONS = {
    ("data", "image_folder"): ["data.root=photos"],
    ("data", "multi_label"): ["data.root=photos"],
    ("trainer", "finetune"): ["model.freeze=none"],
    ("backend", "sagemaker"): ["dry_run=true"],
    ("tuner", "grid"): ["tuner.trials=null", "tuner.space.optim.lr=[0.001,0.01]"],
}


def test_the_folder_has_experiments_and_groups() -> None:
    assert {"quickstart", "resnet34", "resnet34_hpo", "resnet34_finetune"} <= set(EXPERIMENTS)
    assert {"model", "data", "optim", "trainer", "tuner"} <= set(groups())


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_validates_and_is_named_like_its_file(experiment: str) -> None:
    assert validate(load([f"experiment={experiment}"])).name == experiment


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=lambda word: word)
def test_every_choice_of_every_group_validates_on_top_of_quickstart(
    group: str, choice: str
) -> None:
    config = validate(
        load(["experiment=quickstart", f"{group}={choice}", *COMPANIONS.get((group, choice), [])])
    )
    assert config.name == "quickstart"


def test_the_grid_tuner_needs_nothing_else_where_the_experiment_has_no_space_of_its_own() -> None:
    config = validate(load(["experiment=resnet34", "tuner=grid"]))
    assert config.tuner.strategy == "grid"
    assert len(grid_points(search_space(config))) > 1


def test_without_words_the_experiment_is_quickstart() -> None:
    assert load([]) == load(["experiment=quickstart"])


def test_every_path_of_the_schema_is_set_in_some_yaml_and_no_other_is() -> None:
    words = [[f"experiment={experiment}"] for experiment in EXPERIMENTS]
    # the settings of a built-in backend are in its own YAML alone
    words += [[f"backend={choice}"] for group, choice in CHOICES if group == "backend"]
    composed = {path for each in words for path in paths_of(compose(each))}
    assert set(known_paths()) - composed == set()
    assert {path for path in composed if not path.startswith("tuner.space.")} - set(
        known_paths()
    ) == set()


def test_every_yaml_is_a_group_choice_or_the_config_itself() -> None:
    folder = config_folder()
    found = {path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml")}
    choices = {**groups(), **groups(of_deploy=True)}
    assert found == {Path("config"), Path("deploy")} | {
        Path(group, name) for group in choices for name in choices[group]
    }
