"""Rules across fields. Each names by its parameters the sections that it reads, and yields
problems.

A rule runs whenever the sections it names are valid in themselves, so a mistake in one corner of
the config does not hide another.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from breedlab.catalogue import catalogue
from breedlab.config import cloud, data_rules, label_rules, search_rules
from breedlab.config.backend import Backend
from breedlab.config.debugger import Debugger
from breedlab.config.problems import Problem, Rule
from breedlab.config.sections import Cache, Data, FineTune, Model, Monitor, Optim, Serving, Trainer
from breedlab.errors import ConfigError
from breedlab.registry import ENGINES, HEADS, METRICS
from breedlab.suggestions import nearest
from breedlab.weight_files import file_of, names_file, problem


def backbone_is_known(model: Model) -> Iterator[Problem]:
    """Refuse unknown names of torchvision's networks and weights; timm's are checked where timm is
    imported."""
    names_of_torchvision = catalogue()
    names = names_of_torchvision[model.name].weights if model.name in names_of_torchvision else ()
    path = Path(file_of(model.weights))
    from_file = names_file(model.weights) or (
        path.is_dir() and model.weights not in (*names, "none")
    )
    if from_file and (wrong := problem(path) if path.exists() else "does not exist"):
        expected = (
            "expected a .safetensors or .pth file of weights, a model.tar.gz, or a run directory"
        )
        yield Problem("model.weights", f"{model.weights} {wrong}; {expected}", "BL120")
    if model.name.startswith("timm/"):
        return
    if model.name not in names_of_torchvision:
        hint = nearest(model.name, names_of_torchvision)
        yield Problem(
            "model.name",
            f"torchvision has no classifier {model.name!r}{hint}; for timm's write timm/NAME",
            "BL120",
        )
        return
    if model.weights not in (*names, "none") and not from_file:
        yield Problem(
            "model.weights",
            f"got {model.weights!r}; expected one of {', '.join(names)}, a .safetensors or .pth"
            " file, a run, or none",
            "BL120",
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


def probe_has_something_to_unfreeze(model: Model, trainer: Trainer) -> Iterator[Problem]:
    if trainer.probe_epochs and model.freeze != "none":
        yield Problem(
            "trainer.probe_epochs",
            f"got {trainer.probe_epochs}; expected 0, since model.freeze={model.freeze} never"
            " unfreezes",
        )


def balanced_once(data: Data, optim: Optim) -> Iterator[Problem]:
    """Refuse two settings that each make rare classes count as much as common ones."""
    balanced = [
        text
        for text, is_given in (
            ("data.class_weights=balanced", data.class_weights == "balanced"),
            ("data.sampling=balanced", data.sampling == "balanced"),
            ("optim.loss=logit_adjusted", optim.loss == "logit_adjusted"),
        )
        if is_given
    ]
    if len(balanced) > 1:
        yield Problem(
            balanced[1].partition("=")[0],
            f"{balanced[1]} with {balanced[0]} balances classes twice; expected one of them",
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


def solved_head_has_features(model: Model, cache: Cache, optim: Optim) -> Iterator[Problem]:
    """Yield conflicts of a solved head, which needs the features of all images at once, and a loss
    with one minimum."""
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
        message = f"got {optim.warmup_epochs:g}"
        yield Problem(
            "optim.warmup_epochs",
            f"{message}; expected less than trainer.max_epochs ({trainer.max_epochs})",
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
    """Refuse an engine that is not installed, before hours of training and not after; for another
    machine, that machine checks it."""
    needs_openvino = serving.engine == "openvino" or (
        serving.engine == "auto" and serving.precision == "int8"
    )
    if not cloud.kind_of(backend).here or not needs_openvino:
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
    *data_rules.RULES,
    probe_has_something_to_unfreeze,
    balanced_once,
    fine_tuning_follows_a_head,
    solved_head_has_features,
    warmup_fits,
    *search_rules.RULES,
    custom_tensors_are_named,
    *cloud.RULES,
    engine_computes_precision,
    engine_is_installed,
)


def problems(sections: Mapping[str, Any]) -> list[Problem]:
    """Return the rules' problems, for those sections that are valid on their own."""
    violations: list[Problem] = []
    for rule in RULES:
        names = inspect.signature(rule).parameters
        if all(name in sections for name in names):
            violations += rule(**{name: sections[name] for name in names})
    return [_with_code(problem) for problem in violations]


def _with_code(problem: Problem) -> Problem:
    """Return a rule's problem, with the code of all rules where it has none of its own."""
    return problem if problem.code != ConfigError.code else replace(problem, code="BL104")
