"""Where a frozen part ends: which modules are before its end, and the network cut in two there.

The order is the one in which modules run, not the one in which they were written down, and the cut
is made in the traced graph (torch.fx), so it is exact for every network that can be traced and
refused for the others.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import fx, nn


class NotSeparable(Exception):
    """The network cannot be cut at this stage; its activations have to be computed live."""


def stages(network: nn.Module) -> list[str]:
    """Return the stages to choose from: top-level blocks, and the members of a top-level
    sequence."""
    names = []
    for name, child in network.named_children():
        if _has_parameters(child):
            names.append(name)
            if isinstance(child, nn.Sequential):
                names += _members(name, child)
    return names


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _members(name: str, sequence: nn.Sequential) -> list[str]:
    """Return the paths of a sequence's members that have parameters."""
    return [f"{name}.{n}" for n, part in sequence.named_children() if _has_parameters(part)]


def layers(network: nn.Module) -> list[str]:
    """Return the network's layers from first to last: top-level blocks, a sequence that holds most
    of it taken apart."""
    total = sum(p.numel() for p in network.parameters())
    names = []
    for name, child in network.named_children():
        size = sum(p.numel() for p in child.parameters())
        if isinstance(child, nn.Sequential) and size > 0.8 * total:
            names += _members(name, child)
        elif size:
            names.append(name)
    return names


def modules_through(network: nn.Module, stage: str, side: int) -> set[str]:
    """Return the modules that have started when `stage` ends, except those that enclose it.

    Args:
        network: Takes (n, 3, side, side).
        stage: A module's name in `network`.
        side: Pixels; any size that the network accepts.
    """
    order: list[str] = []
    names: list[str] | None = None
    handles = []

    def ended(*_: Any) -> None:
        nonlocal names
        if names is None:
            names = list(order)

    for name, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: order.append(name)))
    handles.append(network.get_submodule(stage).register_forward_hook(ended))
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, side, side))
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    assert names is not None, f"{stage} did not run"
    return {name for name in names if name and not stage.startswith(f"{name}.")}


class _StageTracer(fx.Tracer):
    """A tracer that keeps the stage whole, so that the boundary is one node, and timm's layers,
    whose code depends on the shapes of its inputs."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        inside = self.stage.startswith(f"{name}.")
        layer = module.__module__.startswith("timm.layers.") and not inside
        return name == self.stage or layer or super().is_leaf_module(module, name)


class TruncatedBackbone(nn.Module):
    """What comes after the boundary: from the stage's activations to feature vectors.

    Traced once in training and once in evaluation mode, since a trace fixes what depends on the
    mode. Both share the network's own modules.
    """

    def __init__(self, network: nn.Module, stage: str) -> None:
        super().__init__()
        training = [(module, module.training) for module in network.modules()]
        try:
            self.evaluating = _after(network.eval(), stage)
            self.learning = _after(network.train(), stage)
        finally:
            for module, mode in training:
                module.training = mode

    def forward(self, activations: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = (self.learning if self.training else self.evaluating)(activations)
        return result


def _defaults(network: nn.Module) -> dict[str, Any]:
    """Return what the network takes besides images (a ViT's mask), which no one gives it."""
    parameters = inspect.signature(network.forward).parameters.values()
    empty = inspect.Parameter.empty
    return {each.name: each.default for each in parameters if each.default is not empty}


def _after(network: nn.Module, stage: str) -> fx.GraphModule:
    try:
        graph = _StageTracer(stage).trace(network, _defaults(network))
    # tracing can fail in as many ways as there are ways to write a forward method
    except Exception as error:
        raise NotSeparable(f"the network cannot be traced ({type(error).__name__})") from error
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == stage]
    if len(calls) != 1:
        raise NotSeparable(f"{stage} runs {len(calls)} times")
    rest = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {calls[0]: rest.placeholder("activations")}
    is_after = False
    for node in graph.nodes:
        if node is calls[0]:
            is_after = True
        elif is_after or node.op == "get_attr":
            if any(argument not in copies for argument in node.all_input_nodes):
                raise NotSeparable(f"what follows {stage} also reads what came before it")
            copies[node] = rest.node_copy(node, lambda argument: copies[argument])
    module = fx.GraphModule(network, rest)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module
