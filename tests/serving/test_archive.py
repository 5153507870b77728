"""From a trained classifier to an archive that answers the same, with nothing in it but data and
our code."""

from __future__ import annotations

import base64
import gzip
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from codes import Names, raises_code

from breedlab.models.classifier import Classifier
from breedlab.serving import handler
from breedlab.serving.archive import opened, write_archive
from breedlab.serving.model import Model
from breedlab.serving.response import Answer
from breedlab.training.context import TrainingContext


def test_the_archive_answers_what_the_module_answers(
    tmp_path: Path, folder: Path, context: TrainingContext, classifier: Classifier
) -> None:
    """Module, data module, archive and handler: one set of logits."""
    write_archive(tmp_path / "model.tar.gz", folder)
    data = context.data(context.config)
    batch, _ = next(iter(data.test_dataloader()))
    with torch.no_grad():
        own = classifier(batch).numpy()
    files = [image.path.read_bytes() for image in context.report.images.splits["test"]][: len(own)]
    with opened(tmp_path / "model.tar.gz") as unpacked:
        model = handler.model_fn(str(unpacked))
    request = json.dumps([{"image": base64.b64encode(file).decode()} for file in files])
    scores = handler.predict_fn(handler.input_fn(request, "application/json"), model).scores
    np.testing.assert_allclose(scores, own, rtol=1e-4, atol=1e-5)
    assert model.classes == context.classes
    assert model.lineage == {"run": "test"}


def test_the_archive_holds_data_and_our_code_and_nothing_else(folder: Path) -> None:
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"model.safetensors", "model.json", "code/inference.py", "code/requirements.txt"} < files
    rest = files - {"model.safetensors", "model.json", "code/requirements.txt"}
    assert all(name.startswith("code/") and name.endswith(".py") for name in rest)
    assert "torch" not in {
        line.split("==")[0] for line in (folder / "code/requirements.txt").read_text().split()
    }


def test_other_tools_read_the_archive_which_is_as_small_as_theirs(tmp_path: Path) -> None:
    content = tmp_path / "content"
    (content / "code").mkdir(parents=True)
    torch.manual_seed(1)
    (content / "weights").write_bytes(torch.randn(500_000).numpy().tobytes())
    (content / "code" / "own.py").write_text("answer = 42\n" * 100)
    write_archive(tmp_path / "one.tar.gz", content)
    write_archive(tmp_path / "two.tar.gz", content)
    packed = (tmp_path / "one.tar.gz").read_bytes()
    assert packed == (tmp_path / "two.tar.gz").read_bytes()
    subprocess.run(["gzip", "-t", tmp_path / "one.tar.gz"], check=True)
    (tmp_path / "unpacked").mkdir()
    subprocess.run(
        ["tar", "-xzf", tmp_path / "one.tar.gz", "-C", tmp_path / "unpacked"], check=True
    )
    files = [path.relative_to(content) for path in content.rglob("*") if path.is_file()]
    assert len(files) == 2
    for file in files:
        assert (tmp_path / "unpacked" / file).read_bytes() == (content / file).read_bytes()
    assert len(packed) < len(gzip.compress(gzip.decompress(packed), 1)) + 3000


def test_its_code_runs_without_what_training_needs(
    folder: Path, image: bytes, tmp_path: Path
) -> None:
    """In a process where lightning, hydra, pydantic and the installed breedlab are not to be
    had."""
    (tmp_path / "photo.jpg").write_bytes(image)
    program = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lightning", "hydra", "omegaconf", "pydantic", "optuna", "torchmetrics", "rich"):
            raise ImportError(f"{name} is not in the container")
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1] + "/code")
import inference, breedlab
assert breedlab.__file__.startswith(sys.argv[1]), breedlab.__file__
model = inference.model_fn(sys.argv[1])
images = inference.input_fn(open(sys.argv[2], "rb").read(), "image/jpeg")
body, kind = inference.output_fn(inference.predict_fn(images, model), "application/json")
print(kind, body.decode())
"""  # noqa: E501
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), str(tmp_path / "photo.jpg")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kind, body = done.stdout.split(" ", 1)
    assert kind == "application/json" and np.array(json.loads(body)).shape == (1, 4)


def test_the_same_content_makes_the_same_bytes(tmp_path: Path, folder: Path) -> None:
    write_archive(tmp_path / "a.tar.gz", folder)
    (folder / "model.json").touch()
    write_archive(tmp_path / "b.tar.gz", folder)
    with tarfile.open(tmp_path / "a.tar.gz") as a, tarfile.open(tmp_path / "b.tar.gz") as b:
        assert [(m.name, m.size, m.mtime, m.mode) for m in a] == [
            (m.name, m.size, m.mtime, m.mode) for m in b
        ]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("missing", "BL500"),
        ("text", "BL505"),
        ("cut", "BL505"),
        ("empty folder", "BL500"),
        ("other archive", "BL507"),
    ],
)
def test_what_is_no_model_is_named(tmp_path: Path, folder: Path, kind: str, code: str) -> None:
    path = tmp_path / "model.tar.gz"
    if kind == "text":
        path.write_text("no archive")
    if kind == "cut":
        write_archive(path, folder)
        path.write_bytes(path.read_bytes()[:1000])
    if kind == "other archive":
        with tarfile.open(path, "w:gz") as archive:
            archive.addfile(tarfile.TarInfo("readme"), io.BytesIO())
    if kind == "empty folder":
        path = tmp_path / "run"
        path.mkdir()
    with raises_code(code, names="model.tar.gz"), opened(path):
        pass


def test_of_several_runs_one_has_to_be_named(tmp_path: Path) -> None:
    for name in ("2026-01-01", "2026-01-02"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.tar.gz").touch()
    with (
        raises_code("BL500", names="2026-01-02"),
        opened(tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    "kind",
    [
        "image/jpeg",
        "image/jpg",
        "application/x-image",
        "application/octet-stream",
        "image/jpeg; q=1",
    ],
)
def test_a_images_bytes_are_a_request(folder: Path, image: bytes, kind: str) -> None:
    model = handler.model_fn(str(folder))
    scored = handler.predict_fn(handler.input_fn(image, kind), model)
    answer, answered = handler.output_fn(scored, "application/json")
    assert answered == "application/json"
    assert np.argmax(json.loads(answer)) == scored.scores.argmax()
    binary, answered = handler.output_fn(scored, "application/x-npy")
    assert answered == "application/x-npy"
    np.testing.assert_array_equal(np.load(io.BytesIO(binary)), scored.scores)


@pytest.mark.parametrize(
    ("body", "kind", "status", "code", "names"),
    [
        (b"x", "text/csv", 415, "BL512", "text/csv"),
        (b"x", "", 415, "BL512", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n", "image/jpeg", 415, "BL512", ("image/jpeg", "PNG")),
        ("text", "image/jpeg", 400, "BL514", "bytes"),
        (b"{", "application/json", 400, "BL514", "JSON"),
        (b"[]", "application/json", 400, "BL514", "0 images"),
        (b"[1]", "application/json", 400, "BL502", '{"image": '),
        (b'{"image": "%%%"}', "application/json", 400, "BL502", "base64"),
        (b'{"image": 3}', "application/json", 400, "BL502", '{"image": '),
        ('{"image": "é"}', "application/json", 400, "BL502", "base64"),
        (b'{"image": "data:image/jpeg,aGk="}', "application/json", 400, "BL502", "data URI"),
        (b"\xff", "application/json", 400, "BL514", "UTF-8"),
        (b"9" * 5000, "application/json", 400, "BL514", "number"),
        (b'{"url": 3}', "application/json", 400, "BL502", '{"url": '),
        ("[" + "[]," * 9999 + "[]]", "application/json", 400, "BL514", '{"image": '),
    ],
)
def test_a_bad_request_is_told_why(
    body: bytes | str, kind: str, status: int, code: str, names: Names
) -> None:
    with raises_code(code, names=names) as caught:
        handler.input_fn(body, kind)
    assert caught.value.status == status


def test_no_address_is_asked_unless_the_archive_says_so(folder: Path) -> None:
    images = handler.input_fn('{"url": "http://127.0.0.1/x.jpg"}', "application/json")
    with raises_code("BL503") as caught:
        handler.predict_fn(images, handler.model_fn(str(folder)))
    assert caught.value.status == 400


def test_bytes_that_are_no_image_are_the_clients_fault(folder: Path) -> None:
    model = handler.model_fn(str(folder))
    with raises_code("BL208", names="the image ") as caught:
        handler.predict_fn([b"hello"], model)
    assert caught.value.status == 400


def test_an_accept_that_is_not_written_is_refused(folder: Path) -> None:
    model = handler.model_fn(str(folder))
    with raises_code("BL513", names="text/html") as caught:
        handler.output_fn(Answer(np.zeros((1, 2)), model), "text/html")
    assert caught.value.status == 406


def described(folder: Path, copy: Path, **architecture: object) -> Path:
    """Return a copy of an archive's folder whose model.json names another architecture."""
    shutil.copytree(folder, copy)
    model = json.loads((copy / "model.json").read_text())
    model["architecture"] |= architecture
    (copy / "model.json").write_text(json.dumps(model))
    return copy


def test_a_head_that_nothing_here_registers_is_told_with_where_plugins_come_from(
    folder: Path, tmp_path: Path
) -> None:
    """A bare archive does not name the plugin that a run directory does."""
    archive = described(folder, tmp_path / "content", head_type="of_a_plugin", head_settings={})
    with raises_code("BL507", names=("'of_a_plugin'", "run directory", "plugins=[my_package]")):
        Model(archive)


def test_an_unknown_backbone_is_told_without_a_word_on_plugins(
    folder: Path, tmp_path: Path
) -> None:
    archive = described(folder, tmp_path / "content", name="resnet_of_nobody")
    with raises_code("BL507", names="resnet_of_nobody") as caught:
        Model(archive)
    assert "plugin" not in str(caught.value)


def test_a_model_of_timm_without_timm_names_the_extra(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    archive = described(folder, tmp_path / "content", name="timm/resnet10t")
    with raises_code("BL401", names="breedlab[timm]"):
        Model(archive)
