"""What turns gradients into steps."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from breedlab.config.section import Section
from breedlab.registry import OPTIMIZERS

if TYPE_CHECKING:
    import torch

    from breedlab.config.sections import Optim

Groups = list[dict[str, Any]]
"""Groups of parameters as torch's optimizers take them, each with its learning rate."""


class Optimizer(Section):
    """An optimizer."""

    @abstractmethod
    def build(self, groups: Groups, optim: Optim) -> torch.optim.Optimizer:
        """Return an optimizer of PyTorch's kind over groups of parameters.

        Args:
            groups: What trains; each group has its `lr`, from `optim.lr` and `optim.layer_decay`.
            optim: The section of the config, whose `lr`, `weight_decay` and `momentum` all
                optimizers share.
        """


@OPTIMIZERS.register("adam")
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, arXiv 1412.6980), PyTorch's fused implementation."""

    def build(self, groups: Groups, optim: Optim) -> torch.optim.Optimizer:
        import torch

        return torch.optim.Adam(groups, lr=optim.lr, weight_decay=optim.weight_decay, fused=True)


@OPTIMIZERS.register("adamw")
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

    def build(self, groups: Groups, optim: Optim) -> torch.optim.Optimizer:
        import torch

        return torch.optim.AdamW(groups, lr=optim.lr, weight_decay=optim.weight_decay, fused=True)


@OPTIMIZERS.register("sgd")
class Sgd(Optimizer):
    """Stochastic gradient descent with `optim.momentum`."""

    def build(self, groups: Groups, optim: Optim) -> torch.optim.Optimizer:
        import torch

        return torch.optim.SGD(
            groups,
            lr=optim.lr,
            weight_decay=optim.weight_decay,
            momentum=optim.momentum,
            fused=True,
        )
