"""One value at a time: types, ranges, choices, unknown names, missing values; and `replace`."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from codes import raises_code
from pydantic import ValidationError

from breedlab.config import Config, replace, validate
from breedlab.config.validate import Tree
from breedlab.errors import ConfigError

Accept = Callable[[dict[str, Any]], Config]
Refuse = Callable[[dict[str, Any]], list[str]]

# path, value, what the message says of what was given and of what is allowed
WRONG = [
    ("optim.lr", "fast", "got 'fast'; expected a number"),
    ("optim.lr", 0, "got 0; expected a number greater than 0"),
    ("optim.lr", True, "got True; expected a number"),
    ("optim.lr", None, "got None; expected a number"),
    ("optim.lr", float("nan"), "got nan; expected a finite number"),
    ("optim.lr", float("inf"), "got inf; expected a finite number"),
    ("optim.lr", [0.1, 0.2], "got [0.1, 0.2]; expected a number"),
    ("optim.name", "lion", "got 'lion'; expected one of adam, adamw, sgd"),
    (
        "optim.schedule",
        "cosin",
        "expected one of constant, cosine, one_cycle; did you mean cosine?",
    ),
    ("optim.layer_decay", 1.1, "got 1.1; expected a number of at most 1"),
    ("optim.label_smoothing", 1.0, "got 1.0; expected a number less than 1"),
    ("seed", 1.5, "got 1.5; expected a whole number"),
    ("seed", -1, "got -1; expected a number of at least 0"),
    ("seed", 2**32, "got 4294967296; expected a number less than 4294967296"),
    ("name", "a/b", "got 'a/b'; expected letters, digits"),
    ("name", "", "got ''; expected letters, digits"),
    ("monitor.metric", "valid/los", "did you mean valid/loss?"),
    ("cache.mode", "on", "got 'on'; expected one of auto, off"),
    ("cache.max_gb", 0, "got 0; expected a number greater than 0"),
    ("model.head", 512, "got 512; expected a list"),
    ("model.head", [512, 0], "got 0; expected a number of at least 1"),
    ("model.dropout", 1, "got 1; expected a number less than 1"),
    ("model.freeze", "", "got ''; expected"),
    ("data.batch_size", 0, "got 0; expected a number of at least 1"),
    ("data.batch_size", 10_000, "got 10000; expected a number of at most 8192"),
    ("data.batch_size", 32.0, "got 32.0; expected a whole number"),
    ("data.batch_size", "32", "got '32'; expected a whole number"),
    ("data.image_size", 8, "got 8; expected auto or a number of at least 16"),
    ("data.image_size", "big", "got 'big'; expected auto or a whole number"),
    ("data.root", "", "got ''; expected"),
    ("data.mean", [0.5, 0.5], "got [0.5, 0.5]; expected"),
    ("data.std", [0.2, 0.2, 0.0], "got 0.0; expected a number greater than 0"),
    ("data.augment", "random", "expected one of none, basic, trivial, randaug"),
    ("data.valid_fraction", 0, "got 0; expected a number greater than 0"),
    ("data.num_workers", -1, "got -1; expected auto or a number of at least 0"),
    (
        "data.sample",
        {"classes": 1, "train": 1, "valid": 1, "test": 1, "size": 64, "seed": 0},
        "of at least 2",
    ),
    ("trainer.compile", 1, "got 1; expected true or false"),
    ("trainer.patience", 0, "got 0; expected a number of at least 1"),
    ("trainer.gradient_clip", 0.0, "got 0.0; expected a number greater than 0"),
    ("trainer.precision", "fp16", "expected one of auto, fp32, bf16"),
    ("tuner.strategy", "bayesan", "did you mean bayesian?"),
    ("tuner.parallel", 0, "got 0; expected a number of at least 1"),
    ("tuner.space", None, "got None; expected a mapping"),
    ("optim", None, "got None; expected a mapping"),
    (
        "backend.name",
        "sagemakr",
        "got 'sagemakr'; expected one of local, sagemaker; did you mean sagemaker?",
    ),
    ("backend.wait", "yes", "got 'yes'; expected true or false"),
    ("serving.engine", "onnx", "got 'onnx'; expected one of auto, eager, openvino"),
    ("resume", 3, "got 3; expected a string"),
]


@pytest.mark.parametrize(("path", "value", "says"), WRONG, ids=lambda part: str(part)[:30])
def test_a_wrong_value_is_refused_with_its_path_what_was_given_and_what_is_allowed(
    path: str, value: Any, says: str, refuse: Refuse
) -> None:
    (line,) = refuse({path: value})
    assert line.startswith(path)
    assert says in line
    # pydantic's own words are about its types, not about the person's config
    assert "should" not in line
    assert "validation" not in line


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("optim.lr", 1),
        ("optim.layer_decay", 1.0),
        ("seed", 2**32 - 1),
        ("cache.mode", "off"),
        ("cache.mode", False),  # what YAML makes of a bare `off`
        ("model.head", []),
        ("data.image_size", "auto"),
        ("data.mean", [0.5, 0.5, 0.5]),
        ("data.num_workers", 0),
        ("trainer.patience", None),
        ("trainer.patience", 1),
        ("trainer.gradient_clip", 1),
        ("data.sample", None),
    ],
)
def test_the_ends_of_ranges_and_special_words_are_accepted(
    path: str, value: Any, accept: Accept
) -> None:
    accept({path: value})


def test_a_bare_off_means_the_word(accept: Accept) -> None:
    assert accept({"cache.mode": False}).cache.mode == "off"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("optim.lrr", "did you mean optim.lr?"),
        ("optim.learning_rate", "unknown name"),
        ("data.batchsize", "did you mean data.batch_size?"),
        ("trainer.epochs", "did you mean trainer.max_epochs?"),
        ("sead", "did you mean seed?"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_valid_one(
    path: str, says: str, refuse: Refuse
) -> None:
    (line,) = refuse({path: 1})
    assert line.startswith(f"{path}: unknown name")
    assert says in line


@pytest.mark.parametrize(
    "path", ["name", "data.root", "model.name", "cache.dir", "data.batch_size", "optim.lr"]
)
def test_a_value_left_open_is_asked_for(path: str, refuse: Refuse) -> None:
    lines = refuse({path: "???"})
    assert f"{path}: has no value; give it one: {path}=..." in lines


def test_a_name_missing_from_the_files_is_told(quickstart: Tree) -> None:
    tree = deepcopy(quickstart)
    del tree["cache"]["views"]
    with raises_code("BL102", names="cache.views"):
        validate(tree)


def test_a_section_missing_from_the_files_is_told(quickstart: Tree) -> None:
    tree = deepcopy(quickstart)
    del tree["optim"]
    with raises_code("BL102", names="optim"):
        validate(tree)


def test_six_mistakes_in_six_sections_are_told_at_once(refuse: Refuse) -> None:
    lines = refuse(
        {
            "seed": -1,
            "data.batch_size": 0,
            "optim.lrr": 0.1,
            "trainer.precision": "fp16",
            "monitor.metric": "valid/loss",  # a lower loss is better, but the mode stays max
            "tuner.space": {"model.dropout": [0.1, 1.5]},
        }
    )
    assert [line.partition(":")[0] for line in sorted(lines)] == [
        "data.batch_size",
        "monitor.mode",
        "optim.lrr",
        "seed",
        "trainer.precision",
        "tuner.space.model.dropout",
    ]


def test_a_config_cannot_be_changed(accept: Accept) -> None:
    config = accept({})
    with pytest.raises(ValidationError):
        config.optim.lr = 0.5  # type: ignore[misc]


def test_what_a_config_dumps_validates_to_the_same(accept: Accept) -> None:
    config = accept({"cache.mode": False, "model.head": [64]})
    assert validate(config.model_dump()) == config


def test_replace_gives_a_changed_config_and_leaves_the_old_alone(accept: Accept) -> None:
    config = accept({})
    before = config.model_dump()
    changed = replace(config, {"optim.lr": 0.5, "data.batch_size": 8, "model.head": (64, 32)})
    assert (changed.optim.lr, changed.data.batch_size, changed.model.head) == (0.5, 8, [64, 32])
    assert config.model_dump() == before
    assert changed.trainer == config.trainer


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"optim.lr": -1.0}, "optim.lr: got -1.0; expected a number greater than 0"),
        ({"optim.lrr": 0.1}, "optim.lrr: unknown name; did you mean optim.lr?"),
        ({"data.augment": "basic"}, "data.augment: got 'basic', never seen with cache.views=1"),
    ],
)
def test_replace_refuses_what_validate_would(
    values: dict[str, Any], says: str, accept: Accept
) -> None:
    config = accept({})
    with pytest.raises(ConfigError) as refusal:
        replace(config, values)
    assert says in str(refusal.value)
