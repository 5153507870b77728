"""What leaves as a hyperparameter comes back as the same value, whoever starts the job."""

from __future__ import annotations

import json
from typing import Any

import pytest
from codes import raises_code
from hypothesis import given
from hypothesis import strategies as st

from breedlab.backends.sagemaker.jobs.hyperparameters import (
    config_path,
    decode,
    encode,
    sagemaker_name,
)
from breedlab.config.validate import TUNABLE, known_paths
from breedlab.errors import ConfigError

segment = st.from_regex(r"[a-z][a-z0-9]{0,9}(_[a-z0-9]{1,9}){0,2}", fullmatch=True)
rate = st.floats(0, 1, exclude_max=True)
positive = st.floats(1e-300, 1e300)

# A strategy for every path that a search may vary: what is missing here fails the test below.
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "cache.views": st.integers(0, 64),
    "data.batch_size": st.integers(1, 8192),
    "data.augment": st.sampled_from(["none", "basic", "trivial", "randaug"]),
    "data.mixup": st.floats(0, 10),
    "data.cutmix": st.floats(0, 10),
    "data.class_weights": st.sampled_from(["none", "balanced"]),
    "data.sampling": st.sampled_from(["shuffled", "balanced"]),
    "model.head": st.lists(st.integers(1, 4096), max_size=4),
    "model.dropout": rate,
    "optim.name": st.sampled_from(["adam", "adamw", "sgd"]),
    "optim.lr": positive,
    "optim.weight_decay": st.floats(0, 1e300),
    "optim.momentum": rate,
    "optim.schedule": st.sampled_from(["constant", "cosine", "one_cycle"]),
    "optim.warmup_epochs": st.floats(0, 100) | st.integers(0, 100),
    "optim.layer_decay": st.floats(0, 1, exclude_min=True),
    "optim.label_smoothing": rate,
    "trainer.ema": rate,
    "trainer.gradient_clip": st.none() | positive,
    # No search varies these, yet a person may set them on a job.
    "data.image_size": st.just("auto") | st.integers(16, 2048),
    "optim.loss": st.just("cross_entropy"),
    "model.head_type": st.just("mlp"),
    "trainer.compile": st.booleans(),
    "trainer.patience": st.none() | st.integers(1, 1000),
    "profiler.rules.io_bottleneck.share": st.floats(0, 1),
}


@given(st.lists(segment, min_size=1, max_size=5).map(".".join))
def test_a_name_is_its_path_and_back(path: str) -> None:
    name = sagemaker_name(path)
    assert "." not in name and config_path(name) == path


def test_every_path_of_the_config_has_a_name_of_its_own() -> None:
    names = [sagemaker_name(path) for path in known_paths()]
    assert len(set(names)) == len(names)
    assert [config_path(name) for name in names] == known_paths()


@pytest.mark.parametrize(
    "path", ["optim._lr", "optim.l__r", "optim.lr'", "optim-lr", "", "a" * 256]
)
def test_a_path_that_would_not_come_back_is_refused(path: str) -> None:
    with raises_code("BL117"):
        sagemaker_name(path)


def test_every_path_that_a_search_may_vary_is_tried() -> None:
    assert set(TUNABLE) <= set(VALUES)


@given(st.data())
def test_a_value_comes_back_from_every_form_it_arrives_in(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(VALUES)))
    value = data.draw(VALUES[path])
    forms = [
        value,  # what the toolkit reads from a JSON hyperparameter
        encode(value),  # what SageMaker carries
        # Python's own words: True, None, 1e-05
        encode(value) if isinstance(value, str) else str(value),
    ]
    for form in forms:
        traveled = json.loads(json.dumps({sagemaker_name(path): form}))
        back = decode(traveled)
        assert back == {path: value} and type(back[path]) in (type(value), float), form


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"data__batch_size": 32}, 32),
        ({"data__batch_size": "32"}, 32),
        ({"data__batch_size": "3.2e1"}, 32),
        ({"data__batch_size": 32.0}, 32),
        ({"data__image_size": "64"}, 64),
        ({"optim__lr": "1E-3"}, 0.001),
        ({"optim__lr": 1}, 1.0),
        ({"trainer__compile": "True"}, True),
        ({"trainer__compile": "false"}, False),
        ({"trainer__gradient_clip": "None"}, None),
        ({"model__head": "[512, 256]"}, [512, 256]),
        ({"model__head": []}, []),
        ({"optim__name": '"sgd"'}, "sgd"),
        ({"name": 42}, "42"),
        ({"cache__mode": False}, "off"),
    ],
)
def test_the_field_says_what_a_value_is(given: dict[str, Any], read: Any) -> None:
    (value,) = decode(given).values()
    assert value == read and type(value) is type(read)


def test_names_of_sagemaker_and_its_sdk_are_none_of_ours() -> None:
    own = {
        "sagemaker_program": "entry/train.py",
        "sagemaker_instance_type": "x",
        "_tuning_objective_metric": "valid/f1",
    }
    assert decode({**own, "seed": "3"}) == {"seed": 3}


def test_everything_wrong_is_told_at_once_by_the_name_that_was_given() -> None:
    wrong = {
        "optim__ler": 1,
        "optim.lr": 0.1,
        "optim": 2,
        "data__batch_size": "3.5",
        "model__head": "[1,-2]",
        "trainer__compile": "yes",
        "optim__name": "adm",
        "trainer__max_epochs": True,
        "optim__momentum": "NaN",
    }
    with pytest.raises(ConfigError) as raised:
        decode(wrong)
    told = str(raised.value)
    assert told.startswith("hyperparameters: 9 problems")
    for line in (
        "optim__ler: unknown name; did you mean optim__lr?",
        "optim.lr: SageMaker's names have no dots; did you mean optim__lr?",
        "optim: is a group of values; name one of them, such as optim__name",
        "data__batch_size: got 3.5; expected a whole number",
        "model__head.1: got -2; expected a number of at least 1",
        "trainer__compile: got 'yes'; expected true or false",
        "optim__name: got 'adm'; expected one of adam, adamw, sgd; did you mean adam?",
        "trainer__max_epochs: got True; expected a whole number",
        "optim__momentum: got nan; expected a finite number",
    ):
        assert line in told
