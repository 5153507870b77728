"""Rules across fields: each refuses what contradicts itself, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

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
LIST = {"optim": {"lr": [0.1, 0.2]}}
PLANNED = {"backend.name": "sagemaker", "backend.trials": "job_each", "dry_run": True}


class Case(NamedTuple):
    """What a rule refuses, where and with which words, and the nearest thing that it accepts."""

    rule: str
    wrong: dict[str, Any]
    says: str
    right: dict[str, Any]


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
        "model.name: torchvision has no classifier 'resnet43'; did you mean resnet34?",
        {"model.name": "resnet34", "model.weights": "none"},
    ),
    Case(
        "backbone_is_known",
        {"model.name": "resnet34", "model.weights": "IMAGENET"},
        "model.weights: got 'IMAGENET'; expected one of DEFAULT, IMAGENET1K_V1, a .safetensors or"
        " .pth file, a run, or none",
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
        "model.weights: /nowhere/mine.safetensors does not exist",
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
        "data.archive: given together with data.sample",
        {"data.archive": ARCHIVE, "data.sample": None},
    ),
    Case(
        "splits_leave_training_images",
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
        "data.mixup: got 0.2; expected 0, since mixing images needs model.freeze=none",
        {"data.mixup": 0.2, "model.freeze": "none"},
    ),
    Case(
        "views_suit_augmentation",
        {"data.cutmix": 1.0},
        "data.cutmix: got 1; expected 0, since mixing images needs model.freeze=none",
        {**SEVERAL, "data.cutmix": 1.0, "data.mixup": 0.2, "model.freeze": "none"},
    ),
    Case(
        "probe_has_something_to_unfreeze",
        {"trainer.probe_epochs": 2},
        "trainer.probe_epochs: got 2; expected 0, since model.freeze=backbone never unfreezes",
        {"trainer.probe_epochs": 2, "model.freeze": "none"},
    ),
    Case(
        "balanced_once",
        {"data.class_weights": "balanced", "data.sampling": "balanced"},
        "data.sampling: data.sampling=balanced with data.class_weights=balanced balances classes"
        " twice; expected one of them",
        {"data.sampling": "balanced"},
    ),
    Case(
        "fine_tuning_follows_a_head",
        {"fine_tune.epochs": 2, "model.freeze": "none"},
        "fine_tune.epochs: got 2; expected 0, since model.freeze=none trains all layers from the"
        " start",
        {"fine_tune.epochs": 2},
    ),
    Case(
        "fine_tuning_follows_a_head",
        {"fine_tune.epochs": 2, "fine_tune.freeze": "backbone"},
        "fine_tune.freeze: got 'backbone', which leaves nothing to fine-tune; expected auto, none,"
        " or a stage",
        {"fine_tune.epochs": 2, "fine_tune.freeze": "layer2"},
    ),
    Case(
        "views_suit_augmentation",
        {"cache.views": 0, "data.augment": "basic"},
        "cache.views: got 0, which gives each epoch new views; expected cache.mode=off as"
        " well, or 1 or more",
        {"cache.views": 0, "cache.mode": "off", "data.augment": "basic"},
    ),
    Case(
        "crops_are_cut",
        {"data.train_size": 128, "data.augment": "none"},
        "data.train_size: got 128 with data.augment=none, which cuts no crops; expected null, or an"
        " augmentation",
        {"data.train_size": 128, "data.augment": "basic", "cache.views": 2},
    ),
    Case(
        "warmup_fits",
        {"optim.warmup_epochs": 12, "tuner.strategy": "none", "tuner.trials": None},
        "optim.warmup_epochs: got 12; expected less than trainer.max_epochs (12)",
        {"optim.warmup_epochs": 11.5, "tuner.strategy": "none", "tuner.trials": None},
    ),
    Case(
        "warmup_fits",
        {"optim.warmup_epochs": 1.0, "optim.schedule": "one_cycle"},
        "optim.warmup_epochs: got 1; expected 0, since one_cycle warms up by itself",
        {"optim.warmup_epochs": 0.0, "optim.schedule": "one_cycle"},
    ),
    Case(
        "warmup_fits_trials",
        {"optim.warmup_epochs": 5.0},
        "optim.warmup_epochs: got 5; expected less than tuner.max_epochs (5), a trial's",
        {"optim.warmup_epochs": 5.0, "tuner.strategy": "none", "tuner.trials": None},
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
        "debugger.collections.custom.include: is empty; expected regular expressions on the names"
        " of tensors",
        {"debugger.collections.custom.train": 5, "debugger.collections.custom.include": ["layer4"]},
    ),
    Case(
        "custom_tensors_are_named",
        {"debugger.collections.custom.include": ["("]},
        "debugger.collections.custom.include.0: got '('; expected a regular expression",
        {"debugger.collections.custom.include": ["a|b"]},
    ),
    Case(
        "engine_computes_precision",
        {"serving.engine": "eager", "serving.precision": "int8"},
        "serving.precision: got 'int8', which is openvino's; expected auto, fp32 or bf16 with"
        " eager",
        {"serving.engine": "eager", "serving.precision": "bf16"},
    ),
    Case(
        "data_is_where_it_runs",
        {"data.root": "s3://bucket/photos"},
        "data.root: s3://bucket/photos is in S3; expected a folder here, or backend=sagemaker",
        {"data.root": "s3://bucket/photos", **PLANNED},
    ),
    Case(
        "data_is_where_it_runs",
        {"data.root": "s3://", **PLANNED},
        "data.root: got 's3://'; expected s3://bucket/folder",
        {"data.root": "s3://bucket", **PLANNED},
    ),
    Case(
        "launch_has_a_place",
        {"backend.name": "sagemaker", "backend.bucket": "photos"},
        "backend.role: has no value; a launch needs the execution role of the jobs, by ARN or name",
        {"backend.name": "sagemaker", "backend.bucket": "photos", "backend.role": "Trainer"},
    ),
    Case(
        "launch_has_a_place",
        {"backend.name": "sagemaker", "backend.role": "Trainer"},
        "backend.bucket: has no value; a launch needs a bucket in the jobs' region",
        PLANNED,
    ),
    Case(
        "search_suits_backend",
        {"tuner.strategy": "hyperband", "tuner.early_stopping": True},
        "tuner.early_stopping: got true; expected false, since hyperband stops trials by itself",
        {"tuner.strategy": "bayesian", "tuner.early_stopping": True},
    ),
    Case(
        "search_suits_backend",
        {"tuner.warm_start": ["parent"]},
        "tuner.warm_start: needs backend=sagemaker and backend.trials=job_each: parents are tuning"
        " jobs",
        {"tuner.warm_start": ["parent"], **PLANNED},
    ),
    Case(
        "search_suits_backend",
        {"tuner.warm_start": list("abcdef"), **PLANNED},
        "tuner.warm_start: has 6 parents; expected at most 5",
        {"tuner.warm_start": list("abcde"), **PLANNED},
    ),
    Case(
        "search_suits_backend",
        {"tuner.trials": 751, **PLANNED},
        "tuner.trials: got 751 trials; expected at most 750, the account's limit",
        {"tuner.trials": 751, "backend.limits.trials": 800, **PLANNED},
    ),
    Case(
        "search_suits_backend",
        {"tuner.parallel": 11, **PLANNED},
        "tuner.parallel: got 11; expected at most 10, the account's limit",
        {"tuner.parallel": 11},
    ),
    Case(
        "search_suits_backend",
        {"tuner.space": {"optim": {"lr": {"low": 0.1, "high": 0.5, "step": 0.1}}}, **PLANNED},
        "tuner.space.optim.lr.step: SageMaker's ranges have no steps; expected a list of the"
        " values",
        {"tuner.space": {"optim": {"lr": {"low": 0.1, "high": 0.5, "step": 0.1}}}},
    ),
    Case(
        "search_suits_backend",
        {"tuner.space": {"optim": {"lr": {"low": 1, "high": 5, "step": 1}}}, **PLANNED},
        "tuner.space.optim.lr.step: SageMaker's ranges have no steps; expected a list of the"
        " values",
        {"tuner.space": {"data": {"batch_size": {"low": 1, "high": 5, "step": 1}}}, **PLANNED},
    ),
    Case(
        "machines_fit",
        {"backend.spot": True, "backend.keep_alive_minutes": 10, **PLANNED},
        "backend.keep_alive_minutes: expected 0, since backend.spot=true leaves no instance warm",
        {"backend.spot": True, **PLANNED},
    ),
    Case(
        "machines_fit",
        {"backend.max_wait_hours": 5.0, **PLANNED},
        "backend.max_wait_hours: expected null, since only backend.spot=true waits for capacity",
        {"backend.max_wait_hours": 5.0, "backend.spot": True, **PLANNED},
    ),
    Case(
        "machines_fit",
        {"backend.vpc.subnets": ["subnet-1"], **PLANNED},
        "backend.vpc.security_groups: is empty; a VPC needs both subnets and security groups",
        {"backend.vpc.subnets": ["subnet-1"], "backend.vpc.security_groups": ["sg-1"], **PLANNED},
    ),
    Case(
        "machines_fit",
        {"backend.environment": {"SM_HPS": "{}"}, **PLANNED},
        "backend.environment.SM_HPS: is set by the job itself; choose another name",
        {"backend.environment": {"TEAM": "vision"}, **PLANNED},
    ),
    Case(
        "pipeline_has_what_it_needs",
        {"backend.register_in": "dogs", **PLANNED},
        "backend.register_in: got 'dogs'; expected null without backend.orchestrate=pipeline",
        {"backend.register_in": "dogs", "backend.orchestrate": "pipeline", **PLANNED},
    ),
    Case(
        "isolation_needs_nothing",
        {"backend.network_isolation": True, "model.weights": "none", **PLANNED},
        "backend.image: got 'auto'; expected the URI of an image that holds breedlab's packages",
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
        "model.weights: IMAGENET1K_V1 would be downloaded; expected a file, package:NAME or none",
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
        "model.freeze: got 'none'; expected 'backbone', since model.head_type=logistic is solved on"
        " a frozen",
        {"model.head_type": "logistic", "model.freeze": "backbone"},
    ),
    Case(
        "solved_head_has_features",
        {"model.head_type": "logistic", "model.freeze": "backbone", "cache.mode": "off"},
        "cache.mode: got 'off'; expected 'auto', since model.head_type=logistic is solved on cached"
        " features",
        {"model.head_type": "logistic", "model.freeze": "backbone", "cache.mode": "auto"},
    ),
    Case(
        "folds_have_features",
        {"tuner.folds": 5, "model.freeze": "none"},
        "tuner.folds: got 5, which cross-validates on cached features; expected 1, or"
        " model.freeze=backbone and cache.mode=auto",
        {"tuner.folds": 5, "model.freeze": "backbone"},
    ),
    Case(
        "folds_have_features",
        {**PLANNED, "tuner.folds": 5},
        "tuner.folds: got 5; expected 1 where each trial is a job",
        {**PLANNED, "tuner.folds": 5, "backend.trials": "one_job"},
    ),
    Case(
        "auto_has_what_it_needs",
        {**AUTO, "tuner.minutes": None},
        "tuner.minutes: has no value; strategy 'auto' needs a number of minutes",
        AUTO,
    ),
    Case(
        "auto_has_what_it_needs",
        {**AUTO, "tuner.parallel": 2},
        "tuner.parallel: got 2; expected 1 with auto, since its trials share their passes",
        AUTO,
    ),
    Case(
        "auto_has_what_it_needs",
        {**AUTO, "model.freeze": "none"},
        "tuner.strategy: got 'auto', which searches on cached features; expected"
        " model.freeze=backbone",
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
        "tuner.space.model.name: does not go with tuner.space.model.weights; expected lists of as"
        " many values",
        AUTO,
    ),
    Case(
        "fixes_are_here",
        {"data.fixes": "/nowhere/fixes.csv"},
        "data.fixes: /nowhere/fixes.csv does not exist; expected a run's fixes.csv, edited",
        {"data.fixes": __file__},
    ),
    Case(
        "metric_suits_labels",
        {"monitor.metric": "valid/map"},
        "monitor.metric: got 'valid/map'; expected one of valid/loss, valid/top1, valid/top5,"
        " valid/f1, valid/ece, since data.multi_label=false (data=multi_label trains on images of"
        " several classes)",
        {**SEVERAL},
    ),
    Case(
        "metric_suits_labels",
        {"data.multi_label": True},
        "monitor.metric: got 'valid/top1'; expected one of valid/loss, valid/map, valid/f1,"
        " valid/micro_f1, valid/exact, since data.multi_label=true (data=multi_label sets both)",
        {**SEVERAL, "monitor.metric": "valid/f1"},
    ),
    Case(
        "labels_name_a_file",
        {"data.labels": "multi"},
        "data.labels: got 'multi'; expected auto, or a label file of data.root",
        {"data.labels": "labels.csv"},
    ),
    *(
        Case("multi_label_suits", {**SEVERAL, **wrong}, says, {**SEVERAL, **right})
        for wrong, says, right in (
            (
                {"data.sampling": "balanced"},
                "data.sampling: got 'balanced'; expected 'shuffled', since data.multi_label=true",
                {"data.class_weights": "balanced"},
            ),
            (
                {"optim.loss": "logit_adjusted"},
                "optim.loss: got 'logit_adjusted'; expected 'cross_entropy', since"
                " data.multi_label=true",
                {"optim.label_smoothing": 0.1},
            ),
            (
                {"serving.unknown": "row"},
                "serving.unknown: got 'row'; expected 'field' or 'off'",
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
def test_a_rule_refuses_a_contradiction(
    case: Case, refuse: Callable[[dict[str, Any]], list[str]]
) -> None:
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


def test_an_engine_that_is_not_installed_is_told_before_anything_runs(
    refuse: Callable[[dict[str, Any]], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "find_spec", lambda name: None)
    (line,) = refuse({"serving.engine": "openvino"})
    assert line.startswith("serving.engine: got 'openvino', which needs openvino and nncf")
    assert "pip install 'breedlab[engines]'" in line
    assert refuse({"serving.precision": "int8"})[0].startswith("serving.precision: got 'int8'")
