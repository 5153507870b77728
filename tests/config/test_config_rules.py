"""Rules across fields: each refuses what contradicts itself, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from codes import check_names

from breedlab.config import Config, rules
from breedlab.config.rules import RULES

ARCHIVE = {
    "url": "https://x.org/a.zip",
    "bytes": 1,
    "folder": "a",
    "classes": 2,
    "train": 2,
    "valid": 2,
    "test": 2,
}
LIVE = {"model.freeze": "none", "data.augment": "basic"}
GRID = {"tuner.strategy": "grid", "tuner.trials": None}
LIST = {"optim": {"lr": [0.1, 0.2]}}
PLANNED = {"backend.name": "sagemaker", "backend.trials": "job_each", "dry_run": True}


class Case(NamedTuple):
    """What a rule refuses, what it names, and the nearest thing that it accepts."""

    rule: str
    wrong: dict[str, Any]
    names: list[str]
    right: dict[str, Any]
    code: str = "BL104"


AUTO = {
    "tuner.strategy": "auto",
    "tuner.trials": None,
    "tuner.minutes": 10,
    "tuner.parallel": 1,
    "model.freeze": "backbone",
    "tuner.space": {
        "model.name": ["resnet18", "resnet34"],
        "model.weights": ["none", "IMAGENET1K_V1"],
    },
}

SEVERAL = {"data.multi_label": True, "monitor.metric": "valid/map"}
SPACE = {"tuner.space": {"optim.lr": [0.1, 0.2]}}

CASES = [
    Case(
        "backbone_is_known",
        {"model.name": "resnet43", "model.weights": "none"},
        ["model.name: ", "'resnet43'", "resnet34?"],
        {"model.name": "resnet34", "model.weights": "none"},
        "BL120",
    ),
    Case(
        "backbone_is_known",
        {"model.name": "resnet34", "model.weights": "IMAGENET"},
        ["model.weights: ", "'IMAGENET'"],
        {"model.name": "resnet34", "model.weights": "IMAGENET1K_V1"},
        "BL120",
    ),
    Case(
        "backbone_is_known",
        {"model.name": "resnet34", "model.weights": "mine"},
        ["model.weights: ", "'mine'"],
        {"model.name": "resnet34", "model.weights": "none"},
        "BL120",
    ),
    Case(
        "backbone_is_known",
        {"model.name": "resnet34", "model.weights": "/nowhere/mine.safetensors"},
        ["model.weights: ", "/nowhere/mine.safetensors"],
        {"model.name": "resnet34", "model.weights": "DEFAULT"},
        "BL120",
    ),
    Case(
        "mode_suits_metric",
        {"monitor.metric": "valid/loss"},
        ["monitor.mode: ", "'max'", "'min'", "valid/loss"],
        {"monitor.metric": "valid/loss", "monitor.mode": "min"},
    ),
    Case(
        "mode_suits_metric",
        {"monitor.mode": "min"},
        ["monitor.mode: ", "'min'", "'max'", "valid/top1"],
        {"monitor.metric": "valid/ece", "monitor.mode": "min"},
    ),
    Case(
        "one_source",
        {"data.archive": ARCHIVE},
        ["data.archive: ", "data.sample"],
        {"data.archive": ARCHIVE, "data.sample": None},
    ),
    Case(
        "splits_leave_training_images",
        {"data.valid_fraction": 0.4, "data.test_fraction": 0.6},
        ["data.test_fraction: ", "data.valid_fraction", "1"],
        {"data.valid_fraction": 0.4, "data.test_fraction": 0.5},
    ),
    Case(
        "crop_fits_resize",
        {"data.image_size": 64, "data.resize": 63},
        ["data.resize: ", "63", "data.image_size", "64"],
        {"data.image_size": 64, "data.resize": 64},
    ),
    Case(
        "views_suit_augmentation",
        {"data.augment": "basic"},
        ["data.augment: ", "'basic'", "cache.views=1"],
        {"data.augment": "basic", "cache.views": 2},
    ),
    Case(
        "views_suit_augmentation",
        {"cache.views": 2},
        ["cache.views: ", "2", "1", "data.augment=none"],
        {"cache.views": 1},
    ),
    Case(
        "views_suit_augmentation",
        {"cache.views": 2, "model.freeze": "none"},
        ["cache.views: ", "2", "1", "model.freeze=none"],
        {"data.augment": "basic", "model.freeze": "none"},
    ),
    Case(
        "views_suit_augmentation",
        {"data.mixup": 0.2},
        ["data.mixup: ", "0.2", "0", "model.freeze=none"],
        {"data.mixup": 0.2, "model.freeze": "none"},
    ),
    Case(
        "views_suit_augmentation",
        {"data.cutmix": 1.0},
        ["data.cutmix: ", "1", "0", "model.freeze=none"],
        {**SEVERAL, "data.cutmix": 1.0, "data.mixup": 0.2, "model.freeze": "none"},
    ),
    Case(
        "probe_has_something_to_unfreeze",
        {"trainer.probe_epochs": 2},
        ["trainer.probe_epochs: ", "2", "0", "model.freeze=backbone"],
        {"trainer.probe_epochs": 2, "model.freeze": "none"},
    ),
    Case(
        "balanced_once",
        {"data.class_weights": "balanced", "data.sampling": "balanced"},
        ["data.sampling: ", "data.sampling=balanced", "data.class_weights=balanced"],
        {"data.sampling": "balanced"},
    ),
    Case(
        "fine_tuning_follows_a_head",
        {"fine_tune.epochs": 2, "model.freeze": "none"},
        ["fine_tune.epochs: ", "2", "0", "model.freeze=none"],
        {"fine_tune.epochs": 2},
    ),
    Case(
        "fine_tuning_follows_a_head",
        {"fine_tune.epochs": 2, "fine_tune.freeze": "backbone"},
        ["fine_tune.freeze: ", "'backbone'"],
        {"fine_tune.epochs": 2, "fine_tune.freeze": "layer2"},
    ),
    Case(
        "views_suit_augmentation",
        {"cache.views": 0, "data.augment": "basic"},
        ["cache.views: ", "0", "cache.mode=off", "1"],
        {"cache.views": 0, "cache.mode": "off", "data.augment": "basic"},
    ),
    Case(
        "crops_are_cut",
        {"data.train_size": 128, "data.augment": "none"},
        ["data.train_size: ", "128", "data.augment=none"],
        {"data.train_size": 128, "data.augment": "basic", "cache.views": 2},
    ),
    Case(
        "crops_are_cut",
        {"data.start_size": 64, "model.freeze": "none"},
        ["data.start_size: ", "64", "data.augment=none"],
        {"data.start_size": 64, "model.freeze": "none", "data.augment": "basic"},
    ),
    Case(
        "crops_grow",
        {"data.start_size": 64, "data.augment": "basic", "cache.views": 2},
        ["data.start_size: ", "64", "model.freeze=none"],
        {"data.augment": "basic", "cache.views": 2},
    ),
    Case(
        "crops_grow",
        {**LIVE, "data.start_size": 160, "data.train_size": 128},
        ["data.start_size: ", "160", "128"],
        {**LIVE, "data.start_size": 96, "data.train_size": 128},
    ),
    Case(
        "fine_tuning_crops_grow",
        {"fine_tune.epochs": 2, "fine_tune.augment": "none", "fine_tune.train_size": 128},
        ["fine_tune.train_size: ", "128", "fine_tune.augment=none"],
        {"fine_tune.epochs": 2, "fine_tune.augment": "none", "fine_tune.start_size": "auto"},
    ),
    Case(
        "fine_tuning_crops_grow",
        {"fine_tune.epochs": 2, "fine_tune.start_size": 160, "fine_tune.train_size": 128},
        ["fine_tune.start_size: ", "160", "128"],
        {"fine_tune.epochs": 2, "fine_tune.start_size": 160, "fine_tune.train_size": "auto"},
    ),
    Case(
        "warmup_fits",
        {"optim.warmup_epochs": 12, "tuner.strategy": "none", "tuner.trials": None},
        ["optim.warmup_epochs: ", "12", "trainer.max_epochs"],
        {"optim.warmup_epochs": 11.5, "tuner.strategy": "none", "tuner.trials": None},
    ),
    Case(
        "warmup_fits",
        {"optim.warmup_epochs": 1.0, "optim.schedule": "one_cycle"},
        ["optim.warmup_epochs: ", "1", "0"],
        {"optim.warmup_epochs": 0.0, "optim.schedule": "one_cycle"},
    ),
    Case(
        "warmup_fits_trials",
        {"optim.warmup_epochs": 5.0},
        ["optim.warmup_epochs: ", "5", "tuner.max_epochs"],
        {"optim.warmup_epochs": 5.0, "tuner.strategy": "none", "tuner.trials": None},
    ),
    Case(
        "trials_are_counted",
        {"tuner.trials": None},
        ["tuner.trials: ", "'bayesian'"],
        {"tuner.trials": None, "tuner.strategy": "none"},
        "BL102",
    ),
    Case(
        "trials_are_counted",
        {"tuner.strategy": "grid", "tuner.space": LIST},
        ["tuner.trials: ", "20"],
        {"tuner.strategy": "grid", "tuner.space": LIST, "tuner.trials": None},
    ),
    Case(
        "trials_are_counted",
        {"tuner.strategy": "hyperband", "tuner.max_epochs": 1},
        ["tuner.max_epochs: ", "1", "2"],
        {"tuner.strategy": "hyperband", "tuner.max_epochs": 2},
    ),
    Case(
        "trials_are_counted",
        {"tuner.space": {}},
        ["tuner.space: "],
        {"tuner.space": {}, "tuner.strategy": "none"},
    ),
    Case(
        "values_are_given_once",
        {**GRID, "model.freeze": "none", "tuner.space": {"data.augment": ["none", "none"]}},
        ["tuner.space.data.augment: ", "once"],
        {**GRID, "model.freeze": "none", "tuner.space": {"data.augment": ["none", "basic"]}},
    ),
    Case(
        "grid_is_finite",
        {"tuner.strategy": "grid", "tuner.trials": None},
        ["tuner.space.optim.lr: ", "0.001,0.01"],
        {"tuner.strategy": "grid", "tuner.trials": None, "tuner.space": LIST},
    ),
    Case(
        "custom_tensors_are_named",
        {"debugger.collections.custom.train": 5},
        ["debugger.collections.custom.include: "],
        {"debugger.collections.custom.train": 5, "debugger.collections.custom.include": ["layer4"]},
    ),
    Case(
        "custom_tensors_are_named",
        {"debugger.collections.custom.include": ["("]},
        ["debugger.collections.custom.include.0: ", "'('"],
        {"debugger.collections.custom.include": ["a|b"]},
    ),
    Case(
        "engine_computes_precision",
        {"serving.engine": "eager", "serving.precision": "int8"},
        ["serving.precision: ", "'int8'"],
        {"serving.engine": "eager", "serving.precision": "bf16"},
    ),
    Case(
        "data_is_where_it_runs",
        {"data.root": "s3://bucket/photos"},
        ["data.root: ", "//bucket/photos"],
        {"data.root": "s3://bucket/photos", **PLANNED},
    ),
    Case(
        "data_is_where_it_runs",
        {"data.root": "s3://", **PLANNED},
        ["data.root: ", "'s3://'", "//bucket/folder"],
        {"data.root": "s3://bucket", **PLANNED},
    ),
    Case(
        "launch_has_a_place",
        {"backend.name": "sagemaker", "backend.bucket": "photos"},
        ["backend.role: "],
        {"backend.name": "sagemaker", "backend.bucket": "photos", "backend.role": "Trainer"},
        "BL102",
    ),
    Case(
        "launch_has_a_place",
        {"backend.name": "sagemaker", "backend.role": "Trainer"},
        ["backend.bucket: "],
        PLANNED,
        "BL102",
    ),
    Case(
        "search_suits_backend",
        {"tuner.strategy": "hyperband", "tuner.early_stopping": True},
        ["tuner.early_stopping: "],
        {"tuner.strategy": "bayesian", "tuner.early_stopping": True},
    ),
    Case(
        "search_suits_backend",
        {"tuner.warm_start": ["parent"]},
        ["tuner.warm_start: ", "backend.trials=job_each"],
        {"tuner.warm_start": ["parent"], **PLANNED},
    ),
    Case(
        "search_suits_backend",
        {"tuner.warm_start": list("abcdef"), **PLANNED},
        ["tuner.warm_start: ", "6", "5"],
        {"tuner.warm_start": list("abcde"), **PLANNED},
    ),
    Case(
        "search_suits_backend",
        {"tuner.trials": 751, **PLANNED},
        ["tuner.trials: ", "751", "750"],
        {"tuner.trials": 751, "backend.limits.trials": 800, **PLANNED},
    ),
    Case(
        "search_suits_backend",
        {"tuner.parallel": 11, **PLANNED},
        ["tuner.parallel: ", "11", "10"],
        {"tuner.parallel": 11},
    ),
    Case(
        "search_suits_backend",
        {"tuner.space": {"optim": {"lr": {"low": 0.1, "high": 0.5, "step": 0.1}}}, **PLANNED},
        ["tuner.space.optim.lr.step: "],
        {"tuner.space": {"optim": {"lr": {"low": 0.1, "high": 0.5, "step": 0.1}}}},
    ),
    Case(
        "search_suits_backend",
        {"tuner.space": {"optim": {"lr": {"low": 1, "high": 5, "step": 1}}}, **PLANNED},
        ["tuner.space.optim.lr.step: "],
        {"tuner.space": {"data": {"batch_size": {"low": 1, "high": 5, "step": 1}}}, **PLANNED},
    ),
    Case(
        "machines_fit",
        {"backend.spot": True, "backend.keep_alive_minutes": 10, **PLANNED},
        ["backend.keep_alive_minutes: ", "0", "backend.spot=true"],
        {"backend.spot": True, **PLANNED},
    ),
    Case(
        "machines_fit",
        {"backend.max_wait_hours": 5.0, **PLANNED},
        ["backend.max_wait_hours: ", "backend.spot=true"],
        {"backend.max_wait_hours": 5.0, "backend.spot": True, **PLANNED},
    ),
    Case(
        "machines_fit",
        {"backend.vpc.subnets": ["subnet-1"], **PLANNED},
        ["backend.vpc.security_groups: "],
        {"backend.vpc.subnets": ["subnet-1"], "backend.vpc.security_groups": ["sg-1"], **PLANNED},
    ),
    Case(
        "machines_fit",
        {"backend.environment": {"SM_HPS": "{}"}, **PLANNED},
        ["backend.environment.SM_HPS: "],
        {"backend.environment": {"TEAM": "vision"}, **PLANNED},
    ),
    Case(
        "pipeline_has_what_it_needs",
        {"backend.register_in": "dogs", **PLANNED},
        ["backend.register_in: ", "'dogs'", "backend.orchestrate=pipeline"],
        {"backend.register_in": "dogs", "backend.orchestrate": "pipeline", **PLANNED},
    ),
    Case(
        "isolation_needs_nothing",
        {"backend.network_isolation": True, "model.weights": "none", **PLANNED},
        ["backend.image: ", "'auto'"],
        {
            "backend.network_isolation": True,
            "model.weights": "none",
            "backend.image": "host/image:1",
            **PLANNED,
        },
    ),
    Case(
        "isolation_needs_nothing",
        {
            "backend.network_isolation": True,
            "backend.image": "host/image:1",
            "model.name": "resnet34",
            "model.weights": "IMAGENET1K_V1",
            **PLANNED,
        },
        ["model.weights: "],
        {
            "backend.network_isolation": True,
            "backend.image": "host/image:1",
            "model.weights": "none",
            **PLANNED,
        },
    ),
    Case(
        "solved_head_has_features",
        {"model.head_type": "logistic", "model.freeze": "none"},
        ["model.freeze: ", "'none'", "'backbone'", "model.head_type=logistic"],
        {"model.head_type": "logistic", "model.freeze": "backbone"},
    ),
    Case(
        "solved_head_has_features",
        {"model.head_type": "logistic", "model.freeze": "backbone", "cache.mode": "off"},
        ["cache.mode: ", "'off'", "'auto'", "model.head_type=logistic"],
        {"model.head_type": "logistic", "model.freeze": "backbone", "cache.mode": "auto"},
    ),
    Case(
        "folds_have_features",
        {"tuner.folds": 5, "model.freeze": "none"},
        ["tuner.folds: ", "5", "1", "model.freeze=backbone", "cache.mode=auto"],
        {"tuner.folds": 5, "model.freeze": "backbone"},
    ),
    Case(
        "folds_have_features",
        {**PLANNED, "tuner.folds": 5},
        ["tuner.folds: ", "5", "1"],
        {**PLANNED, "tuner.folds": 5, "backend.trials": "one_job"},
    ),
    Case(
        "auto_has_what_it_needs",
        {**AUTO, "tuner.minutes": None},
        ["tuner.minutes: ", "'auto'"],
        AUTO,
        "BL102",
    ),
    Case(
        "auto_has_what_it_needs",
        {**AUTO, "tuner.parallel": 2},
        ["tuner.parallel: ", "2", "1"],
        AUTO,
    ),
    Case(
        "auto_has_what_it_needs",
        {**AUTO, "model.freeze": "none"},
        ["tuner.strategy: ", "'auto'", "model.freeze=backbone"],
        AUTO,
    ),
    Case(
        "auto_has_what_it_needs",
        {
            **AUTO,
            "tuner.space": {
                "model.name": ["timm/resnet18", "timm/resnet34"],
                "model.weights": ["none"],
            },
        },
        ["tuner.space.model.name: ", "tuner.space.model.weights"],
        AUTO,
    ),
    Case(
        "fixes_are_here",
        {"data.fixes": "/nowhere/fixes.csv"},
        ["data.fixes: ", "/nowhere/fixes.csv", "fixes.csv"],
        {"data.fixes": __file__},
        "BL600",
    ),
    Case(
        "metric_suits_labels",
        {"monitor.metric": "valid/map"},
        [
            "monitor.metric: ",
            "'valid/map'",
            "valid/loss",
            "valid/top1",
            "valid/top5",
            "valid/f1",
            "valid/ece",
            "data.multi_label=false",
        ],
        {**SEVERAL},
    ),
    Case(
        "metric_suits_labels",
        {"data.multi_label": True},
        [
            "monitor.metric: ",
            "'valid/top1'",
            "valid/loss",
            "valid/map",
            "valid/f1",
            "valid/micro_f1",
            "valid/exact",
            "data.multi_label=true",
        ],
        {**SEVERAL, "monitor.metric": "valid/f1"},
    ),
    Case(
        "labels_name_a_file",
        {"data.labels": "multi"},
        ["data.labels: ", "'multi'", "data.root"],
        {"data.labels": "labels.csv"},
    ),
    *(
        Case("multi_label_suits", {**SEVERAL, **wrong}, names, {**SEVERAL, **right})
        for wrong, names, right in (
            (
                {"data.sampling": "balanced"},
                ["data.sampling: ", "'balanced'", "'shuffled'", "data.multi_label=true"],
                {"data.class_weights": "balanced"},
            ),
            (
                {"optim.loss": "logit_adjusted"},
                ["optim.loss: ", "'logit_adjusted'", "'cross_entropy'", "data.multi_label=true"],
                {"optim.label_smoothing": 0.1},
            ),
            (
                {"serving.unknown": "row"},
                ["serving.unknown: ", "'row'", "'field'", "'off'"],
                {"serving.unknown": "off"},
            ),
        )
    ),
]
BY_RULE = pytest.mark.parametrize(
    "case", CASES, ids=[f"{n} {case.rule}" for n, case in enumerate(CASES)]
)


def test_every_rule_has_a_case() -> None:
    # engine_is_installed depends on the environment: its test is below.
    assert {case.rule for case in CASES} == {rule.__name__ for rule in RULES} - {
        "engine_is_installed"
    }


@BY_RULE
def test_a_rule_refuses_a_contradiction(case: Case, refuse: Callable[..., list[str]]) -> None:
    (line,) = refuse(case.wrong, case.code)
    check_names(line, case.names)


@BY_RULE
def test_a_rule_accepts_what_agrees(case: Case, accept: Callable[[dict[str, Any]], Config]) -> None:
    accept(case.right)


def test_a_mistake_in_one_section_does_not_hide_a_contradiction_between_others(
    refuse: Callable[[dict[str, Any]], list[str]],
) -> None:
    lines = refuse({"optim.lr": "fast", "monitor.mode": "min", "data.mixup": 0.2})
    assert [line.partition(":")[0] for line in lines] == ["optim.lr", "monitor.mode", "data.mixup"]


def test_an_engine_that_is_not_installed_is_told_before_anything_runs(
    refuse: Callable[[dict[str, Any]], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "find_spec", lambda name: None)
    (line,) = refuse({"serving.engine": "openvino"})
    assert line.startswith("serving.engine: got 'openvino', which needs openvino and nncf")
    assert "pip install 'breedlab[engines]'" in line
    assert refuse({"serving.precision": "int8"})[0].startswith("serving.precision: got 'int8'")
