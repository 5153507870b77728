"""Rules across fields. Each names by its parameters the sections that it reads, and yields
problems.

A rule runs whenever the sections it names are valid in themselves, so a mistake in one corner of
the config does not hide another.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from breedlab.catalogue import catalogue
from breedlab.config import cloud, label_rules
from breedlab.config.backend import Backend
from breedlab.config.debugger import Debugger
from breedlab.config.problems import Problem, nearest
from breedlab.config.schema import (
    Cache,
    Data,
    FineTune,
    Model,
    Monitor,
    Optim,
    Serving,
    Trainer,
    Tuner,
)
from breedlab.config.space import PAIRED, Choices, SpaceError, leaves, read_dimension
from breedlab.registry import ENGINES, HEADS, METRICS, SOURCES
from breedlab.weight_files import file_of, names_file, problem

Rule = Callable[..., Iterator[Problem]]


def backbone_is_known(model: Model) -> Iterator[Problem]:
    """torchvision's names are data here; timm's are found out where timm is imported."""
    known = catalogue()
    names = known[model.name].weights if model.name in known else ()
    path = Path(file_of(model.weights))
    given = names_file(model.weights) or (path.is_dir() and model.weights not in (*names, "none"))
    if given and (wrong := problem(path) if path.exists() else "does not exist"):
        expected = (
            "expected a .safetensors or .pth file of weights, a model.tar.gz, or a run directory"
        )
        yield Problem("model.weights", f"{model.weights} {wrong}; {expected}")
    if model.name.startswith("timm/"):
        return
    if model.name not in known:
        yield Problem(
            "model.name",
            f"torchvision has no classifier {model.name!r}{nearest(model.name, known)}; for timm's"
            " write timm/NAME",
        )
        return
    if model.weights not in (*names, "none") and not given:
        yield Problem(
            "model.weights",
            f"got {model.weights!r}; expected one of {', '.join(names)}, a .safetensors or .pth"
            " file, a run, or none",
        )


def mode_suits_metric(monitor: Monitor) -> Iterator[Problem]:
    right = (
        "min" if METRICS.get(monitor.metric.removeprefix(METRICS.prefix)).lower_is_better else "max"
    )
    if monitor.mode != right:
        yield Problem(
            "monitor.mode",
            f"got {monitor.mode!r}; expected {right!r}, since {monitor.metric} is watched",
        )


def one_source(data: Data) -> Iterator[Problem]:
    first, *others = [
        *(name for name in SOURCES.names() if getattr(data, name, None) is not None),
        "",
    ]
    for other in filter(None, others):
        yield Problem(
            f"data.{other}", f"given beside data.{first}; images come from one source, not both"
        )


def fixes_are_here(data: Data, backend: Backend) -> Iterator[Problem]:
    if data.fixes is None:
        return
    if not cloud.kind_of(backend).here:
        yield Problem(
            "data.fixes", f"backend={backend.name} cannot apply it; fix the folders instead"
        )
    elif not Path(data.fixes).is_file():
        yield Problem(
            "data.fixes", f"{data.fixes} does not exist; expected a run's fixes.csv, edited"
        )


def splits_leave_training_photos(data: Data) -> Iterator[Problem]:
    if data.valid_fraction + data.test_fraction >= 1:
        total = data.valid_fraction + data.test_fraction
        yield Problem(
            "data.test_fraction",
            f"with data.valid_fraction makes {total:g}; expected less than 1 together",
        )


def crop_fits_resize(data: Data) -> Iterator[Problem]:
    if data.image_size != "auto" and data.resize != "auto" and data.resize < data.image_size:
        yield Problem(
            "data.resize",
            f"got {data.resize}; expected at least data.image_size ({data.image_size})",
        )


def views_suit_augmentation(model: Model, cache: Cache, data: Data) -> Iterator[Problem]:
    if model.freeze == "none":
        if cache.views > 1:
            yield Problem(
                "cache.views",
                f"got {cache.views}; expected 1, since model.freeze=none caches nothing",
            )
        return
    if cache.views == 0 and cache.mode != "off":
        yield Problem(
            "cache.views",
            "got 0, with which each epoch has views of its own; expected cache.mode=off as well, or"
            " 1 or more",
        )
    if cache.views == 1 and data.augment != "none":
        yield Problem(
            "data.augment",
            f"got {data.augment!r}, never seen with cache.views=1 (the first view is the evaluation"
            " transform); expected 'none', or cache.views of at least 2",
        )
    if cache.views > 1 and data.augment == "none":
        yield Problem(
            "cache.views",
            f"got {cache.views}; expected 1, since data.augment=none makes all views the same",
        )
    if data.mixup:
        yield Problem(
            "data.mixup",
            f"got {data.mixup:g}; expected 0, since mixing photos needs model.freeze=none",
        )


def probe_has_something_to_unfreeze(model: Model, trainer: Trainer) -> Iterator[Problem]:
    if trainer.probe_epochs and model.freeze != "none":
        yield Problem(
            "trainer.probe_epochs",
            f"got {trainer.probe_epochs}; expected 0, since model.freeze={model.freeze} never"
            " unfreezes",
        )


def balanced_once(data: Data, optim: Optim) -> Iterator[Problem]:
    """Each of these makes rare classes count as much as common ones; two would overdo it."""
    given = [
        text
        for text, is_given in (
            ("data.class_weights=balanced", data.class_weights == "balanced"),
            ("data.sampling=balanced", data.sampling == "balanced"),
            ("optim.loss=logit_adjusted", optim.loss == "logit_adjusted"),
        )
        if is_given
    ]
    if len(given) > 1:
        yield Problem(
            given[1].partition("=")[0],
            f"{given[1]} beside {given[0]} balances classes twice; expected one of them",
        )


def fine_tuning_follows_a_head(model: Model, fine_tune: FineTune) -> Iterator[Problem]:
    if fine_tune.epochs and model.freeze == "none":
        yield Problem(
            "fine_tune.epochs",
            f"got {fine_tune.epochs}; expected 0, since model.freeze=none trains all layers from"
            " the start",
        )
    if fine_tune.freeze == "backbone":
        yield Problem(
            "fine_tune.freeze",
            "got 'backbone', which leaves nothing to fine-tune; expected auto, none, or a stage",
        )


def crops_are_cut(data: Data) -> Iterator[Problem]:
    if data.train_size and data.augment == "none":
        yield Problem(
            "data.train_size",
            f"got {data.train_size} with data.augment=none, which cuts no crops; expected null, or"
            " an augmentation",
        )


def solved_head_has_features(model: Model, cache: Cache, optim: Optim) -> Iterator[Problem]:
    """A head that is solved needs the features of all images at once, and a loss that has one
    minimum."""
    if not HEADS.get(model.head_type).solved:
        return
    why = f"since model.head_type={model.head_type} is solved on"
    if model.freeze != "backbone":
        yield Problem(
            "model.freeze",
            f"got {model.freeze!r}; expected 'backbone', {why} a frozen backbone's features",
        )
    if cache.mode == "off":
        yield Problem("cache.mode", f"got 'off'; expected 'auto', {why} cached features")
    if optim.loss != "cross_entropy":
        yield Problem(
            "optim.loss", f"got {optim.loss!r}; expected 'cross_entropy', {why} that loss"
        )


def warmup_fits(optim: Optim, trainer: Trainer) -> Iterator[Problem]:
    if optim.warmup_epochs and optim.schedule == "one_cycle":
        yield Problem(
            "optim.warmup_epochs",
            f"got {optim.warmup_epochs:g}; expected 0, since one_cycle warms up by itself",
        )
    elif optim.warmup_epochs >= trainer.max_epochs:
        given = f"got {optim.warmup_epochs:g}"
        yield Problem(
            "optim.warmup_epochs",
            f"{given}; expected less than trainer.max_epochs ({trainer.max_epochs})",
        )


def warmup_fits_trials(optim: Optim, tuner: Tuner) -> Iterator[Problem]:
    """On SageMaker a trial is a training of its own, and would be refused there."""
    if (
        tuner.strategy != "none"
        and optim.schedule != "one_cycle"
        and optim.warmup_epochs >= tuner.max_epochs
    ):
        yield Problem(
            "optim.warmup_epochs",
            f"got {optim.warmup_epochs:g}; expected less than tuner.max_epochs"
            f" ({tuner.max_epochs}), a trial's",
        )


def trials_are_counted(tuner: Tuner) -> Iterator[Problem]:
    if tuner.strategy == "none":
        return
    if tuner.strategy == "grid" and tuner.trials is not None:
        yield Problem(
            "tuner.trials",
            f"got {tuner.trials}; expected null, since a grid runs every combination",
        )
    if tuner.strategy not in ("grid", "auto") and tuner.trials is None:
        yield Problem(
            "tuner.trials", f"has no value; strategy {tuner.strategy!r} needs a number of trials"
        )
    if tuner.strategy == "hyperband" and tuner.max_epochs < 2:
        yield Problem(
            "tuner.max_epochs",
            "got 1; expected at least 2, since hyperband stops trials between epochs",
        )
    if not list(leaves(tuner.space)):
        yield Problem(
            "tuner.space", "is empty; expected config paths with what each may be, or tuner=none"
        )


def folds_have_features(
    tuner: Tuner, model: Model, cache: Cache, backend: Backend
) -> Iterator[Problem]:
    if tuner.folds == 1 or tuner.strategy == "none":
        return
    if model.freeze != "backbone" or cache.mode == "off":
        yield Problem(
            "tuner.folds",
            f"got {tuner.folds}, which cross-validates on cached features; expected 1, or"
            " model.freeze=backbone and cache.mode=auto",
        )
    if cloud.kind_of(backend).aws and cloud.trials_are_jobs(
        backend.trials, tuner.strategy, model.freeze, tuner.warm_start
    ):
        yield Problem(
            "tuner.folds",
            f"got {tuner.folds}; expected 1 where each trial is a job (backend.trials=one_job runs"
            " all trials in one)",
        )


def auto_has_what_it_needs(
    tuner: Tuner, model: Model, cache: Cache, backend: Backend
) -> Iterator[Problem]:
    if tuner.strategy != "auto":
        if tuner.minutes is not None and tuner.strategy != "none":
            yield Problem(
                "tuner.minutes",
                f"got {tuner.minutes:g}; expected null, since only tuner=auto has a time limit",
            )
        return
    if tuner.minutes is None:
        yield Problem("tuner.minutes", "has no value; strategy 'auto' needs a number of minutes")
    if tuner.parallel > 1:
        yield Problem(
            "tuner.parallel",
            f"got {tuner.parallel}; expected 1 with auto, whose trials share their passes",
        )
    if model.freeze != "backbone" or cache.mode == "off":
        expected = "expected model.freeze=backbone and cache.mode=auto"
        yield Problem(
            "tuner.strategy", f"got 'auto', which searches on cached features; {expected}"
        )
    if cloud.kind_of(backend).aws and backend.trials == "job_each":
        yield Problem(
            "backend.trials", "got 'job_each'; expected auto, since an auto search is one job"
        )
    given = dict(leaves(tuner.space))
    for one, other in PAIRED:
        lists = [path for path in (one, other) if path in given]
        sizes = [len(given[path]) if isinstance(given[path], list) else 0 for path in lists]
        if (one == "model.name" and len(lists) == 1) or len(set(sizes)) > 1:
            expected = f"expected lists of as many values for {one} and {other}, which go together"
            yield Problem(
                f"tuner.space.{lists[0]}", f"does not go with tuner.space.{other}; {expected}"
            )


def grid_is_finite(tuner: Tuner) -> Iterator[Problem]:
    if tuner.strategy not in ("grid", "auto"):
        return
    for path, given in leaves(tuner.space):
        try:
            finite = isinstance(read_dimension(path, given), Choices)
        except SpaceError:
            continue  # reported where the space itself is read
        if not finite:
            name = "a grid" if tuner.strategy == "grid" else "auto"
            yield Problem(
                f"tuner.space.{path}",
                f"is a continuous range; {name} takes a list, such as [0.001,0.01]",
            )


def engine_computes_precision(serving: Serving) -> Iterator[Problem]:
    if serving.engine == "auto" or serving.precision == "auto":
        return
    able = ENGINES.get(serving.engine).precisions
    if serving.precision not in able:
        others = [
            name for name, engine in ENGINES.items() if serving.precision in engine.precisions
        ]
        owner = f", which is {' and '.join(others)}'s" if others else ""
        expected = f"expected {', '.join(['auto', *able[:-1]])} or {able[-1]} with {serving.engine}"
        yield Problem("serving.precision", f"got {serving.precision!r}{owner}; {expected}")


def engine_is_installed(serving: Serving, backend: Backend) -> Iterator[Problem]:
    """Told before hours of training, not after; elsewhere than here the machine that trains
    tells."""
    wanted = serving.engine == "openvino" or (
        serving.engine == "auto" and serving.precision == "int8"
    )
    if not cloud.kind_of(backend).here or not wanted:
        return
    if missing := [name for name in ("openvino", "nncf") if find_spec(name) is None]:
        path, value = (
            ("engine", "openvino") if serving.engine == "openvino" else ("precision", "int8")
        )
        yield Problem(
            f"serving.{path}",
            f"got {value!r}, which needs {' and '.join(missing)}; install the extra: pip install"
            " 'breedlab[engines]', or expected auto",
        )


def custom_tensors_are_named(debugger: Debugger) -> Iterator[Problem]:
    custom, path = debugger.collections.custom, "debugger.collections.custom.include"
    if (custom.train or custom.eval) and not custom.include:
        yield Problem(
            path,
            "is empty; expected regular expressions on the names of tensors, such as ['layer4.*']",
        )
    for index, pattern in enumerate(custom.include):
        try:
            re.compile(pattern)
        except re.error as error:
            yield Problem(
                f"{path}.{index}", f"got {pattern!r}; expected a regular expression ({error})"
            )


RULES: tuple[Rule, ...] = (
    backbone_is_known,
    mode_suits_metric,
    *label_rules.RULES,
    one_source,
    fixes_are_here,
    splits_leave_training_photos,
    crop_fits_resize,
    views_suit_augmentation,
    probe_has_something_to_unfreeze,
    balanced_once,
    fine_tuning_follows_a_head,
    crops_are_cut,
    solved_head_has_features,
    warmup_fits,
    warmup_fits_trials,
    trials_are_counted,
    auto_has_what_it_needs,
    folds_have_features,
    grid_is_finite,
    custom_tensors_are_named,
    *cloud.RULES,
    engine_computes_precision,
    engine_is_installed,
)


def problems(sections: Mapping[str, Any]) -> list[Problem]:
    """What the rules say of those sections that are valid in themselves."""
    found: list[Problem] = []
    for rule in RULES:
        names = inspect.signature(rule).parameters
        if all(name in sections for name in names):
            found += rule(**{name: sections[name] for name in names})
    return [replace(problem, code="BL104") for problem in found]
