"""Whether a network's input is what its weights were trained on, judged by the statistics of its
first BatchNorm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Normalization = tuple[tuple[float, float, float], tuple[float, float, float]]

USUAL: dict[str, Normalization] = {
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "values from 0 to 1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "values from 0 to 255": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}
"""The normalizations of nearly all published weights."""


_TOO_MUCH, _TOO_LITTLE = 2.2, 0.33
"""Images and noise lay between 0.5 and 1.6 where the normalization was right, ImageNet's for 0.5 at
2.4 to 7.6."""
_HOPELESS = 10.0
"""A factor beyond which no images explain it, whether or not another normalization is known to do
better."""


class _Reached(Exception):
    """The first BatchNorm has its input; the rest of the network need not run."""


def spread(network: nn.Module, images: Tensor) -> float | None:
    """Return the ratio of the first BatchNorm's input variance to that in training; 1 if the input
    is the same.

    Args:
        network: With its weights.
        images: Normalized, (n, 3, side, side).

    Returns:
        The median over channels of variance over stored variance; None if no BatchNorm is reached.
    """
    ratios: list[float] = []

    def stop(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        running = module.running_var
        assert isinstance(running, Tensor)
        x = inputs[0].float()
        variance = x.var(dim=[d for d in range(x.ndim) if d != 1])
        alive = running > 1e-6 * running.max()  # a dead filter does not vary, then or now
        ratios.append(float((variance[alive] / running[alive]).median()))
        raise _Reached

    norms = [m for m in network.modules() if isinstance(getattr(m, "running_var", None), Tensor)]
    handles = [module.register_forward_pre_hook(stop) for module in norms]
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        with torch.no_grad():
            network(images)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    return ratios[0] if ratios else None


def concern(
    network: nn.Module,
    images: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    published: bool = False,
    stated: Normalization | None = None,
) -> str:
    """Return what is wrong with a normalization for a network's weights, in one line; empty if
    nothing seems to be.

    Args:
        network: With weights that were trained somewhere.
        images: A few real images as they are trained on, (n, 3, side, side), values from 0 to 255.
        mean: Per channel, of values from 0 to 1.
        std: Likewise.
        published: Whether the publisher of these weights states this normalization. Then a low
            reading comes from flat images (x-rays, parts on a conveyor belt), and another
            normalization would only hide that.
        stated: The normalization that the publisher of these weights states, if it is another: it
            is the one to return to.
    """
    if _is_fresh(network):
        return (
            "model.weights look untrained: the statistics of the first BatchNorm are those of a"
            " fresh network; expected the weights of a training"
        )
    now = spread(network, _normalized(images, mean, std))
    if now is None or (0 if published else _TOO_LITTLE) <= now <= _TOO_MUCH:
        return ""
    candidates = USUAL if stated is None else {"their own": stated}
    others = {
        name: spread(network, _normalized(images, *normalization)) or 0.0
        for name, normalization in candidates.items()
    }
    name = min(others, key=lambda other: _distance(others[other]))
    fits = (
        _TOO_LITTLE <= others[name] <= _TOO_MUCH and _distance(others[name]) < _distance(now) / 1.5
    )
    if not fits and _distance(now) < _HOPELESS:
        return ""
    text = (
        f"data.mean={_list(mean)} data.std={_list(std)} do not suit these weights: on your images"
        f" the first BatchNorm's input varies {now:.2g} times as much as in their training"
    )
    if not fits:
        return f"{text}; set both to what the weights were trained with"
    normalization = candidates[name]
    return (
        f"{text}, with {name} {others[name]:.2g} times; try data.mean={_list(normalization[0])}"
        f" data.std={_list(normalization[1])}"
    )


def _normalized(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    shift, scale = (255 * torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    return (images.float() - shift) / scale


def _distance(ratio: float) -> float:
    """Return the distance from 1 as a factor of at least 1."""
    return max(ratio, 1 / ratio) if ratio > 0 else float("inf")


def _is_fresh(network: nn.Module) -> bool:
    stored = [
        variance for name, variance in network.named_buffers() if name.endswith("running_var")
    ]
    return bool(stored) and all(bool(torch.all(variance == 1)) for variance in stored)


def _list(values: tuple[float, ...]) -> str:
    return f"[{','.join(f'{value:.4g}' for value in values)}]"
