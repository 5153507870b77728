"""Optimizers, learning rates by depth, and schedules, from the config."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from breedlab.config.schema import Optim
from breedlab.models.boundary import layers
from breedlab.models.classifier import Classifier


def parameter_groups(classifier: Classifier, optim: Optim) -> list[dict[str, Any]]:
    """Groups of what trains, from the first stage to the head, each with its learning rate.

    With `optim.layer_decay` d the head learns at `optim.lr`, the last stage at d times that, the one before
    at d squared, and so on: discriminative learning rates (Howard and Ruder 2018, arXiv 1801.06146).
    """
    blocks = layers(classifier.backbone)
    grouped: dict[int, list[nn.Parameter]] = {}
    for path, parameter in classifier.backbone.named_parameters():
        if parameter.requires_grad:
            depth = next(
                (len(blocks) - i for i, block in enumerate(blocks) if path.startswith(f"{block}.")),
                len(blocks),
            )
            grouped.setdefault(depth, []).append(parameter)
    groups = [
        {"params": grouped[depth], "lr": optim.lr * optim.layer_decay**depth} for depth in sorted(grouped, reverse=True)
    ]
    return [*groups, {"params": list(classifier.head.parameters()), "lr": optim.lr}]


def make_optimizer(classifier: Classifier, optim: Optim) -> torch.optim.Optimizer:
    """The named optimizer over everything that is not frozen, fused into one kernel a step."""
    groups = parameter_groups(classifier, optim)
    if optim.layer_decay == 1:
        groups = [{"params": [p for group in groups for p in group["params"]], "lr": optim.lr}]
    common: dict[str, Any] = {"lr": optim.lr, "weight_decay": optim.weight_decay, "fused": True}
    if optim.name == "sgd":
        return torch.optim.SGD(groups, momentum=optim.momentum, **common)
    kind = torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam
    return kind(groups, **common)


def make_schedule(optimizer: torch.optim.Optimizer, optim: Optim, *, steps_per_epoch: int, epochs: int) -> LRScheduler:
    """A schedule that is stepped once a training step."""
    total = steps_per_epoch * epochs
    if optim.schedule == "one_cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        # PyTorch would cycle the momentum from 0.85 to 0.95, and Adam's beta1 too, whatever optim.momentum says.
        return OneCycleLR(optimizer, max_lr=rates, total_steps=total + 1, cycle_momentum=False)
    warmup = round(optim.warmup_epochs * steps_per_epoch)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if optim.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return LambdaLR(optimizer, factor)
