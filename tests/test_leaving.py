"""The README and docs/leaving.md, as somebody reads them who goes on without breedlab: their lines
are run as they stand."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import breedlab
from breedlab.archives import write_archive
from breedlab.data.transforms import EvalTransform
from breedlab.models import backbone as backbones
from breedlab.models.classifier import Architecture, Classifier
from breedlab.serving.archive import write_folder

ROOT = Path(__file__).resolve().parents[1]
README, PAGE = ROOT / "README.md", ROOT / "docs" / "leaving.md"
_REPORT = """
import sys
assert not [name for name in sys.modules if name.split(".")[0] == "breedlab"]
print(json.dumps(dict(zip(about["classes"], probabilities[0].tolist()))))
"""


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def script(name: str) -> str:
    """The page's lines for a network."""
    timm, torchvision = blocks(README)[1], blocks(PAGE)[0]
    if name.startswith("timm/"):
        return timm
    return re.sub(r"^backbone = .*\n", torchvision, timm, flags=re.MULTILINE)


def test_they_are_ten_lines_of_a_statement_each() -> None:
    imports, code = blocks(README)[1].split("\n\n")
    assert all(isinstance(each, ast.Import | ast.ImportFrom) for each in ast.parse(imports).body)
    assert len(code.strip().splitlines()) == len(ast.parse(code).body) == 10


@pytest.mark.parametrize(
    ("name", "head"),
    [("timm/test_efficientnet", (8,)), ("resnet18", ())],
)
def test_plain_pytorch_answers_what_breedlab_answers(
    name: str, head: tuple[int, ...], image_folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    classes = ("Basset", "Beagle", "Boxer")
    shape = Architecture(name, len(classes), head, 0.2, mean, std)
    network = Classifier(shape, backbones.build(name), side=64).eval()
    with torch.no_grad():  # so that the classes differ by more than rounding could
        list(network.head.parameters())[-1].copy_(torch.tensor([0.0, 1.0, 2.0]))
    folder = tmp_path / "content"
    folder.mkdir()
    transform = EvalTransform(72, 64, "bicubic", mean, std)
    answers = {"temperature": 1.7}
    write_folder(folder, network, transform, classes, {}, answers=answers)
    write_archive(tmp_path / "model.tar.gz", folder)
    # of another shape than a square, and lossless under a name that says otherwise: the very pixels
    with Image.open(next((image_folder / "test").rglob("*.jpg"))) as picture:
        picture.resize((131, 90)).save(tmp_path / "photo.jpg", "PNG")
    ended = subprocess.run(
        [sys.executable, "-c", script(name) + _REPORT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    (expected,) = breedlab.load(tmp_path / "model.tar.gz").predict(tmp_path / "photo.jpg")
    assert expected.probability > 1.1 / len(classes)
    assert found == pytest.approx(dict(expected.probabilities), abs=1e-5)
