"""A model in the layout of timm and the Hugging Face Hub: `config.json`, `model.safetensors`,
`README.md`."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from breedlab.errors import ServingError
from breedlab.models.backbone import TIMM, import_timm
from breedlab.models.classifier import MLP
from breedlab.serving.engine_loading import probe
from breedlab.serving.model import Model
from breedlab.serving.model_card import model_card

_FAR = 1e-4
"""The largest accepted difference of two logits, as a share of the largest logit."""


def write_timm_folder(model: Model, folder: Path) -> None:
    """Write a model so that `timm.create_model("local-dir:FOLDER", pretrained=True)` reads it.

    The temperature is folded into the last layer: softmax of timm's logits gives breedlab's
    probabilities.

    Raises:
        ServingError: If timm has no place for the network or its head, the folder holds something
            else, or timm answers otherwise.
    """
    architecture = model.network.architecture
    if not architecture.name.startswith(TIMM):
        raise ServingError(
            f"--timm: {architecture.name} is torchvision's; expected a network of timm's, such as"
            f" model.name={TIMM}resnet18 (--onnx and --torch take every network)"
        )
    if architecture.head_type != MLP or architecture.head:
        shape = architecture.head_type if architecture.head_type != MLP else [*architecture.head]
        raise ServingError(
            f"--timm: the head is {shape}, but a timm network ends in one layer: train"
            " with model.head=[] (--onnx and --torch take every head)"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ServingError(f"{folder}: exists and is not an empty folder; name another")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".breedlab-", dir=folder.parent) as scratch:
        folder_here = Path(scratch) / "made"
        folder_here.mkdir()
        state, config = _converted(model)
        save_file(state, str(folder_here / "model.safetensors"), {"format": "pt"})
        (folder_here / "config.json").write_text(
            json.dumps(config, indent=2, ensure_ascii=False), "utf-8"
        )
        (folder_here / "README.md").write_text(model_card(model, in_timm=True), "utf-8")
        _check(model, folder_here)
        if folder.exists():
            folder.rmdir()
        shutil.move(folder_here, folder)


def _timm_name(model: Model) -> str:
    architecture = model.network.architecture
    name = architecture.name.removeprefix(TIMM)
    return f"{name}.{architecture.tag}" if architecture.tag else name


def _converted(model: Model) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the weights by timm's names, and the content of config.json."""
    timm = import_timm()
    count, transform = len(model.classes), model.transform
    network: Any = timm.create_model(_timm_name(model), pretrained=False, num_classes=count)
    layer = network.get_classifier()
    path = next((name for name, module in network.named_modules() if module is layer), None)
    if path is None or not isinstance(layer, nn.Linear):
        raise ServingError(
            f"--timm: {model.network.architecture.name} has a classifier that is not one fully"
            " connected layer; use --onnx or --torch"
        )
    own = model.network.state_dict()
    state = {
        name.removeprefix("backbone."): tensor
        for name, tensor in own.items()
        if name.startswith("backbone.")
    }
    (last,) = (module for module in model.network.head.modules() if isinstance(module, nn.Linear))
    temperature = model.answers.temperature
    state[f"{path}.weight"] = last.weight.detach() / temperature
    state[f"{path}.bias"] = last.bias.detach() / temperature
    pretrained = {
        "tag": model.network.architecture.tag or "breedlab",
        "input_size": [3, transform.crop, transform.crop],
        "interpolation": transform.interpolation,
        # timm rounds crop / crop_pct down, which must give `resize` back
        "crop_pct": transform.crop / (transform.resize + 1e-3),
        "crop_mode": "center",
        "mean": [*model.network.architecture.mean],
        "std": [*model.network.architecture.std],
        "num_classes": count,
        "classifier": path,
    }
    config = {
        "architecture": model.network.architecture.name.removeprefix(TIMM),
        "num_classes": count,
        "num_features": int(network.num_features),
        "label_names": [*model.classes],
        "pretrained_cfg": pretrained,
    }
    return {name: tensor.cpu().contiguous() for name, tensor in state.items()}, config


def _check(model: Model, folder: Path) -> None:
    """Raise unless timm, from the folder alone, answers what the model answers."""
    timm = import_timm()
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    image = probe(model.transform.crop)
    with torch.no_grad():
        expected = model.network(image.to(model.device)).cpu() / model.answers.temperature
        logits = network(model.network.normalized(image.to(model.device)).cpu())
    apart = float((logits - expected).abs().max())
    if not apart <= _FAR * max(1.0, float(expected.abs().max())):
        raise ServingError(
            f"--timm: timm would answer otherwise than the model (logits differ by up to"
            f" {apart:.3g}); nothing is written"
        )
