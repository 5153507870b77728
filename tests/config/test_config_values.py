"""One value at a time: types, ranges, choices, unknown names, missing values; and `replace`."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from codes import Names, check_names, raises_code
from pydantic import ValidationError

from breedlab.config import Config, replace, validate
from breedlab.config.validate import Tree

Accept = Callable[[dict[str, Any]], Config]
Refuse = Callable[..., list[str]]

# path, value, what the message names: what was given, and what is allowed
WRONG = [
    ("optim.lr", "fast", "'fast'"),
    ("optim.lr", 0, "0"),
    ("optim.lr", True, "True"),
    ("optim.lr", None, "None"),
    ("optim.lr", float("nan"), ("nan", "finite")),
    ("optim.lr", float("inf"), ("inf", "finite")),
    ("optim.lr", [0.1, 0.2], "[0.1, 0.2]"),
    ("optim.name", "lion", ("'lion'", "adam, adamw, sgd")),
    (
        "optim.schedule",
        "cosin",
        ("cosine?", "constant, cosine, one_cycle"),
    ),
    ("optim.layer_decay", 1.1, ("1.1", "1")),
    ("optim.label_smoothing", 1.0, ("1.0", "1")),
    ("seed", 1.5, ("1.5", "whole number")),
    ("seed", -1, ("-1", "0")),
    ("seed", 2**32, "4294967296"),
    ("name", "a/b", ("'a/b'", "letters")),
    ("name", "", ("''", "letters")),
    ("monitor.metric", "valid/los", "valid/loss?"),
    ("cache.mode", "on", ("'on'", "auto, off")),
    ("cache.max_gb", 0, "0"),
    ("model.head", 512, ("512", "list")),
    ("model.head", [512, 0], ("0", "1")),
    ("model.dropout", 1, "1"),
    ("model.freeze", "", "''"),
    ("data.batch_size", 0, ("0", "1")),
    ("data.batch_size", 10_000, ("10000", "8192")),
    ("data.batch_size", 32.0, ("32.0", "whole number")),
    ("data.batch_size", "32", ("'32'", "whole number")),
    ("data.image_size", 8, ("8", "16", "auto")),
    ("data.image_size", "big", ("'big'", "auto", "whole number")),
    ("data.root", "", "''"),
    ("data.mean", [0.5, 0.5], "[0.5, 0.5]"),
    ("data.std", [0.2, 0.2, 0.0], ("0.0", "0")),
    ("data.augment", "random", "none, basic, trivial, randaug"),
    ("data.valid_fraction", 0, "0"),
    ("data.num_workers", -1, ("-1", "0", "auto")),
    (
        "data.sample",
        {"classes": 1, "train": 1, "valid": 1, "test": 1, "size": 64, "seed": 0},
        "2",
    ),
    ("trainer.compile", 1, ("1", "true")),
    ("trainer.patience", 0, ("0", "1")),
    ("trainer.gradient_clip", 0.0, ("0.0", "0")),
    ("trainer.precision", "fp16", "auto, fp32, bf16"),
    ("tuner.strategy", "bayesan", "bayesian?"),
    ("tuner.parallel", 0, ("0", "1")),
    ("tuner.space", None, ("None", "mapping")),
    ("optim", None, ("None", "mapping")),
    (
        "backend.name",
        "sagemakr",
        ("'sagemakr'", "sagemaker?", "local, sagemaker"),
    ),
    ("backend.wait", "yes", ("'yes'", "true")),
    ("serving.engine", "onnx", ("'onnx'", "auto, eager, openvino")),
    ("resume", 3, ("3", "string")),
]


@pytest.mark.parametrize(("path", "value", "names"), WRONG, ids=lambda part: str(part)[:30])
def test_a_wrong_value_is_refused_with_its_path_what_was_given_and_what_is_allowed(
    path: str, value: Any, names: Names, refuse: Refuse
) -> None:
    (line,) = refuse({path: value}, "BL103")
    assert line.startswith(path)
    check_names(line, names)
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
    ("path", "nearest"),
    [
        ("optim.lrr", "optim.lr?"),
        ("optim.learning_rate", "optim.lr?"),
        ("data.batchsize", "data.batch_size?"),
        ("trainer.epochs", "trainer.max_epochs?"),
        ("sead", "seed?"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_valid_one(
    path: str, nearest: str, refuse: Refuse
) -> None:
    (line,) = refuse({path: 1}, "BL101")
    assert line.startswith(f"{path}: ") and line.endswith(nearest)


@pytest.mark.parametrize(
    "path", ["name", "data.root", "model.name", "cache.dir", "data.batch_size", "optim.lr"]
)
def test_a_value_left_open_is_asked_for(path: str, refuse: Refuse) -> None:
    lines = refuse({path: "???"}, "BL102")
    assert any(line.startswith(f"{path}: ") and f"{path}=..." in line for line in lines)


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
    ("values", "code", "names"),
    [
        ({"optim.lr": -1.0}, "BL103", ("optim.lr: ", "-1.0")),
        ({"optim.lrr": 0.1}, "BL101", ("optim.lrr: ", "optim.lr?")),
        ({"data.augment": "basic"}, "BL104", ("data.augment: ", "'basic'", "cache.views=1")),
    ],
)
def test_replace_refuses_what_validate_would(
    values: dict[str, Any], code: str, names: Names, accept: Accept
) -> None:
    config = accept({})
    with raises_code(code, names=names):
        replace(config, values)
