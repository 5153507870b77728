"""Optimizers, learning rates by depth, and schedules, from the config."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from breedlab.config.sections import Optim
from breedlab.errors import TrainingError
from breedlab.models.boundary import layers
from breedlab.models.classifier import Classifier
from breedlab.models.depth import depths, has_decay, is_decayed
from breedlab.registry import OPTIMIZERS, SCHEDULES
from breedlab.training.schedules import Steps


def parameter_groups(classifier: Classifier, optim: Optim) -> list[dict[str, Any]]:
    """Return what trains in groups that share a learning rate and a weight decay, from the first
    layer to the head.

    With `optim.layer_decay` d the head learns at `optim.lr`, the last layer at d times that, the
    one before at d squared, and so on: discriminative learning rates (Howard and Ruder 2018, arXiv
    1801.06146). Biases, norms and what the network exempts have no weight decay.
    """
    if optim.param_groups == "legacy":
        return _legacy_groups(classifier, optim)
    backbone, name = classifier.backbone, classifier.architecture.name
    # One rate for all needs no depths, and a network that is not listed has none.
    depth = depths(backbone, name) if optim.layer_decay != 1 else {}
    decayed = is_decayed(backbone, name)
    grouped: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for path, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            grouped.setdefault((depth.get(path, 0), decayed[path]), []).append(parameter)
    for path, parameter in classifier.head.named_parameters():
        grouped.setdefault((0, has_decay(path, parameter)), []).append(parameter)
    return [
        {
            "params": grouped[key],
            "lr": optim.lr * optim.layer_decay ** key[0],
            "weight_decay": optim.weight_decay if key[1] else 0.0,
        }
        for key in sorted(grouped, reverse=True)
    ]


def _legacy_groups(classifier: Classifier, optim: Optim) -> list[dict[str, Any]]:
    """Return the groups of breedlab 0.1, whose runs continue with them: by top-level block, weight
    decay on everything."""
    blocks = layers(classifier.backbone)
    grouped: dict[int, list[nn.Parameter]] = {}
    for path, parameter in classifier.backbone.named_parameters():
        if parameter.requires_grad:
            depth = next(
                (len(blocks) - i for i, block in enumerate(blocks) if path.startswith(f"{block}.")),
                len(blocks),
            )
            grouped.setdefault(depth, []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": grouped[depth], "lr": optim.lr * optim.layer_decay**depth}
        for depth in sorted(grouped, reverse=True)
    ]
    groups.append({"params": list(classifier.head.parameters()), "lr": optim.lr})
    if optim.layer_decay == 1:
        return [{"params": [p for group in groups for p in group["params"]], "lr": optim.lr}]
    return groups


def make_optimizer(classifier: Classifier, optim: Optim) -> torch.optim.Optimizer:
    """Return the named optimizer over all parameters that are not frozen, fused into one kernel per
    step."""
    groups = parameter_groups(classifier, optim)
    optimizer: torch.optim.Optimizer = OPTIMIZERS.chosen(optim).build(groups, optim)
    return optimizer


def refuse_other_groups(classifier: Classifier, optim: Optim, saved: Mapping[str, Any]) -> None:
    """Raise TrainingError if an optimizer's saved state is of other groups: a newer timm may divide
    a network anew.

    Args:
        classifier: The network that training would continue with.
        optim: Its settings.
        saved: The state dict of the optimizer.
    """
    then = [len(group["params"]) for group in saved["param_groups"]]
    now = [len(group["params"]) for group in parameter_groups(classifier, optim)]
    if then != now:
        raise TrainingError(
            f"resume: the saved optimizer has {len(then)} parameter groups of {sum(then)} tensors,"
            f" but here {classifier.architecture.name} has {len(now)} of {sum(now)}: other versions"
            " of timm, torchvision or breedlab began the run; install those that its lineage.json"
            " names, or start a new run from its weights: model.weights=RUN"
        )


def make_schedule(
    optimizer: torch.optim.Optimizer, optim: Optim, *, steps_per_epoch: int, epochs: int
) -> LRScheduler:
    """Return a schedule that is stepped once per training step."""
    steps = Steps(steps_per_epoch * epochs, round(optim.warmup_epochs * steps_per_epoch))
    schedule: LRScheduler = SCHEDULES.chosen(optim).build(optimizer, steps)
    return schedule


def set_rates(schedule: LRScheduler) -> None:
    """Have each group learn at the rate that its schedule has at this step.

    That is the rate in the checkpoint, except in a run that continues to more epochs, whose
    schedule has changed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch asks for the rates of the last step
        rates = schedule.get_lr()
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
