"""How the learning rate changes from step to step."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from breedlab.config.section import Section
from breedlab.registry import SCHEDULES

if TYPE_CHECKING:
    import torch
    from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True)
class Steps:
    """How long a training is, in steps.

    Attributes:
        total: All of them.
        warmup: Those of `optim.warmup_epochs`, in which the rate rises.
    """

    total: int
    warmup: int


class Schedule(Section):
    """A schedule of the learning rate."""

    @abstractmethod
    def build(self, optimizer: torch.optim.Optimizer, steps: Steps) -> LRScheduler:
        """Return a scheduler that is stepped once a training step."""


class FactorSchedule(Schedule):
    """A schedule that warms up, and from then on multiplies `optim.lr` by a factor."""

    @abstractmethod
    def factor(self, progress: float) -> float:
        """Return the factor when a share of the steps after the warmup is done, from 0 to 1."""

    def build(self, optimizer: torch.optim.Optimizer, steps: Steps) -> LRScheduler:
        from torch.optim.lr_scheduler import LambdaLR

        def factor(step: int) -> float:
            if step < steps.warmup:
                return (step + 1) / (steps.warmup + 1)
            return self.factor((step - steps.warmup) / max(1, steps.total - steps.warmup))

        return LambdaLR(optimizer, factor)


@SCHEDULES.register("constant")
class Constant(FactorSchedule):
    """A constant learning rate."""

    def factor(self, progress: float) -> float:
        return 1.0


@SCHEDULES.register("cosine")
class Cosine(FactorSchedule):
    """Cosine decay from `optim.lr` to 0 (Loshchilov and Hutter 2017, arXiv 1608.03983)."""

    def factor(self, progress: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * progress))


@SCHEDULES.register("one_cycle")
class OneCycle(Schedule):
    """Up to `optim.lr` and down again, by PyTorch's OneCycleLR (Smith and Topin 2018, arXiv
    1708.07120)."""

    def build(self, optimizer: torch.optim.Optimizer, steps: Steps) -> LRScheduler:
        from torch.optim.lr_scheduler import OneCycleLR

        rates = [group["lr"] for group in optimizer.param_groups]
        # PyTorch would cycle the momentum from 0.85 to 0.95, and Adam's beta1 too, whatever
        # optim.momentum says.
        return OneCycleLR(
            optimizer, max_lr=rates, total_steps=steps.total + 1, cycle_momentum=False
        )
