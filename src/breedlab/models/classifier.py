"""The whole network, defined once: normalize, backbone, fully connected head.

It is imported by training and by the endpoint alike, so it needs torch and torchvision and nothing
more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from breedlab.errors import Unsuitable
from breedlab.models import backbone as backbones
from breedlab.models.boundary import NotSeparable, TruncatedBackbone, modules_through, stages

MLP, COSINE = "mlp", "cosine"
"""The heads that need at most this file."""


@dataclass(frozen=True)
class Architecture:
    """All that is needed to build the network again, as plain data.

    Attributes:
        name: The backbone's, as in the config.
        classes: Number of logits.
        head: Widths of the hidden fully connected layers.
        dropout: Before each fully connected layer.
        mean: Subtracted from values scaled to 0..1, per channel.
        std: Divided by, per channel.
        tag: The timm weights for which timm shaped the backbone; empty for its defaults.
        head_type: `model.head_type`.
        head_settings: The head's own settings, if it has any.
    """

    name: str
    classes: int
    head: tuple[int, ...]
    dropout: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    tag: str = ""
    head_type: str = MLP
    head_settings: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """Return plain data, without what only a head of a plugin has."""
        tree = asdict(self)
        if self.head_type == MLP:
            del tree["head_type"], tree["head_settings"]
        return tree


class Classifier(nn.Module):
    """A network from images to logits.

    Args:
        architecture: Its shape.
        backbone: Made by `backbones.build`, weights loaded.
        freeze: `none`, `backbone`, or a stage's name: frozen through it. Frozen parts run in
            evaluation mode and take no gradients, whatever mode the rest is in.
        side: Pixels of the square images.

    Raises:
        ConfigError: If the network has no such stage.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        architecture: Architecture,
        backbone: backbones.Backbone,
        freeze: str = "none",
        side: int = 224,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.freeze = freeze
        self.side = side
        self.backbone = backbone.network
        self.head = make_head(backbone.features, architecture)
        # Images come as uint8; one multiply-add on the batch normalizes them.
        self.register_buffer(
            "mean", 255 * torch.tensor(architecture.mean).view(1, 3, 1, 1), persistent=False
        )
        self.register_buffer(
            "std", 255 * torch.tensor(architecture.std).view(1, 3, 1, 1), persistent=False
        )
        self._frozen = self._frozen_modules()
        self._enclosing = self._enclosing_modules()
        for parameter in self.frozen_parameters():
            parameter.requires_grad_(False)
        self.train(self.training)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute logits (n, classes) of images (n, 3, side, side), uint8 or floats from 0 to
        255."""
        if self.freeze == "backbone":
            return self.after_boundary(self.to_boundary(images))
        logits: torch.Tensor = self.head(self.backbone(self.normalized(images)))
        return logits

    def normalized(self, images: torch.Tensor) -> torch.Tensor:
        """Normalize images from 0..255 to what the backbone was trained on, channels last."""
        # in place: a large batch's temporaries cost more than the arithmetic
        if images.dtype == torch.uint8:
            floats = images.to(torch.float32, memory_format=torch.channels_last)
            return floats.sub_(self.mean).div_(self.std)
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def to_boundary(self, images: torch.Tensor) -> torch.Tensor:
        """Run only the frozen part: from images to its last activations."""
        inputs = self.normalized(images)
        if self.freeze == "backbone":
            features: torch.Tensor = self.backbone(inputs)
            return features
        reached: list[torch.Tensor] = []

        def stop(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            reached.append(output)
            raise _Reached

        handle = self.backbone.get_submodule(self.freeze).register_forward_hook(stop)
        try:
            self.backbone(inputs)
        except _Reached:
            pass
        finally:
            handle.remove()
        return reached[0]

    def after_boundary(self, activations: torch.Tensor) -> torch.Tensor:
        """Run only the part that trains: from the boundary's activations to logits (n, classes)."""
        logits: torch.Tensor = self.tail()(activations)
        return logits

    def tail(self) -> nn.Module:
        """Return the part that trains, as a separate module that shares this one's parameters.

        Raises:
            NotSeparable: If nothing is frozen, or the backbone cannot be cut at the frozen stage.
        """
        if self.freeze == "backbone":
            return self.head
        if self.freeze == "none":
            raise NotSeparable("nothing is frozen")
        return nn.Sequential(TruncatedBackbone(self.backbone, self.freeze), self.head)

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        for module in self._frozen:
            module.training = False
        return self

    def frozen_parameters(self) -> Iterator[nn.Parameter]:
        for module in [*self._frozen, *self._enclosing]:
            yield from module.parameters(recurse=False)

    def frozen_modules(self) -> dict[str, nn.Module]:
        """Return the modules before the boundary, and those that enclose it, by name."""
        frozen = set(map(id, [*self._frozen, *self._enclosing]))
        return {path: module for path, module in self.named_modules() if id(module) in frozen}

    def frozen_tensors(self) -> dict[str, torch.Tensor]:
        """Return every tensor that must never change: parameters and buffers before the boundary,
        by name."""
        tensors = {}
        for path, module in self.frozen_modules().items():
            for name, tensor in [
                *module.named_parameters(recurse=False),
                *module.named_buffers(recurse=False),
            ]:
                tensors[f"{path}.{name}"] = tensor
        return tensors

    def _frozen_modules(self) -> list[nn.Module]:
        if self.freeze == "none":
            return []
        if self.freeze == "backbone":
            return list(self.backbone.modules())
        if not any(name == self.freeze for name, _ in self.backbone.named_modules()):
            names_of_stages = stages(self.backbone)
            raise Unsuitable(
                f"model.freeze: {self.architecture.name} has no stage {self.freeze!r};"
                f" expected none, backbone, or one of {', '.join(names_of_stages)}"
            )
        names = modules_through(self.backbone, self.freeze, self.side)
        inside = f"{self.freeze}."
        return [
            m
            for name, m in self.backbone.named_modules()
            if name in names or name.startswith(inside)
        ]

    def _enclosing_modules(self) -> list[nn.Module]:
        """Return the modules that contain the stage. Their own parameters (a class token, position
        embeddings) are applied before it."""
        if self.freeze in ("none", "backbone"):
            return []
        parts = self.freeze.split(".")
        return [self.backbone.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]


class _Reached(Exception):
    """The boundary is reached; the rest of the forward pass is not needed."""


def make_head(width: int, architecture: Architecture) -> nn.Module:
    """Return the head of an architecture, from `width` features to the classes.

    Raises:
        ConfigError: If it is registered by a plugin that is not imported here.
    """
    if architecture.head_type == MLP:
        return make_mlp(width, architecture)
    if architecture.head_type == COSINE:
        return CosineLayer(width, architecture.classes, **architecture.head_settings)
    # Not at the top: only an archive with such a head needs pydantic where it is served.
    from breedlab.registry import HEADS

    head = HEADS.get(architecture.head_type)(**architecture.head_settings)
    layers: nn.Module = head.build(width, architecture)
    return layers


def make_mlp(width: int, architecture: Architecture) -> nn.Sequential:
    """Return fully connected layers from `width` features through the hidden widths to the
    classes."""
    layers: list[nn.Module] = []
    for hidden in architecture.head:
        layers += [nn.Dropout(architecture.dropout), nn.Linear(width, hidden), nn.ReLU()]
        width = hidden
    return nn.Sequential(
        *layers, nn.Dropout(architecture.dropout), nn.Linear(width, architecture.classes)
    )


class CosineLayer(nn.Module):
    """A layer from features (n, width) to scaled cosines with a vector of each class, (n,
    classes)."""

    def __init__(self, width: int, classes: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.randn(classes, width) / width**0.5)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        normalize = nn.functional.normalize
        return self.scale * nn.functional.linear(
            normalize(features, dim=1), normalize(self.weight, dim=1)
        )
