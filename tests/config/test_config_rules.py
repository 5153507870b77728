"""Rules across fields: each refuses what contradicts itself, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from breedlab.config import Config
from breedlab.config.rules import RULES

ARCHIVE = {"url": "https://x.org/a.zip", "bytes": 1, "folder": "a", "classes": 2, "train": 2, "valid": 2, "test": 2}
LIST = {"optim": {"lr": [0.1, 0.2]}}


class Case(NamedTuple):
    """What a rule refuses, where and with which words, and the nearest thing that it accepts."""

    rule: str
    wrong: dict[str, Any]
    says: str
    right: dict[str, Any]


CASES = [
    Case(
        "backbone_is_known",
        {"model.name": "resnet43", "model.weights": "none"},
        "model.name: torchvision has no classifier 'resnet43'; did you mean resnet34?",
        {"model.name": "resnet34", "model.weights": "none"},
    ),
    Case(
        "backbone_is_known",
        {"model.name": "resnet34", "model.weights": "IMAGENET"},
        "model.weights: got 'IMAGENET'; expected one of DEFAULT, IMAGENET1K_V1, a .safetensors or .pth file, or none",
        {"model.name": "resnet34", "model.weights": "IMAGENET1K_V1"},
    ),
    Case(
        "backbone_is_known",
        {"model.name": "resnet34", "model.weights": "mine"},
        "model.weights: got 'mine'",
        {"model.name": "resnet34", "model.weights": "none"},
    ),
    Case(
        "backbone_is_known",
        {"model.name": "resnet34", "model.weights": "/nowhere/mine.safetensors"},
        "model.weights: /nowhere/mine.safetensors is not there",
        {"model.name": "resnet34", "model.weights": "DEFAULT"},
    ),
    Case(
        "mode_suits_metric",
        {"monitor.metric": "valid/loss"},
        "monitor.mode: got 'max'; expected 'min', since valid/loss is watched",
        {"monitor.metric": "valid/loss", "monitor.mode": "min"},
    ),
    Case(
        "mode_suits_metric",
        {"monitor.mode": "min"},
        "monitor.mode: got 'min'; expected 'max', since valid/top1 is watched",
        {"monitor.metric": "valid/ece", "monitor.mode": "min"},
    ),
    Case(
        "one_source",
        {"data.archive": ARCHIVE},
        "data.archive: given beside data.sample",
        {"data.archive": ARCHIVE, "data.sample": None},
    ),
    Case(
        "splits_leave_training_photos",
        {"data.valid_fraction": 0.4, "data.test_fraction": 0.6},
        "data.test_fraction: with data.valid_fraction makes 1; expected less than 1 together",
        {"data.valid_fraction": 0.4, "data.test_fraction": 0.5},
    ),
    Case(
        "crop_fits_resize",
        {"data.image_size": 64, "data.resize": 63},
        "data.resize: got 63; expected at least data.image_size (64)",
        {"data.image_size": 64, "data.resize": 64},
    ),
    Case(
        "views_suit_augmentation",
        {"data.augment": "basic"},
        "data.augment: got 'basic', never seen with cache.views=1",
        {"data.augment": "basic", "cache.views": 2},
    ),
    Case(
        "views_suit_augmentation",
        {"cache.views": 2},
        "cache.views: got 2; expected 1, since data.augment=none",
        {"cache.views": 1},
    ),
    Case(
        "views_suit_augmentation",
        {"cache.views": 2, "model.freeze": "none"},
        "cache.views: got 2; expected 1, since model.freeze=none caches nothing",
        {"data.augment": "basic", "model.freeze": "none"},
    ),
    Case(
        "views_suit_augmentation",
        {"data.mixup": 0.2},
        "data.mixup: got 0.2; expected 0, since mixing photos needs model.freeze=none",
        {"data.mixup": 0.2, "model.freeze": "none"},
    ),
    Case(
        "probe_has_something_to_unfreeze",
        {"trainer.probe_epochs": 2},
        "trainer.probe_epochs: got 2; expected 0, since model.freeze=backbone never unfreezes",
        {"trainer.probe_epochs": 2, "model.freeze": "none"},
    ),
    Case(
        "warmup_fits",
        {"optim.warmup_epochs": 12},
        "optim.warmup_epochs: got 12; expected less than trainer.max_epochs (12)",
        {"optim.warmup_epochs": 11.5},
    ),
    Case(
        "warmup_fits",
        {"optim.warmup_epochs": 1.0, "optim.schedule": "one_cycle"},
        "optim.warmup_epochs: got 1; expected 0, since one_cycle warms up by itself",
        {"optim.warmup_epochs": 0.0, "optim.schedule": "one_cycle"},
    ),
    Case(
        "trials_are_counted",
        {"tuner.trials": None},
        "tuner.trials: has no value; strategy 'bayesian' needs a number of trials",
        {"tuner.trials": None, "tuner.strategy": "none"},
    ),
    Case(
        "trials_are_counted",
        {"tuner.strategy": "grid", "tuner.space": LIST},
        "tuner.trials: got 20; expected null, since a grid runs every combination",
        {"tuner.strategy": "grid", "tuner.space": LIST, "tuner.trials": None},
    ),
    Case(
        "trials_are_counted",
        {"tuner.strategy": "hyperband", "tuner.max_epochs": 1},
        "tuner.max_epochs: got 1; expected at least 2, since hyperband stops trials between epochs",
        {"tuner.strategy": "hyperband", "tuner.max_epochs": 2},
    ),
    Case(
        "trials_are_counted",
        {"tuner.space": {}},
        "tuner.space: is empty; expected config paths with what each may be, or tuner=none",
        {"tuner.space": {}, "tuner.strategy": "none"},
    ),
    Case(
        "grid_is_finite",
        {"tuner.strategy": "grid", "tuner.trials": None},
        "tuner.space.optim.lr: is a continuous range; a grid takes a list, such as [0.001,0.01]",
        {"tuner.strategy": "grid", "tuner.trials": None, "tuner.space": LIST},
    ),
    Case(
        "custom_tensors_are_named",
        {"debugger.collections.custom.train": 5},
        "debugger.collections.custom.include: is empty; expected regular expressions on the names of tensors",
        {"debugger.collections.custom.train": 5, "debugger.collections.custom.include": ["layer4"]},
    ),
    Case(
        "custom_tensors_are_named",
        {"debugger.collections.custom.include": ["("]},
        "debugger.collections.custom.include.0: got '('; expected a regular expression",
        {"debugger.collections.custom.include": ["a|b"]},
    ),
]
BY_RULE = pytest.mark.parametrize("case", CASES, ids=[f"{n} {case.rule}" for n, case in enumerate(CASES)])


def test_every_rule_has_a_case() -> None:
    assert {case.rule for case in CASES} == {rule.__name__ for rule in RULES}


@BY_RULE
def test_a_rule_refuses_a_contradiction(case: Case, refuse: Callable[[dict[str, Any]], list[str]]) -> None:
    (line,) = refuse(case.wrong)
    assert case.says in line


@BY_RULE
def test_a_rule_accepts_what_agrees(case: Case, accept: Callable[[dict[str, Any]], Config]) -> None:
    accept(case.right)


def test_a_mistake_in_one_section_does_not_hide_a_contradiction_between_others(
    refuse: Callable[[dict[str, Any]], list[str]],
) -> None:
    lines = refuse({"optim.lr": "fast", "monitor.mode": "min", "data.mixup": 0.2})
    assert [line.partition(":")[0] for line in lines] == ["optim.lr", "monitor.mode", "data.mixup"]
