"""The words of the command line: what Hydra would refuse in its own way is told like everything
else, all at once."""

from __future__ import annotations

import pytest
from codes import check_names

from breedlab.config import validate
from breedlab.config.compose import load
from breedlab.errors import ConfigError


def refusal(*words: str, code: str = "") -> list[str]:
    with pytest.raises(ConfigError) as error:
        validate(load([*words]))
    assert not code or error.value.code == code, str(error.value)
    title, *lines = str(error.value).splitlines()
    assert title == ("config: 1 problem" if len(lines) == 1 else f"config: {len(lines)} problems")
    return [line.strip() for line in lines]


@pytest.mark.parametrize(
    ("word", "code", "names"),
    [
        ("optim.lrr=0.1", "BL101", ["optim.lrr: ", "optim.lr?"]),
        ("lr=0.1", "BL101", ["lr: ", "optim.lr?"]),
        ("nothing_like_it=1", "BL101", ["nothing_like_it: "]),
        ("endpoint.name=dogs", "BL101", ["endpoint.name: ", "deploy"]),
        ("+endpoint.name=dogs", "BL101", ["endpoint", "deploy"]),
        ("endpoint=async", "BL101", ["endpoint: ", "deploy"]),
        (
            "data=dog_breed",
            "BL103",
            ["data: ", "'dog_breed'", "dog_breeds, image_folder, multi_label, sample;"],
        ),
        (
            "experiment=quikstart",
            "BL103",
            ["experiment: ", "'quikstart'", "auto, quickstart, resnet34"],
        ),
        ("experiment=", "BL103", ["experiment: ", "''", "auto, quickstart, resnet34"]),
        ("quickstart", "BL106", ["quickstart: ", "path=value"]),
        ("optim.name=[adam", "BL106", ["optim.name: ", "'[adam'"]),
        ("optim.lr=0.1,0.2", "BL106", ["optim.lr: ", "0.1,0.2", "-m"]),
        ("data.root=cats,dogs", "BL106", ["data.root: ", """'data.root="cats,dogs"'"""]),
        ("model.head=512,256", "BL106", ["model.head: ", "[512,256]"]),
        ("trainer.max_epochs=choice(1,2)", "BL106", ["trainer.max_epochs: ", "choice(1,2)", "-m"]),
        ("+optim.nesterov=true", "BL101", ["optim.nesterov: "]),
        ("optim.lr=${nowhere}", "BL106", ["optim.lr: ", "'${nowhere}'"]),
        ("data=image_folder", "BL102", ["data.root: ", "data.root=..."]),
        # a section that the experiment has as null
        ("data.archive.url=https://x.org/a.zip", "BL106", ["data.archive.url: ", "null"]),
    ],
)
def test_one_wrong_word_is_one_problem(word: str, code: str, names: list[str]) -> None:
    (line,) = refusal("experiment=quickstart", word, code=code)
    check_names(line, names)


def test_a_quoted_value_may_hold_what_the_grammar_would_stumble_over() -> None:
    assert validate(load(['data.root="/a=b, c"'])).data.root == "/a=b, c"


@pytest.mark.parametrize("section", ["optim", "data", "model"])
def test_a_whole_section_taken_out_is_told(section: str) -> None:
    lines = refusal("experiment=resnet34_hpo", f"~{section}")
    assert any(line.startswith(section) and "is missing from the config" in line for line in lines)


def test_every_mistake_is_told_at_once_whoever_finds_it() -> None:
    lines = refusal(
        "experiment=quickstart",
        "data=nope",  # an unknown choice
        "model.hed=[3]",  # an unknown name
        "nogroup=x",  # an unknown group
        "optim.name=[a",  # bad syntax
        "trainer.max_epochs=1,2",  # a sweep without -m
        "data.batch_size=0",  # out of range
        "optim.schedule=linear",  # no choice of the field
        "monitor.metric=valid/loss",  # goes with mode min
        "tuner.space.optim.lr.high=0.0001",  # a range upside down
        "stray",  # no override at all
    )
    assert sorted(line.partition(":")[0] for line in lines) == [
        "data",
        "data.batch_size",
        "model.hed",
        "monitor.mode",
        "nogroup",
        "optim.name",
        "optim.schedule",
        "stray",
        "trainer.max_epochs",
        "tuner.space.optim.lr",
    ]


def test_a_mistake_that_hydra_finds_does_not_hide_those_that_validation_finds() -> None:
    lines = refusal("optim.name=[a", "seed=-1", "data.mixup=0.5")
    assert [line.partition(":")[0] for line in lines] == ["optim.name", "seed", "data.mixup"]


def test_the_last_of_two_words_for_one_path_counts() -> None:
    assert validate(load(["optim.lr=0.1", "optim.lr=0.2"])).optim.lr == 0.2
