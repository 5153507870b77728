"""Freezing, cutting at the boundary, and building any backbone."""

from __future__ import annotations

import pytest
import torch
from codes import raises_code

from breedlab.models import backbone as backbones
from breedlab.models.boundary import NotSeparable
from breedlab.models.classifier import Architecture, Classifier


def make(name: str, freeze: str = "none", side: int = 64, classes: int = 5) -> Classifier:
    architecture = Architecture(name, classes, (16,), 0.1, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    torch.manual_seed(0)
    return Classifier(architecture, backbones.build(name), freeze, side)


def images(count: int = 3, side: int = 64) -> torch.Tensor:
    return torch.randint(
        0,
        256,
        (count, 3, side, side),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(1),
    )


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("alexnet", 64),
        ("convnext_tiny", 64),
        ("densenet121", 64),
        ("efficientnet_b0", 64),
        ("googlenet", 64),
        ("inception_v3", 96),
        ("mnasnet0_5", 64),
        ("mobilenet_v3_small", 64),
        ("regnet_y_400mf", 64),
        ("resnet18", 64),
        ("shufflenet_v2_x0_5", 64),
        ("squeezenet1_1", 64),
        ("swin_t", 64),
        ("vgg11", 64),
        ("vit_b_32", 224),
        ("timm/tf_efficientnet_lite0", 64),
        ("timm/resnet18", 64),
    ],
)
def test_any_family_of_backbones_classifies(name: str, side: int) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    classifier = make(name, "backbone", side)
    for mode in (False, True):
        assert classifier.train(mode)(images(2, side)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "stage", "side"),
    [
        ("resnet18", "conv1", 64),
        ("resnet18", "layer1", 64),
        ("resnet18", "layer3", 64),
        ("resnet18", "layer4", 64),
        ("mobilenet_v3_small", "features.4", 64),
        ("densenet121", "features.denseblock2", 64),
        ("vit_b_32", "encoder", 224),
    ],
)
def test_the_two_halves_of_a_network_make_the_whole(name: str, stage: str, side: int) -> None:
    classifier = make(name, stage, side).eval()
    batch = images(side=side)
    tail = classifier.tail().eval()
    torch.testing.assert_close(
        tail(classifier.to_boundary(batch)), classifier(batch), rtol=1e-4, atol=1e-5
    )


def test_a_cut_tail_trains_the_networks_own_weights() -> None:
    classifier = make("resnet18", "layer3")
    tail = classifier.tail().train()
    before = classifier.backbone.layer4[0].conv1.weight.clone()
    optimizer = torch.optim.SGD([p for p in classifier.parameters() if p.requires_grad], lr=0.1)
    tail(classifier.to_boundary(images())).sum().backward()
    optimizer.step()
    assert not torch.equal(classifier.backbone.layer4[0].conv1.weight, before)


@pytest.mark.parametrize("freeze", ["backbone", "layer2"])
def test_frozen_numbers_take_no_gradient_and_no_statistics(freeze: str) -> None:
    classifier = make("resnet18", freeze).train()
    before = {name: tensor.clone() for name, tensor in classifier.frozen_tensors().items()}
    assert any("running_mean" in name for name in before)
    optimizer = torch.optim.AdamW(
        [p for p in classifier.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5
    )
    for _ in range(3):
        classifier(images()).square().sum().backward()
        optimizer.step()
    after = classifier.frozen_tensors()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_freezing_through_a_stage_leaves_the_later_ones_free() -> None:
    classifier = make("resnet18", "layer2")
    free = {
        name.split(".")[1]
        for name, p in classifier.named_parameters()
        if p.requires_grad and "backbone" in name
    }
    assert free == {"layer3", "layer4"}
    assert classifier.train().backbone.layer3.training and not classifier.backbone.layer2.training
    assert not classifier.backbone.bn1.training


def test_a_frozen_stage_of_a_transformer_freezes_its_tokens_and_positions() -> None:
    classifier = make("vit_b_32", "encoder.layers", 224)
    assert not classifier.backbone.class_token.requires_grad
    assert not classifier.backbone.encoder.pos_embedding.requires_grad


def test_an_unknown_stage_is_refused_with_those_there_are() -> None:
    with raises_code("BL121", names=("model.freeze", "'layer9'", "layer1", "layer4")):
        make("resnet18", "layer9")


@pytest.mark.parametrize(
    ("name", "stage", "side"),
    [
        ("timm/tf_efficientnet_lite0", "blocks.4", 64),
        ("timm/mixnet_s", "blocks.3", 64),
        ("timm/vit_tiny_patch16_224", "blocks.8", 224),
        ("timm/swin_tiny_patch4_window7_224", "layers.2", 224),
    ],
)
def test_timms_networks_are_cut_exactly(name: str, stage: str, side: int) -> None:
    """Their layers read sizes in Python, and take what nobody gives them."""
    classifier = make(name, stage, side).eval()
    images = torch.randint(0, 255, (2, 3, side, side), dtype=torch.uint8)
    with torch.inference_mode():
        cut = classifier.tail().eval()(classifier.to_boundary(images))
        torch.testing.assert_close(cut, classifier(images), rtol=0, atol=0)


def test_nothing_frozen_cannot_be_cut() -> None:
    with pytest.raises(NotSeparable):
        make("resnet18").tail()


def test_normalization_is_that_of_the_architecture() -> None:
    classifier = make("resnet18")
    gray = torch.full((1, 3, 8, 8), 128, dtype=torch.uint8)
    assert classifier.normalized(gray).mean().item() == pytest.approx(
        (128 / 255 - 0.5) / 0.25, abs=1e-5
    )
