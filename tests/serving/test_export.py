"""`breedlab export`: other programs' own runtimes are asked what the files answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from codes import exits_with_code, raises_code
from documents import run_by
from PIL import Image
from torch import nn

from breedlab import extras
from breedlab.cli.export import main
from breedlab.data.decode import read_image
from breedlab.data.transforms import EvalTransform
from breedlab.models import backbone as backbones
from breedlab.models.classifier import Architecture, Classifier
from breedlab.serving.archive import write_folder
from breedlab.serving.engine_kinds import EAGER
from breedlab.serving.model import Model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = ("Basset", "Bichon frisé", "a|b *c*")
LINEAGE = {
    "experiment": "dogs",
    "started": "2026-11-28T15:28:01+00:00",
    "command": ["breedlab", "data.root=/home/somebody/private"],
    "test": {"top1": 0.85, "loss": 0.41},
    "test_intervals": {"top1": [0.8, 0.9], "loss": [0.3, 0.5]},
    "data": {"root": "/home/somebody/private", "photos": {"train": 100, "valid": 20, "test": 20}},
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, tuple[int, ...]], Path]:
    """Makes the content of an archive of a network with a temperature."""

    def make(name: str, head: tuple[int, ...]) -> Path:
        torch.manual_seed(5)
        shape = Architecture(name, len(CLASSES), head, 0.2, MEAN, STD)
        network = Classifier(shape, backbones.build(name), side=64).eval()
        for module in network.modules():  # statistics as of a trained network
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.05)
        folder = tmp_path_factory.mktemp("content")
        transform = EvalTransform(72, 64, "bicubic", MEAN, STD)
        write_folder(folder, network, transform, CLASSES, LINEAGE, answers={"temperature": 1.7})
        return folder

    return make


@pytest.fixture(scope="module")
def plain(archive: Callable[[str, tuple[int, ...]], Path]) -> Path:
    return archive("timm/test_efficientnet", ())


@pytest.fixture(scope="module")
def layered(archive: Callable[[str, tuple[int, ...]], Path]) -> Path:
    return archive("resnet18", (8,))


def images(folder: Path, image_folder: Path) -> tuple[list[Path], torch.Tensor, torch.Tensor]:
    """Images, as the network takes them, and our calibrated logits of them."""
    model = Model(folder, torch.device("cpu"), EAGER)
    files = sorted((image_folder / "test").rglob("*.jpg"))[:5]
    batch = torch.stack([model.prepare(read_image(file)) for file in files])
    return files, batch, model.scores(batch)


@pytest.mark.parametrize("content", ["plain", "layered"])
def test_onnx_runtime_answers_the_same(
    content: str, image_folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    folder = request.getfixturevalue(content)
    file = tmp_path / "model.onnx"
    assert main([str(folder), "--onnx", str(file)]) == 0
    onnx.checker.check_model(onnx.load(str(file)), full_check=True)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    _, batch, expected = images(folder, image_folder)
    for count in (1, len(batch)):
        scores, probabilities = session.run(None, {"images": batch[:count].numpy()})
        np.testing.assert_allclose(scores, expected[:count], atol=1e-4)
        np.testing.assert_allclose(probabilities, expected[:count].softmax(1), atol=1e-4)
    about = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(about["classes"])) == CLASSES
    assert (about["resize"], about["crop"], about["temperature"]) == ("72", "64", "1.7")


def test_onnx_keeps_what_pillow_prepares(plain: Path, image_folder: Path, tmp_path: Path) -> None:
    """As somebody does who has the file and its metadata, and neither torch nor breedlab."""
    onnxruntime = pytest.importorskip("onnxruntime")
    main([str(plain), "--onnx", str(tmp_path / "model.onnx")])
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    about = session.get_modelmeta().custom_metadata_map
    files, _, expected = images(plain, image_folder)
    resize, crop = int(about["resize"]), int(about["crop"])
    image = Image.open(files[0]).convert("RGB")
    scale = resize / min(image.size)
    image = image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
    )
    left, top = (image.width - crop) // 2, (image.height - crop) // 2
    pixels = np.asarray(image.crop((left, top, left + crop, top + crop)))
    (_, probabilities) = session.run(None, {"images": pixels.transpose(2, 0, 1)[None]})
    np.testing.assert_allclose(probabilities[0], expected[0].softmax(0), atol=0.02)


def test_an_exported_program_answers_the_same(
    layered: Path, image_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.pt2"
    assert main([str(layered), "--torch", str(file)]) == 0
    about = {"metadata.json": ""}
    program = torch.export.load(str(file), extra_files=about).module()
    _, batch, expected = images(layered, image_folder)
    for count in (1, len(batch)):
        torch.testing.assert_close(program(batch[:count])[0], expected[:count], atol=1e-4, rtol=0)
    assert json.loads(json.loads(about["metadata.json"])["classes"]) == [*CLASSES]


def test_timm_reads_the_folder(plain: Path, image_folder: Path, tmp_path: Path) -> None:
    import timm

    folder = tmp_path / "hub"
    assert main([str(plain), "--timm", str(folder)]) == 0
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    files, _, expected = images(plain, image_folder)
    with torch.no_grad():
        found = network(torch.stack([prepare(Image.open(f).convert("RGB")) for f in files]))
    # timm resizes with Pillow, which rounds otherwise
    torch.testing.assert_close(found.softmax(1), expected.softmax(1), atol=0.02, rtol=0)
    assert network.pretrained_cfg["label_names"] == [*CLASSES]
    assert main([str(plain), "--card", str(tmp_path / "card.md")]) == 0
    card = (folder / "README.md").read_text()
    assert "local-dir" in card and "local-dir" not in (tmp_path / "card.md").read_text()


def test_a_card_says_what_is_known_and_nothing_private(plain: Path, tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    assert main([str(plain), "--card", str(file)]) == 0
    _, head, text = file.read_text().split("---\n", 2)
    (result,) = yaml.safe_load(head)["model-index"][0]["results"]
    assert {"type": "accuracy", "name": "top-1", "value": 0.85} in result["metrics"]
    assert "| 85.0% | 80.0% to 90.0% |" in text and "20 images" in text
    assert "100 train, 20 valid, 20 test" in text
    assert r"Bichon frisé, a\|b \*c\*" in text
    assert "temperature of 1.700" in text
    assert "somebody" not in text and "somebody" not in head


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--timm", "x"], ("--timm", "resnet18")),
        (["--onnx", "nowhere/model.onnx"], "nowhere/model.onnx"),
        (["--card", "."], ".: "),
    ],
)
def test_what_does_not_fit_is_refused(
    words: list[str], named: str | tuple[str, ...], layered: Path, here: Path
) -> None:
    with raises_code("BL500", names=named):
        main([str(layered), *words])
    assert list(here.iterdir()) == []


def test_the_commands_of_the_docs_write_what_they_name(plain: Path, here: Path) -> None:
    pytest.importorskip("onnxruntime")
    (here / "runs").mkdir()
    (here / "runs" / "latest").symlink_to(plain)
    for command in run_by("export"):
        *_, file = args = command.args
        assert main(args[2:]) == 0 and Path(file).exists(), command


def test_nothing_asked_for_is_an_error(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with exits_with_code(capsys, "BL107", names=("--onnx", "--torch", "--timm", "--card")):
        main([str(plain)])


def test_without_the_extra_one_sentence_names_it(
    plain: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "has", lambda extra: False)
    with raises_code("BL401", names=("--onnx", "pip install 'breedlab[onnx]'")):
        main([str(plain), "--onnx", "model.onnx"])


def test_a_timm_head_of_layers_is_refused(
    archive: Callable[[str, tuple[int, ...]], Path], plain: Path, here: Path
) -> None:
    folder = archive("timm/test_efficientnet", (8,))
    with raises_code("BL500", names=("[8]", "model.head=[]")):
        main([str(folder), "--timm", "hub"])
    (here / "hub").mkdir()
    (here / "hub" / "notes").touch()
    with raises_code("BL500", names="hub"):
        main([str(plain), "--timm", "hub"])
