"""How deep each parameter of a backbone is, and which ones weight decay leaves alone.

timm's models answer both questions themselves (`group_matcher`, `no_weight_decay`). torchvision's
do not, so the layers of its families are listed here, as timm divides the same networks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn

from breedlab.models.backbone import TIMM


@dataclass(frozen=True)
class _Layers:
    """The layers of a family, by the names of its parameters. What matches nothing belongs to the
    head.

    Attributes:
        layer: What its groups capture tells layers apart.
        previous: Parameters of the layer before them, such as the norm after the last block.
        following: Parameters of the layer after them, such as what halves the resolution ahead of a
            stage.
    """

    layer: str
    previous: str = "$"
    following: str = "$"


_TORCHVISION = {
    r"alexnet|squeezenet|vgg|mobilenet_v3": _Layers(r"features\.(\d+)\."),
    r"convnext|swin": _Layers(
        r"features\.0\.|features\.([1357])\.(\d+)\.", r"norm\.", r"features\.[246]\."
    ),
    r"densenet": _Layers(
        r"features\.conv0|features\.norm0|features\.denseblock(\d)\.denselayer(\d+)\.",
        r"features\.transition",
    ),
    r"efficientnet": _Layers(r"features\.0\.|features\.(\d)\.(\d+)\.block\.", r"features\.\d\."),
    r"googlenet": _Layers(r"conv1\.|conv[23]\.()|inception(\d\w)\."),
    r"inception_v3": _Layers(r"Conv2d_[12]|Conv2d_[34]()|Mixed_(\d\w)\."),
    r"maxvit": _Layers(r"stem\.|blocks\.(\d)\."),
    r"mnasnet": _Layers(
        r"layers\.[01]\.|layers\.[3467]\.()|layers\.(\d+)\.(\d)\.", r"layers\.1[45]\."
    ),
    r"mobilenet_v2": _Layers(r"features\.0\.|features\.(\d+)\.conv\.", r"features\.18\."),
    r"regnet": _Layers(r"stem\.|trunk_output\.block(\d)\.block\d-(\d+)\."),
    r"resnet|resnext|wide_resnet": _Layers(r"conv1\.|bn1\.|layer(\d)\.(\d+)\."),
    r"shufflenet": _Layers(r"conv1\.|stage(\d)\.(\d+)\.", r"conv5\."),
    r"vit": _Layers(
        r"class_token|conv_proj\.|encoder\.pos_embedding|encoder\.layers\.encoder_layer_(\d+)\.",
        r"encoder\.ln\.",
    ),
}

_UNDECAYED = (
    "class_token",
    "pos_embedding",
    "relative_position_bias_table",
    "layer_scale",
    "logit_scale",
    "cpb_mlp",
)
"""What timm's versions of torchvision's transformers name in `no_weight_decay`, or keep
one-dimensional."""


def depths(network: nn.Module, name: str) -> dict[str, int]:
    """Return by a parameter's name how many layers it is below the head; 0 learns with the head.

    Args:
        network: A backbone without its last layer.
        name: The backbone's, as in the config.
    """
    if name.startswith(TIMM):
        return _timm_depths(network)
    family = next(
        (layers for pattern, layers in _TORCHVISION.items() if re.match(pattern, name)), None
    )
    assert family is not None, f"the layers of {name} are not listed"
    return _listed_depths([path for path, _ in network.named_parameters()], family)


def is_decayed(network: nn.Module, name: str) -> dict[str, bool]:
    """Return by a parameter's name whether weight decay applies: not to biases, norms, and what the
    network exempts.

    Args:
        network: A backbone without its last layer.
        name: The backbone's, as in the config.
    """
    model: Any = network  # timm adds its own methods to nn.Module
    if name.startswith(TIMM):
        exempt = tuple(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else ()
    else:
        exempt = tuple(f"*{word}*" for word in _UNDECAYED)
    decays = {}
    for path, parameter in network.named_parameters():
        is_exempt = any(fnmatch(path, pattern) for pattern in exempt)
        decays[path] = has_decay(path, parameter) and not is_exempt
    return decays


def has_decay(path: str, parameter: nn.Parameter) -> bool:
    """Return whether weight decay applies to a parameter by its name and shape: not to biases and
    norms."""
    return parameter.ndim > 1 and not path.endswith("bias")


class _WithClassifier(nn.Module):
    """A timm network's parameters, and one for its removed classifier: the head learns at the rate
    of that layer."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        classifier = network.pretrained_cfg.get("classifier") or "classifier"
        name = classifier if isinstance(classifier, str) else classifier[0]
        self.classifier = f"{name}.weight"

    def named_parameters(self, *how: Any, **named: Any) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.network.named_parameters()
        yield self.classifier, nn.Parameter(torch.empty(0))


def _timm_depths(network: Any) -> dict[str, int]:
    whole = _WithClassifier(network)
    if hasattr(network, "group_matcher"):
        from timm.models import group_parameters

        layers: dict[str, int] = group_parameters(
            whole, network.group_matcher(coarse=False), reverse=True
        )
        top = layers[whole.classifier]
    else:
        from timm import optim

        layers = optim.auto_group_layers(network)  # type: ignore[attr-defined,no-untyped-call]
        top = max(layers.values()) + 1
    return {path: top - layers[path] for path, _ in network.named_parameters()}


def _listed_depths(paths: Iterable[str], family: _Layers) -> dict[str, int]:
    """Return the depths of a family whose parameters are named in the order in which they are
    computed with."""
    layers: list[list[str]] = []
    index: dict[Any, int] = {}
    above: list[str] = []
    waiting: list[str] = []
    for path in paths:
        if match := re.match(family.layer, path):
            key = match.groups()
            if key not in index:
                index[key] = len(layers)
                layers.append(waiting)
                waiting = []
            layers[index[key]].append(path)
        elif re.match(family.previous, path):
            layers[-1].append(path)
        elif re.match(family.following, path):
            waiting.append(path)
        else:
            above.append(path)
    depths = {path: len(layers) - number for number, layer in enumerate(layers) for path in layer}
    return depths | dict.fromkeys(above, 0)
