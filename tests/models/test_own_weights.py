"""Starting from weights of one's own: what is taken, what is left out, and what is refused in one
line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from codes import check_names, raises_code
from safetensors.torch import save_file
from torchvision import models

from breedlab.models import backbone as backbones

State = dict[str, torch.Tensor]


def state(classes: int = 1000) -> State:
    torch.manual_seed(3)
    numbers = models.resnet18().state_dict()
    return {**numbers, "fc.weight": torch.zeros(classes, 512), "fc.bias": torch.zeros(classes)}


def under(prefix: str) -> Callable[[], State]:
    return lambda: {f"{prefix}{name}": tensor for name, tensor in state().items()}


def without_last_layer() -> State:
    return {name: tensor for name, tensor in state().items() if not name.startswith("fc.")}


@pytest.mark.parametrize(
    "content",
    [
        state,
        lambda: state(5),
        without_last_layer,
        under("module."),
        under("model.backbone."),
        under("module._orig_mod."),
        lambda: {"state_dict": under("model.")(), "epoch": 3},
        lambda: {"model": state(), "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
        lambda: {
            **without_last_layer(),
            "head.0.weight": torch.zeros(7, 512),
            "head.0.bias": torch.zeros(7),
        },
    ],
)
def test_what_training_scripts_save_is_taken_whatever_is_around_it(
    content: Callable[[], Any], tmp_path: Path
) -> None:
    torch.save(content(), tmp_path / "own.pth")
    taken = backbones.build("resnet18", str(tmp_path / "own.pth")).network.state_dict()
    expected = without_last_layer()
    assert taken.keys() == expected.keys()
    assert all(torch.equal(taken[name], expected[name]) for name in expected)


def nan() -> State:
    return {**state(), "conv1.weight": torch.full((64, 3, 7, 7), float("nan"))}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (lambda: models.resnet34().state_dict(), "layer1.2."),
        (lambda: models.resnet50().state_dict(), "layer1.0.conv1.weight"),
        (lambda: models.mobilenet_v3_small().state_dict(), "0 of the 120 tensors of resnet18"),
        (lambda: {"epoch": 3}, "state dict"),
        (nan, ("NaN", "1 of 120 tensors", "conv1.weight")),
    ],
)
def test_weights_of_another_network_are_refused_in_a_line(
    content: Callable[[], Any], named: str | tuple[str, ...], tmp_path: Path
) -> None:
    torch.save(content(), tmp_path / "own.pth")
    with raises_code("BL120", names=("model.weights", "own.pth")) as caught:
        backbones.build("resnet18", str(tmp_path / "own.pth"))
    check_names(str(caught.value), named)
    assert "\n" not in str(caught.value)


def test_a_file_that_does_not_say_its_transform_does_not_take_that_of_a_newer_recipe(
    tmp_path: Path,
) -> None:
    """resnet50's DEFAULT is torchvision's second recipe, which resizes to 232; the usual is 256."""
    torch.save(models.resnet50().state_dict(), tmp_path / "own.pth")
    used = backbones.build("resnet50", str(tmp_path / "own.pth")).pretraining
    assert (used.resize, used.crop) == (256, 224)
    assert used.source == "those of IMAGENET1K_V1, since own.pth does not say its own"


def test_a_file_of_torchvisions_is_known_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "resnet50-11ad3fa6.safetensors"
    save_file(models.resnet50().state_dict(), str(file))
    used = backbones.build("resnet50", str(file)).pretraining
    assert (used.resize, used.source) == (232, "those of IMAGENET1K_V2, which this file is")
