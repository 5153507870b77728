"""Backbones by name: any torchvision classifier, any timm model, without their last layer."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from breedlab.errors import BackboneError, MissingExtra
from breedlab.weight_files import ENDINGS

if TYPE_CHECKING:
    from breedlab.models.weights import Loaded

TIMM = "timm/"
PACKAGE = "package:"
_HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_INPUT_IN_HALVES = ("googlenet", "inception_v3")
"""Their weights were trained with 0.5, but torchvision normalizes with ImageNet's values and has
the network undo that (`transform_input`): an attribute, which no file of weights holds. Here they
get 0.5 from the start."""


@dataclass(frozen=True)
class Pretraining:
    """What the weights were trained with: the defaults of the evaluation transform.

    Sizes in pixels; mean and std per channel, of values scaled to 0..1.

    Attributes:
        source: Whose numbers these are, as text.
    """

    crop: int = 224
    resize: int = 256
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    source: str = "ImageNet's"


@dataclass(frozen=True)
class Backbone:
    """A network from normalized (n, 3, side, side) images to (n, `features`) vectors.

    Attributes:
        tag: The timm weights that it was built for, by whose settings timm shapes some networks.
        loaded: What it took from a file; None if its weights are not from one.
        trainable: The parameters that train where nothing is frozen, as the network was built.
    """

    network: nn.Module
    features: int
    pretraining: Pretraining
    tag: str = ""
    loaded: Loaded | None = None
    trainable: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        # recorded now, since others that share the network may freeze it
        parameters = self.network.named_parameters()
        trainable = frozenset(name for name, parameter in parameters if parameter.requires_grad)
        object.__setattr__(self, "trainable", trainable)

    def unfrozen_copy(self) -> nn.Module:
        """Copy the network as it was built, whatever has been frozen since."""
        network = deepcopy(self.network)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in self.trainable)
        return network


def build(name: str, weights: str = "none", tag: str = "") -> Backbone:
    """Build a backbone.

    Args:
        name: A torchvision classifier's name, or `timm/NAME`.
        weights: A name that the library knows (`DEFAULT` is its best), the path of a file that
            `weights.read` reads, `package:NAME`, or `none` for random numbers.
        tag: Of `weights=none`, the timm weights for whose settings to build.

    Raises:
        ConfigError: If the name or the weights are unknown, do not fit, or cannot be downloaded.
        MissingExtra: If timm or the weights' package is not installed.
    """
    if name.startswith(TIMM):
        return _build_timm(name.removeprefix(TIMM), weights, tag)
    return _build_torchvision(name, weights)


def parameters_of(name: str, tag: str = "") -> int | None:
    """Return how many parameters a network has with its last layer, without memory for any; None if
    that is unknown.

    Args:
        name: As in `build`.
        tag: As in `build`.
    """
    import torch

    if not name.startswith(TIMM):
        from torchvision import models

        if name not in models.list_models(module=models):
            return None
        return next(
            (int(weights.meta["num_params"]) for weights in models.get_model_weights(name)), None
        )
    try:
        timm = import_timm()
        full = name.removeprefix(TIMM)
        with torch.device("meta"):
            network = timm.create_model(f"{full}.{tag}" if tag else full, pretrained=False)
    except Exception:
        # `build` says what is wrong with the name; a few networks compute their shapes with numbers
        return None
    return sum(int(parameter.numel()) for parameter in network.parameters())


def _build_torchvision(name: str, weights: str) -> Backbone:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise BackboneError(
            "model.name: torchvision has no classifier"
            f" {name!r}{_close(name, models.list_models(module=models))}"
        )
    enum = models.get_model_weights(name)
    loaded = None
    if weights in enum.__members__ or weights == "DEFAULT":
        entry = enum[weights] if weights != "DEFAULT" else enum.DEFAULT
        pretraining = _torchvision_pretraining(name, entry, f"those of {entry.name}")
        network = _downloaded(lambda: models.get_model(name, weights=entry), entry.url)
    elif is_path(weights) or weights == "none":
        pretraining = Pretraining()
        network = models.get_model(name, weights=None, **_quiet(name))
    else:
        raise BackboneError(_unknown_weights(name, weights, list(enum.__members__)))
    whole = set(network.state_dict())
    # GoogLeNet and Inception: their side heads go with the last layer
    if getattr(network, "aux_logits", False):
        for side, value in {
            "aux_logits": False,
            "aux1": None,
            "aux2": None,
            "AuxLogits": None,
        }.items():
            if hasattr(network, side):
                setattr(network, side, value)
    if name in _INPUT_IN_HALVES:
        setattr(network, "transform_input", False)  # noqa: B010
    last = last_layer(network)[0]
    features = cut_last_layer(network)
    if is_path(weights):
        from breedlab.models.weights import load, read

        loaded = load(
            network, read(Path(weights)), name, [*(whole - set(network.state_dict())), f"{last}."]
        )
        entry, source = _torchvision_weights_in(Path(weights), list(enum))
        pretraining = _carried(loaded) or _torchvision_pretraining(name, entry, source)
    return Backbone(network, features, pretraining, loaded=loaded)


def _quiet(name: str) -> dict[str, Any]:
    """Return the arguments that keep GoogLeNet and Inception from warning of a slow default
    initialization."""
    return {"init_weights": False} if name in _INPUT_IN_HALVES else {}


def _torchvision_pretraining(name: str, weights: Any, source: str) -> Pretraining:
    preset = weights.transforms()
    mean, std = _HALVES if name in _INPUT_IN_HALVES else (tuple(preset.mean), tuple(preset.std))
    return Pretraining(
        crop=preset.crop_size[0],
        resize=preset.resize_size[0],
        interpolation=preset.interpolation.value,
        mean=mean,
        std=std,
        source=source,
    )


def _torchvision_weights_in(file: Path, entries: Sequence[Any]) -> tuple[Any, str]:
    """Return which of torchvision's weights a file holds, else the first of `entries`, and why in
    words: a file's name ends in the start of its SHA-256."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    for weights in entries:
        stem = Path(weights.url).stem
        if file.name.startswith(stem) or digest.startswith(stem.rpartition("-")[2]):
            return weights, f"those of {weights.name}, which this file is"
    # Not DEFAULT's: a newer recipe of torchvision's says nothing about a file that is not
    # torchvision's.
    return entries[0], f"those of {entries[0].name}, since {file.name} does not say its own"


def _carried(loaded: Loaded) -> Pretraining | None:
    """Return the transform stored in a breedlab checkpoint or archive; None for any other file."""
    if not loaded.card:
        return None
    transform = loaded.card["transform"]
    mean, std = tuple(transform["mean"]), tuple(transform["std"])
    return Pretraining(
        **{**transform, "mean": mean, "std": std}, source=f"those that {loaded.path} carries"
    )


def import_timm() -> Any:
    """Return timm, imported without wandb.

    timm imports wandb wherever it is installed, for logs that breedlab never has it write, and that
    import takes several times as long as timm itself.
    """
    held_back = "wandb" not in sys.modules
    if held_back:
        sys.modules["wandb"] = None  # type: ignore[assignment]  # how an import is made to fail
    try:
        import timm
    finally:
        if held_back:
            del sys.modules["wandb"]
    return timm


def _build_timm(name: str, weights: str, tag: str) -> Backbone:
    network: Any  # timm adds its own methods to nn.Module
    try:
        timm = import_timm()
    except ImportError as error:
        extra = "pretrained" if weights.startswith(PACKAGE) else "timm"
        raise MissingExtra(
            f"model.name=timm/{name} needs the {extra} extra: pip install 'breedlab[{extra}]'"
        ) from error
    if not timm.is_model(name):
        raise BackboneError(
            f"model.name: timm has no model {name!r}{_close(name, timm.list_models())}"
        )
    tags = [full.split(".", 1)[1] for full in timm.list_pretrained(f"{name}.*") if "." in full]
    if tag and tag not in tags:
        raise BackboneError(
            f"model.name: timm has no weights {tag!r} of {name}, for which this model was built"
        )
    source = "timm's for this model"
    if weights == "DEFAULT" or weights in tags:
        tag = weights if weights in tags else ""
        full = f"{name}.{tag}" if tag else name
        network = _downloaded(lambda: timm.create_model(full, pretrained=True), full)
        source = f"timm's for {weights}"
    elif is_path(weights) or weights.startswith(PACKAGE) or weights == "none":
        if is_path(weights):
            tag = next((t for t in tags if Path(weights).name.startswith(f"{name}.{t}.")), "")
            source = (
                f"timm's for {tag}"
                if tag
                else f"timm's for this model, since {weights} does not say its own"
            )
        network = timm.create_model(f"{name}.{tag}" if tag else name, pretrained=False)
    else:
        raise BackboneError(_unknown_weights(f"timm/{name}", weights, tags))
    if weights.startswith(PACKAGE):
        from breedlab.models.packages import load_packaged

        load_packaged(network, name, weights.removeprefix(PACKAGE))
    whole = set(network.state_dict())
    if not hasattr(network, "reset_classifier"):
        raise BackboneError(
            f"model.name: timm/{name} is the encoder of a larger model, without features for a"
            " classifier; expected a classifier of images, such as timm/vit_base_patch16_224"
        )
    network.reset_classifier(0)
    loaded = None
    if is_path(weights):
        from breedlab.models.weights import load, read

        loaded = load(
            network, read(Path(weights)), f"timm/{name}", whole - set(network.state_dict())
        )
    cfg = network.pretrained_cfg
    crop = int(cfg["input_size"][-1])
    pretraining = Pretraining(
        crop=crop,
        resize=int(crop / cfg.get("crop_pct", 0.875)),
        interpolation=(
            cfg["interpolation"] if cfg["interpolation"] in ("bilinear", "bicubic") else "bicubic"
        ),
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        source=source,
    )
    features = int(getattr(network, "head_hidden_size", None) or network.num_features)
    return Backbone(
        network, features, (_carried(loaded) if loaded else None) or pretraining, tag, loaded
    )


def _downloaded(make: Callable[[], nn.Module], source: str) -> nn.Module:
    try:
        return make()
    except Exception as error:  # urllib, hub and socket errors share no base but this one
        raise BackboneError(
            f"model.weights: could not be downloaded from {source} ({type(error).__name__}:"
            f" {str(error)[:120]}).\n  Without a connection: give a file"
            " (model.weights=/path/to/weights.safetensors or .pth), use weights from a package"
            " (model=efficientnet_lite0), or model.weights=none."
        ) from error


def last_layer(network: nn.Module) -> tuple[str, int]:
    """Return the path of the classification layer, and its input width."""
    linear = [
        (path, module) for path, module in network.named_modules() if isinstance(module, nn.Linear)
    ]
    if linear:
        path, last = linear[-1]
        return path, last.in_features
    # SqueezeNet classifies by a 1x1 convolution
    path, conv = [(p, m) for p, m in network.named_modules() if isinstance(m, nn.Conv2d)][-1]
    return path, conv.in_channels


def cut_last_layer(network: nn.Module) -> int:
    """Replace the classification layer by an identity and return its input width."""
    path, width = last_layer(network)
    network.set_submodule(path, nn.Identity())
    return width


def is_path(weights: str) -> bool:
    """Return whether `model.weights` names a file, whether or not it exists."""
    return Path(weights).name.endswith(ENDINGS) or Path(weights).is_file()


def _unknown_weights(name: str, weights: str, names: list[str]) -> str:
    choices = ", ".join(["DEFAULT", *names]) if names else "none that can be downloaded"
    expected = f"one of {choices}, a .safetensors or .pth file, a run, or none"
    return f"model.weights: got {weights!r} for {name}; expected {expected}"


def _close(name: str, names: list[str]) -> str:
    close = get_close_matches(name, names, n=3)
    return f"; did you mean {', '.join(close)}?" if close else ""
