"""What a model looked at: Grad-CAM, and where its map is on the image as a person sees it.

Grad-CAM (Selvaraju et al., 2017, arXiv:1610.02391) weighs the channels of the last spatial map by
how much the class's score rises with them. Convolutional networks keep such a map to the end;
transformers keep one token per patch, which laid out in rows is the same thing.
"""

from __future__ import annotations

import copy
import itertools
import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from breedlab.data.decode import decode
from breedlab.data.transforms import EvalTransform
from breedlab.errors import ServingError
from breedlab.models.classifier import Classifier

_MOST_PREFIX_TOKENS = 8
"""The most class, distillation and register tokens before the patches'; no known network has
more."""


class NotExplainable(ServingError):
    """The network keeps no spatial map, so it cannot be said where it looked."""

    code = "BL504"


@dataclass(frozen=True)
class Box:
    """A rectangle on an upright image, in fractions of its width and height; parts may be outside
    the image."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Explanation:
    """Where in an image the network saw one class.

    Attributes:
        index: The class.
        heat: float32 (rows, columns), 0 to 1; 1 is the place that spoke most for the class. All 0
            if none did.
        box: The part of the image that the network saw; `heat` covers exactly this.
        width: Of the upright image, pixels.
        height: Likewise.
    """

    index: int
    heat: np.ndarray[Any, np.dtype[np.float32]]
    box: Box
    width: int
    height: int


class Explainer:
    """Grad-CAM for one network. Safe to call from several threads, one at a time computes.

    Args:
        network: Shares its weights with the explainer, which hooks only its own modules.
        transform: What prepares images for the network.

    Attributes:
        layer: The name of the module whose output is the map.

    Raises:
        NotExplainable: If the network keeps no spatial map.
    """

    def __init__(self, network: Classifier, transform: EvalTransform) -> None:
        self.transform = transform
        shared: dict[int, Any] = {
            id(t): t for t in itertools.chain(network.parameters(), network.buffers())
        }
        self._network = copy.deepcopy(network, shared).eval()
        self._lock = threading.Lock()
        self.layer = last_map(self._network.backbone, transform.crop)

    def explain(self, image: bytes, index: int | None = None) -> Explanation:
        """Explain one class of an image, by default the most likely.

        Raises:
            ImageError: If the bytes are not a usable image.
            IndexError: If there is no such class.
        """
        pixels = decode(image)
        height, width = pixels.shape[:2]
        with self._lock:
            index, heat = self.heat(self.transform(pixels), index)
        return Explanation(index, heat, seen(self.transform, width, height), width, height)

    def heat(
        self, image: torch.Tensor, index: int | None = None
    ) -> tuple[int, np.ndarray[Any, np.dtype[np.float32]]]:
        """Return the class explained, and its map (rows, columns) from 0 to 1, of a prepared image
        (3, side, side)."""
        outputs: list[torch.Tensor] = []

        def keep(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
            outputs.append(
                output.detach().requires_grad_()
            )  # nothing before the map needs a gradient
            # what follows may work in place, which a leaf tensor does not allow
            return outputs[0].clone()

        handle = self._network.backbone.get_submodule(self.layer).register_forward_hook(keep)
        try:
            with torch.enable_grad():
                logits = self._network(image[None].to(self._network.mean.device))[0]
        finally:
            handle.remove()
        if index is None:
            index = int(logits.argmax())
        if not 0 <= index < len(logits):
            raise IndexError(index)
        (gradient,) = torch.autograd.grad(logits[index], outputs)
        cam = grad_cam(_places(outputs[0].detach()), _places(gradient))
        peak = cam.max()
        heat: np.ndarray[Any, np.dtype[np.float32]] = (
            (cam / peak if peak > 0 else cam).float().cpu().numpy()
        )
        return index, heat


def grad_cam(activations: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Return the sum of the channels weighted by their mean gradient, without evidence against the
    class.

    Args:
        activations: (channels, rows, columns).
        gradient: Of the class's score, by `activations`; same shape.

    Returns:
        (rows, columns), 0 or more.
    """
    weights = gradient.mean(dim=(1, 2), keepdim=True)
    return (weights * activations).sum(0).relu()


def last_map(backbone: nn.Module, side: int) -> str:
    """Return the name of the last module whose output is spatial and reaches the features, found in
    one forward pass.

    Candidates are tried from the last backwards until one has a gradient at its places: after a
    vision transformer's last attention only the class token is used, so its last patch tokens mean
    nothing.

    Args:
        backbone: From (n, 3, side, side) to (n, features), in evaluation mode.
        side: Pixels.

    Raises:
        NotExplainable: If there is no such module.
    """
    calls: dict[str, int] = {}
    maps: dict[str, torch.Tensor] = {}

    def look(name: str, output: Any) -> None:
        calls[name] = calls.get(name, 0) + 1
        maps.pop(name, None)
        if isinstance(output, torch.Tensor) and output.requires_grad and _has_places(output):
            maps[name] = output

    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: look(name, output))
        for name, module in backbone.named_modules()
        if name
    ]
    device = next(itertools.chain(backbone.parameters(), backbone.buffers())).device
    noise = torch.Generator().manual_seed(0)
    try:
        with torch.enable_grad():
            image = torch.randn(1, 3, side, side, generator=noise).to(device).requires_grad_()
            features = backbone(image)
            probe = (features * torch.randn(features.shape, generator=noise).to(device)).sum()
    finally:
        for handle in handles:
            handle.remove()
    # hooks cannot tell calls apart
    once = [(name, output) for name, output in maps.items() if calls[name] == 1]
    if once and probe.requires_grad:
        gradients = torch.autograd.grad(probe, [output for _, output in once], allow_unused=True)
        stream = next((len(output[0, 0]) for _, output in reversed(once) if output.ndim == 3), 0)
        for (name, output), gradient in reversed(list(zip(once, gradients, strict=True))):
            if output.ndim == 3 and len(output[0, 0]) != stream:
                # queries, keys and values next to each other, not the stream through the blocks
                continue
            if gradient is not None and _places(gradient).count_nonzero():
                return name
    raise NotExplainable("this model's network keeps no spatial map, so Grad-CAM cannot explain it")


def seen(transform: EvalTransform, width: int, height: int) -> Box:
    """Return the part of an upright image that remains after the transform: its resize and its
    center crop, undone."""
    short = min(width, height)
    across, down = (int(transform.resize * n / short) for n in (width, height))
    left, top = (_margin(n, transform.crop) for n in (across, down))
    return Box(left / across, top / down, transform.crop / across, transform.crop / down)


def _margin(length: int, crop: int) -> int:
    """Return the pixels that torchvision's center_crop leaves out before the crop; below 0 if it
    pads."""
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)


def _has_places(output: torch.Tensor) -> bool:
    if output.ndim == 4:
        _, a, b, c = output.shape
        return b == c > 1 or (a == b > 1 and c > 1)
    return output.ndim == 3 and _grid(output.shape[1]) > 1


def _grid(tokens: int) -> int:
    """Return the side of the square that the tokens form, leaving out any before it; 0 if they form
    none."""
    side = math.isqrt(tokens)
    return side if tokens - side * side <= _MOST_PREFIX_TOKENS else 0


def _places(values: torch.Tensor) -> torch.Tensor:
    """Return a map of one image as (channels, rows, columns): channels first or last, or tokens."""
    value = values[0]
    if value.ndim == 2:
        side = _grid(len(value))
        return value[len(value) - side * side :].T.reshape(-1, side, side)
    rows, columns = value.shape[1:]
    return value if rows == columns else value.permute(2, 0, 1)
