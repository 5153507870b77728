"""`tuner.space`: every way to write it, and everything that it may not say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from codes import Names, check_names, raises_code

from breedlab.config import Config, search_space, validate
from breedlab.config.compose import load
from breedlab.config.space import Choices, Range, grid_points, read_dimension

Accept = Callable[[dict[str, Any]], Config]
Refuse = Callable[..., list[str]]


def test_nested_and_dotted_paths_mean_the_same_in_the_order_given(accept: Accept) -> None:
    lr, sizes = {"low": 0.001, "high": 0.1}, [16, 32]
    nested = search_space(
        accept({"tuner.space": {"optim": {"lr": lr}, "data": {"batch_size": sizes}}})
    )
    dotted = search_space(accept({"tuner.space": {"optim.lr": lr, "data.batch_size": sizes}}))
    assert nested == dotted == {"optim.lr": Range(0.001, 0.1), "data.batch_size": Choices((16, 32))}
    assert list(nested) == list(dotted) == ["optim.lr", "data.batch_size"]


@pytest.mark.parametrize(
    ("path", "given", "dimension"),
    [
        ("optim.name", ["adam", "sgd"], Choices(("adam", "sgd"))),
        ("optim.name", {"choices": ["adam", "sgd"]}, Choices(("adam", "sgd"))),
        ("optim.lr", {"low": 0.001, "high": 0.1, "log": True}, Range(0.001, 0.1, log=True)),
        ("model.dropout", {"low": 0, "high": 0.5, "step": 0.1}, Range(0, 0.5, step=0.1)),
        ("data.batch_size", {"low": 16, "high": 64, "step": 16}, Range(16, 64, step=16)),
        ("data.batch_size", {"low": 16, "high": 64, "log": True}, Range(16, 64, log=True)),
        ("model.head", [[512], [256, 128]], Choices(((512,), (256, 128)))),
        ("model.head", {"choices": [[], [256, 128]]}, Choices(((), (256, 128)))),
        ("trainer.gradient_clip", [None, 1.0], Choices((None, 1.0))),
    ],
)
def test_a_dimension_is_read(
    path: str, given: Any, dimension: Choices | Range, accept: Accept
) -> None:
    assert search_space(accept({"tuner.space": {path: given}})) == {path: dimension}


@pytest.mark.parametrize(
    ("path", "given", "integer"),
    [
        ("data.mixup", {"low": 0, "high": 1}, False),
        ("optim.warmup_epochs", {"low": 0, "high": 2}, False),
        ("trainer.gradient_clip", {"low": 1, "high": 5}, False),
        ("data.batch_size", {"low": 16, "high": 64}, True),
        ("data.batch_size", {"low": 16.0, "high": 64.0, "step": 16.0}, True),
    ],
)
def test_a_range_is_of_integers_if_its_field_is_however_it_is_typed(
    path: str, given: Any, integer: bool
) -> None:
    dimension = read_dimension(path, given)
    assert isinstance(dimension, Range) and dimension.integer is integer
    assert {type(end) for end in dimension.probes()} == {int if integer else float}


@pytest.mark.parametrize(
    ("path", "given", "names"),
    [
        ("optim.lr", 0.1, ("0.1", "list")),
        ("optim.lr", [], "[]"),
        ("optim.lr", [0.1, 0.2, 0.1], "[0.1, 0.2, 0.1]"),
        ("model.head", [[64], [64]], "[[64], [64]]"),
        (
            "optim.lr",
            {"low": 0.1},
            ("{'low': 0.1}", "list"),
        ),
        (
            "optim.lr",
            {"low": 0.1, "high": 1, "by": 2},
            ("'by'", "low", "high"),
        ),
        ("optim.lr", {"low": 0.1, "high": 0.01}, ("low", "high")),
        ("optim.lr", {"low": 0.1, "high": 0.1}, ("low", "high")),
        ("optim.lr", {"low": 0.0001, "high": 0.01, "step": 0.1}, "0.0099"),
        ("optim.lr", {"low": "a", "high": 0.1}, (".low: ", "'a'")),
        ("optim.lr", {"low": 0.1, "high": float("inf")}, (".high: ", "inf")),
        ("optim.lr", {"low": 0.1, "high": True}, (".high: ", "True")),
        (
            "optim.weight_decay",
            {"low": 0, "high": 1, "log": True},
            (".low: ", "0"),
        ),
        (
            "optim.lr",
            {"low": 0.1, "high": 1, "log": "yes"},
            (".log: ", "'yes'"),
        ),
        (
            "optim.lr",
            {"low": 0.1, "high": 1, "step": 0},
            (".step: ", "0"),
        ),
        ("optim.lr", {"low": 0.1, "high": 1, "step": 0.1, "log": True}, (".step: ", "0.1")),
        # what the field itself would refuse
        ("model.dropout", {"low": 0.0, "high": 1.5}, ("1.5", "1")),
        ("model.dropout", [0.1, 1.5], ("1.5", "1")),
        ("data.batch_size", {"low": 16.0, "high": 64.5}, "64.5"),
        ("optim.name", ["adam", "lion"], ("'lion'", "adam, adamw, sgd")),
        ("model.head", [[512], [256, 0]], ("0", "1")),
        # what goes with nothing else
        ("data.augment", ["none", "basic"], ("'basic'", "cache.views=1")),
    ],
    ids=lambda part: str(part)[:40],
)
def test_a_space_that_cannot_work_is_refused_where_it_is_wrong(
    path: str, given: Any, names: Names, refuse: Refuse
) -> None:
    lines = refuse({"tuner.space": {path: given}}, "BL105")
    assert all(line.startswith(f"tuner.space.{path}") for line in lines)
    check_names("\n".join(lines), names)


@pytest.mark.parametrize(
    ("path", "given", "nearest"),
    [
        ("optim.lrr", [0.1], "optim.lr?"),
        ("optim.learning_speed", [0.1], ""),
        ("seed", [1, 2], ""),
        ("data.root", ["a", "b"], ""),
        ("lr", [0.1], "optim.lr?"),
    ],
)
def test_what_no_search_may_vary_is_refused_with_the_nearest_that_one_may(
    path: str, given: Any, nearest: str, refuse: Refuse
) -> None:
    (line,) = refuse({"tuner.space": {path: given}}, "BL117")
    assert line.startswith(f"tuner.space.{path}: ") and line.endswith(nearest)


def test_a_choice_that_contradicts_another_field_names_both(refuse: Refuse) -> None:
    (line,) = refuse(
        {"tuner.space": {"optim.schedule": ["cosine", "one_cycle"]}, "optim.warmup_epochs": 1.0}
    )
    assert line.startswith(
        "tuner.space.optim.schedule: 'one_cycle' does not go with optim.warmup_epochs"
    )


def test_a_path_given_nested_and_dotted_is_refused(refuse: Refuse) -> None:
    (line,) = refuse({"tuner.space": {"optim": {"lr": [0.1, 0.2]}, "optim.lr": [0.3, 0.4]}})
    assert (
        line == "tuner.space.optim.lr: is given twice, once nested and once dotted; expected once"
    )


def test_null_takes_an_inherited_path_out(accept: Accept) -> None:
    assert list(search_space(accept({"tuner.space.data.batch_size": None}))) == ["optim.lr"]
    assert list(search_space(accept({"tuner.space.data": None}))) == ["optim.lr"]


def test_a_space_that_nothing_searches_is_not_checked(accept: Accept) -> None:
    accept({"tuner.strategy": "none", "tuner.space": {"optim.lr": {"low": 9, "high": 1}}})


def test_a_grid_refuses_each_continuous_range(refuse: Refuse) -> None:
    ranges = {
        "optim.lr": {"low": 0.1, "high": 1},
        "data.batch_size": [1, 2],
        "model.dropout": {"low": 0, "high": 0.5},
    }
    lines = refuse({"tuner.strategy": "grid", "tuner.trials": None, "tuner.space": ranges})
    assert [line.partition(":")[0] for line in lines] == [
        "tuner.space.optim.lr",
        "tuner.space.model.dropout",
    ]
    assert all("is a continuous range; a grid takes a list" in line for line in lines)


def test_a_grid_has_every_combination_the_last_path_fastest(accept: Accept) -> None:
    space = {"model.head": [[512], [256, 128]], "optim.lr": [0.1, 0.2, 0.3]}
    points = grid_points(
        search_space(accept({"tuner.strategy": "grid", "tuner.trials": None, "tuner.space": space}))
    )
    assert len(points) == 6
    assert points[:2] == [
        {"model.head": (512,), "optim.lr": 0.1},
        {"model.head": (512,), "optim.lr": 0.2},
    ]


@pytest.mark.parametrize(
    ("word", "path", "dimension"),
    [
        ("tuner.space.optim.lr.high=0.05", "optim.lr", Range(0.0001, 0.05, log=True)),
        ("tuner.space.optim.lr={low:0.01,high:0.02}", "optim.lr", Range(0.01, 0.02)),
        ("tuner.space.data.batch_size=[8,24]", "data.batch_size", Choices((8, 24))),
        (
            "+tuner.space.model.head={choices:[[512],[256,128]]}",
            "model.head",
            Choices(((512,), (256, 128))),
        ),
        # a path that the experiment does not search, without knowing Hydra's plus
        ("tuner.space.model.dropout=[0.1,0.2]", "model.dropout", Choices((0.1, 0.2))),
        # a range in place of a list, and a list in place of a range
        ("tuner.space.optim.lr=[0.01,0.02]", "optim.lr", Choices((0.01, 0.02))),
        (
            "tuner.space.data.batch_size={low:16,high:64,step:16}",
            "data.batch_size",
            Range(16, 64, step=16),
        ),
    ],
)
def test_the_space_is_set_on_the_command_line(
    word: str, path: str, dimension: Choices | Range
) -> None:
    assert search_space(validate(load(["experiment=quickstart", word])))[path] == dimension


def test_a_path_is_taken_out_on_the_command_line() -> None:
    config = validate(load(["experiment=quickstart", "tuner.space.data.batch_size=null"]))
    assert list(search_space(config)) == ["optim.lr"]


@pytest.mark.parametrize(
    ("word", "code", "names"),
    [
        ("tuner.space.optim.lr.high=0.0001", "BL105", ("tuner.space.optim.lr: ", "low", "high")),
        ("tuner.space.optim.lr.high=fast", "BL105", ("tuner.space.optim.lr.high: ", "'fast'")),
        ("tuner.space.optim.lrr=[0.1]", "BL117", ("tuner.space.optim.lrr: ", "optim.lr?")),
        ("tuner.space.optim.lr.hihg=0.1", "BL105", ("tuner.space.optim.lr: ", "hihg")),
    ],
)
def test_a_mistake_in_the_space_on_the_command_line_is_told_like_any_other(
    word: str, code: str, names: Names
) -> None:
    with raises_code(code, names=names):
        validate(load(["experiment=quickstart", word]))
