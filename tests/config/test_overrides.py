"""The words of the command line: what Hydra would refuse in its own way is told like everything
else, all at once."""

from __future__ import annotations

import pytest

from breedlab.config import validate
from breedlab.config.compose import load
from breedlab.errors import ConfigError


def refusal(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        validate(load([*words]))
    title, *lines = str(error.value).splitlines()
    assert title == ("config: 1 problem" if len(lines) == 1 else f"config: {len(lines)} problems")
    return [line.strip() for line in lines]


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("optim.lrr=0.1", "optim.lrr: unknown name; did you mean optim.lr?"),
        ("lr=0.1", "lr: unknown name; did you mean optim.lr?"),
        ("nothing_like_it=1", "nothing_like_it: unknown name"),
        (
            "data=dog_breed",
            "data: got 'dog_breed'; expected one of dog_breeds, image_folder, multi_label, sample;",
        ),
        (
            "experiment=quikstart",
            "experiment: got 'quikstart'; expected one of auto, quickstart, resnet34",
        ),
        ("experiment=", "experiment: got ''; expected one of auto, quickstart, resnet34"),
        ("quickstart", "quickstart: is not a valid override; expected path=value"),
        ("optim.name=[adam", "optim.name: '[adam' cannot be read"),
        ("optim.lr=0.1,0.2", "optim.lr: 0.1,0.2 is several values; add -m for a run each"),
        ("data.root=cats,dogs", """quote a name that has a comma: 'data.root="cats,dogs"'"""),
        ("model.head=512,256", "or write a list: [512,256]"),
        (
            "trainer.max_epochs=choice(1,2)",
            "trainer.max_epochs: choice(1,2) is several values; add -m",
        ),
        ("+optim.nesterov=true", "optim.nesterov: unknown name"),
        (
            "optim.lr=${nowhere}",
            "optim.lr: got '${nowhere}'; Interpolation key 'nowhere' not found",
        ),
        ("data=image_folder", "data.root: has no value; give it one: data.root=..."),
        # a section that the experiment has as null
        ("data.archive.url=https://x.org/a.zip", "null"),
    ],
)
def test_one_wrong_word_is_one_problem(word: str, line: str) -> None:
    (found,) = refusal("experiment=quickstart", word)
    assert line in found


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
