"""Layers and weight decay of every family, judged by timm's own `param_groups_layer_decay`."""

from __future__ import annotations

import re
from collections import Counter
from importlib import import_module
from typing import Any

import pytest
import torch
from torchvision import models

from breedlab.catalogue import catalogue
from breedlab.models.backbone import cut_last_layer, import_timm
from breedlab.models.depth import _TORCHVISION, depths, is_decayed

timm = import_timm()
param_groups_layer_decay = import_module("timm.optim").param_groups_layer_decay

TWINS = {
    "convnext_tiny": "convnext_tiny",
    "densenet121": "densenet121",
    "efficientnet_b0": "efficientnet_b0",
    "inception_v3": "inception_v3",
    "mnasnet1_0": "mnasnet_100",
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "regnet_y_400mf": "regnety_004",
    "resnet18": "resnet18",
    "swin_t": "swin_tiny_patch4_window7_224",
    "vgg11": "vgg11",
    "vgg11_bn": "vgg11_bn",
    "vit_b_32": "vit_base_patch32_224",
}
"""The same networks in torchvision and in timm, parameter by parameter."""

WITHOUT_TWIN = {
    "alexnet": 6,
    "googlenet": 11,
    "maxvit_t": 6,
    "shufflenet_v2_x0_5": 17,
    "squeezenet1_0": 9,
    "swin_v2_t": 13,
}
"""How many layers the others have below the head or with it."""


def torchvision_backbone(name: str) -> torch.nn.Module:
    quiet = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    try:
        with torch.device("meta"):
            network = models.get_model(name, weights=None, **quiet)
    except NotImplementedError:  # RegNets compute their widths with tensors
        network = models.get_model(name, weights=None)
    for side in ("aux1", "aux2", "AuxLogits"):
        if hasattr(network, side):
            setattr(network, side, None)
    cut_last_layer(network)
    return network


def timm_network(name: str) -> Any:
    with torch.device("meta"):
        return timm.create_model(name, num_classes=10)


def judged(network: Any) -> list[dict[str, Any]]:
    exempt = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        network, weight_decay=0.1, no_weight_decay_list=exempt, layer_decay=0.5
    )
    return groups


@pytest.mark.parametrize(
    "name",
    [
        "beit_base_patch16_224",
        "cait_xxs24_224",
        "convnext_atto",
        "deit_tiny_distilled_patch16_224",
        "efficientnet_lite0",
        "eva02_tiny_patch14_224",
        "maxvit_rmlp_pico_rw_256",
        "mobilenetv3_small_050",
        "pit_ti_224",
        "swin_tiny_patch4_window7_224",
        "vgg11",
        "vit_tiny_patch16_224",
        "xcit_nano_12_p16_224",
    ],
)
def test_a_network_of_timms_has_the_rates_and_the_decay_that_timm_gives_it(name: str) -> None:
    network = timm_network(name)
    theirs = {
        id(p): (g["lr_scale"], g["weight_decay"] > 0) for g in judged(network) for p in g["params"]
    }
    network.reset_classifier(0)
    depth, decayed = depths(network, f"timm/{name}"), is_decayed(network, f"timm/{name}")
    ours = {path: (0.5 ** depth[path], decayed[path]) for path, _ in network.named_parameters()}
    assert ours == {path: theirs[id(parameter)] for path, parameter in network.named_parameters()}
    assert len(set(depth.values())) > 4


@pytest.mark.parametrize("name", TWINS)
def test_a_network_has_the_same_rates_and_decay_from_torchvision_as_from_timm(name: str) -> None:
    network, twin = torchvision_backbone(name), timm_network(TWINS[name])
    depth, decayed = depths(network, name), is_decayed(network, name)
    ours: Counter[tuple[float, bool]] = Counter()
    for path, parameter in network.named_parameters():
        ours[0.5 ** depth[path], decayed[path]] += parameter.numel()
    head = {id(parameter) for parameter in twin.get_classifier().parameters()}
    theirs: Counter[tuple[float, bool]] = Counter()
    for group in judged(twin):
        sizes = [parameter.numel() for parameter in group["params"] if id(parameter) not in head]
        theirs[group["lr_scale"], group["weight_decay"] > 0] += sum(sizes)
    assert +ours == +theirs


@pytest.mark.parametrize("name", WITHOUT_TWIN)
def test_the_other_families_have_their_layers_in_order(name: str) -> None:
    network = torchvision_backbone(name)
    depth = depths(network, name)
    assert len(set(depth.values())) == WITHOUT_TWIN[name]
    assert list(depth.values()) == sorted(depth.values(), reverse=True)


def test_every_family_of_the_catalogue_is_listed_once() -> None:
    for name in catalogue():
        assert sum(bool(re.match(pattern, name)) for pattern in _TORCHVISION) == 1, name


@pytest.mark.parametrize(
    ("name", "exempt"),
    [
        ("vit_b_32", "class_token"),
        ("swin_v2_t", "logit_scale"),
        ("maxvit_t", "relative_position_bias_table"),
    ],
)
def test_weight_decay_leaves_positions_and_tokens_alone(name: str, exempt: str) -> None:
    network = torchvision_backbone(name)
    decayed = is_decayed(network, name)
    assert not any(
        value for path, value in decayed.items() if exempt in path or path.endswith("bias")
    )
    matrices = [p for path, p in network.named_parameters() if decayed[path]]
    assert sum(p.numel() for p in matrices) > 0.95 * sum(p.numel() for p in network.parameters())
