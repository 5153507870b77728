"""Grad-CAM against its definition, on networks whose attention is known, and its place on the
image."""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from codes import raises_code
from PIL import Image, ImageDraw
from torch import nn

from breedlab.data.transforms import EvalTransform
from breedlab.serving.grad_cam import Explainer, grad_cam, last_map, seen
from breedlab.serving.model import Model

SIDE = 64
TRANSFORM = EvalTransform(SIDE, SIDE, "bilinear", (0, 0, 0), (1, 1, 1))


class Colors(nn.Module):
    """Class 0 is how much red there is, class 1 how much blue; a place is 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        conv = nn.Conv2d(3, 2, 8, stride=8, bias=False)
        conv.weight.data.zero_()
        conv.weight.data[0, 0] = conv.weight.data[1, 2] = 1.0
        self.backbone = nn.Sequential(
            OrderedDict(conv=conv, relu=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten())
        )
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.backbone(images.float() / 255)
        return logits


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def two_patches() -> bytes:
    image = Image.new("RGB", (SIDE, SIDE))
    draw = ImageDraw.Draw(image)
    draw.rectangle((8, 16, 15, 23), fill="red")
    draw.rectangle((48, 40, 55, 47), fill=(0, 0, 200))
    return jpeg(image)


@pytest.mark.parametrize(("index", "row", "column"), [(0, 2, 1), (1, 5, 6)])
def test_each_class_is_explained_by_its_own_patch(index: int, row: int, column: int) -> None:
    found = Explainer(Colors(), TRANSFORM).explain(two_patches(), index)  # type: ignore[arg-type]
    assert found.heat.shape == (8, 8) and found.heat[row, column] == 1
    assert np.count_nonzero(found.heat) == 1


def test_the_likeliest_class_is_explained_where_none_is_named() -> None:
    assert Explainer(Colors(), TRANSFORM).explain(two_patches()).index == 0  # type: ignore[arg-type]


def test_the_map_is_the_definitions() -> None:
    chance = torch.Generator().manual_seed(0)
    activations, gradient = (torch.randn(5, 3, 4, generator=chance) for _ in range(2))
    expected = np.zeros((3, 4))
    for channel in range(5):
        expected += gradient[channel].numpy().mean() * activations[channel].numpy()
    np.testing.assert_allclose(
        grad_cam(activations, gradient), np.maximum(expected, 0), rtol=1e-5, atol=1e-6
    )


def test_a_network_without_places_says_so() -> None:
    blind = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 7), nn.ReLU())
    with raises_code("BL504"):
        last_map(blind, SIDE)


def test_an_exported_model_is_explained_and_left_as_it_was(model: Model, image: bytes) -> None:
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    expected = model.scores(model.prepare(image)[None])
    explainer = Explainer(model.network, model.transform)
    found = explainer.explain(image, 1)
    # At 32 pixels the last stage has one place left, which says nothing of where.
    assert explainer.layer == "layer3" and found.heat.shape == (2, 2)
    assert torch.equal(model.scores(model.prepare(image)[None]), expected)
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in model.network.state_dict().items()
    )
    assert not any(module._forward_hooks for module in model.network.modules())


@pytest.mark.parametrize("size", [(200, 100), (100, 160), (64, 64), (301, 97)])
def test_the_box_is_what_the_network_saw(size: tuple[int, int]) -> None:
    transform = EvalTransform(50, 40, "bilinear", (0, 0, 0), (1, 1, 1))
    box = seen(transform, *size)
    left, top = box.x * size[0], box.y * size[1]
    right, bottom = left + box.width * size[0], top + box.height * size[1]
    image = Image.new("RGB", size, "red")
    ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill="white")
    inside: Any = transform(np.array(image))[1]  # green: 255 in white, 0 in red
    assert (inside[2:-2, 2:-2] == 255).all()
    # Larger by a few pixels it would have been seen: the frame around the box reaches to the crop's
    # edge.
    assert inside[:, :2].float().mean() > 150 and inside[:2].float().mean() > 150
    smaller = Image.new("RGB", size, "white")
    ImageDraw.Draw(smaller).rectangle((left + 8, top + 8, right - 9, bottom - 9), fill="red")
    assert (transform(np.array(smaller))[1, 0] == 255).all()
