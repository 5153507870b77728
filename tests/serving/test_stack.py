"""The archive under AWS's own inference stack (the toolkit, TorchServe, Java, torch 2.6), asked
over loopback."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from codes import raises_code
from PIL import Image
from test_server import Server

from breedlab.backends.sagemaker import vendoring
from breedlab.backends.sagemaker.endpoints import torchserve
from breedlab.models.classifier import Classifier
from breedlab.serving.archive import opened, record_engine, write_archive
from breedlab.serving.engine_kinds import Choice
from breedlab.serving.model import Model
from breedlab.training.context import TrainingContext

pytestmark = [pytest.mark.slow, pytest.mark.aws_stack]

_FORM = (
    b'--x\r\nContent-Disposition: form-data; name="photo";'
    b' filename="a.jpg"\r\n\r\nbytes\r\n--x--\r\n'
)


@pytest.fixture(scope="module")
def python() -> Path:
    """Of the stack's environment; CI may not do without it."""
    found, missing = torchserve.find_environment()
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    return found


@pytest.fixture(scope="module")
def served(
    folder: Path, python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[torchserve.Stack]:
    archive = tmp_path_factory.mktemp("archive") / "model.tar.gz"
    write_archive(archive, folder)
    with opened(archive) as unpacked, torchserve.running(unpacked, python) as made:
        yield made


@pytest.fixture(scope="module")
def files(image_folder: Path) -> list[bytes]:
    """A JPEG, a turned JPEG, a PNG with transparency, a WebP."""
    paths = sorted((image_folder / "test").rglob("*.jpg"))
    made = [paths[0].read_bytes()]
    for path, kind, more in zip(
        paths[1:4], ("JPEG", "PNG", "WEBP"), ({}, {}, {"lossless": True}), strict=True
    ):
        image = Image.open(path)
        exif = Image.Exif()
        if kind == "JPEG":
            exif[0x0112] = 6
        if kind == "PNG":
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        buffer = io.BytesIO()
        image.save(buffer, kind, exif=exif, **more)
        made.append(buffer.getvalue())
    return made


def ask(
    server: torchserve.Stack,
    body: bytes,
    kind: str = "image/jpeg",
    accept: str = "application/json",
) -> Any:
    return torchserve.ask(server.url, body, kind, accept)


def test_module_archive_local_server_and_the_stack_give_the_same_scores(
    served: torchserve.Stack,
    folder: Path,
    model: Model,
    classifier: Classifier,
    context: TrainingContext,
    files: list[bytes],
) -> None:
    batch = torch.stack([model.prepare(file) for file in files])
    with torch.no_grad():
        own = classifier(batch).numpy()
    local = Server(folder)
    try:
        kinds = ("image/jpeg", "application/x-image", "image/png", "application/octet-stream")
        for row, file, kind in zip(own, files, kinds, strict=True):
            here, there = local.ask(file, kind).json(), ask(served, file, kind)
            assert (there.status, there.headers["content-type"]) == (200, "application/json")
            np.testing.assert_allclose(here, [row], rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(there.json(), [row], rtol=1e-4, atol=1e-4)
    finally:
        local.stop()
    request = json.dumps([{"image": base64.b64encode(file).decode()} for file in files]).encode()
    several = ask(served, request, "application/json", "application/x-npy")
    assert several.headers["content-type"] == "application/x-npy"
    np.testing.assert_allclose(np.load(io.BytesIO(several.data)), own, rtol=1e-4, atol=1e-4)
    verbose = ask(served, files[0], accept="application/json; verbose=1").json()
    assert verbose["classes"] == list(context.classes)
    assert verbose["lineage"] == {"run": "test", "architecture": "resnet18"}
    assert verbose["predictions"][0]["top"][0]["class"] == context.classes[int(own[0].argmax())]


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_openvinos_graphs_answer_there_as_they_do_here(
    folder: Path,
    python: Path,
    context: TrainingContext,
    classifier: Classifier,
    files: list[bytes],
    tmp_path: Path,
    precision: str,
) -> None:
    conversion = pytest.importorskip("breedlab.serving.openvino_export")
    pytest.importorskip("nncf")
    content = Path(shutil.copytree(folder, tmp_path / "content"))
    graph = conversion.convert(classifier, classifier.side)
    if precision == "int8":
        images = [
            image for batch, _ in context.data(context.config).test_dataloader() for image in batch
        ]
        graph = conversion.quantize(graph, images, lambda done, total: None)
    conversion.write_graph(
        graph, content / "engines" / f"{precision}.xml", halves=precision == "bf16"
    )
    record_engine(content, Choice("openvino", precision), {})
    own = Model(content, torch.device("cpu"))
    with torchserve.running(content, python) as served:
        answer = ask(served, files[0], accept="application/json; verbose=1").json()
        assert answer["engine"] == str(own.engine.choice) and answer["engine"].startswith(
            "openvino"
        )
        for file in files:
            there = ask(served, file, "application/octet-stream").json()
            np.testing.assert_allclose(
                there, own.scores(own.prepare(file)[None]), rtol=1e-3, atol=1e-4
            )


@pytest.mark.parametrize(
    ("body", "kind", "accept", "status", "code", "named"),
    [
        (b"", "image/jpeg", "*/*", 400, "BL205", "the image"),
        (b"no photo", "image/png", "*/*", 400, "BL208", "the image"),
        (b"a,b", "text/csv", "*/*", 415, "BL512", "text/csv"),
        (b"\xff", "text/csv", "*/*", 415, "BL512", "text/csv"),
        (b"{", "application/json", "*/*", 400, "BL514", "JSON"),
        (b"\xff\xfe\xfd", "application/json", "*/*", 400, "BL514", "JSON"),
        (b"[" * 100_000, "application/json", "*/*", 400, "BL514", "JSON"),
        (b"[]", "application/json", "*/*", 400, "BL514", "0 images"),
        (b'{"image": "%%%"}', "application/json", "*/*", 400, "BL502", "base64"),
        (_FORM, "multipart/form-data; boundary=x", "*/*", 415, "BL512", "multipart"),
        (None, "image/jpeg", "text/html", 406, "BL513", "text/html"),
    ],
)
def test_what_cannot_be_answered_is_a_4xx_in_json_and_no_traceback(
    served: torchserve.Stack,
    image: bytes,
    body: bytes | None,
    kind: str,
    accept: str,
    status: int,
    code: str,
    named: str,
) -> None:
    answer = ask(served, image if body is None else body, kind, accept)
    assert (answer.status, answer.json()["code"]) == (status, code), answer.json()
    assert named in answer.json()["error"]
    assert answer.headers["content-type"] == "application/json"
    assert ask(served, image).status == 200


def test_ping_is_healthy(served: torchserve.Stack) -> None:
    answer = torchserve.urllib3.request("GET", f"{served.url}/ping", timeout=10)
    assert (answer.status, answer.json()["status"]) == (200, "Healthy")


def test_a_package_that_cannot_be_served_is_told_by_its_own_error(
    folder: Path, python: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    with (
        raises_code("BL400", names="model.safetensors"),
        torchserve.running(broken, python),
    ):
        pass


def test_an_archive_that_brings_its_wheels_needs_no_package_index(
    folder: Path, image: bytes, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this machine's stack has already would hide it, so the archive asks for a package that
    it has not."""
    content = Path(shutil.copytree(folder, tmp_path / "content"))
    with (content / "code" / "requirements.txt").open("a") as requirements:
        requirements.write(f"optuna=={metadata.version('optuna')}\n")
    here = subprocess.run(
        [python, "-c", "import sys; print(*sys.version_info[:2], sep='.')"], capture_output=True
    )
    vendored = Path(shutil.copytree(content, tmp_path / "vendored"))
    vendoring.add_to_archive(vendored, here.stdout.decode().strip(), "x86_64")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name, value in {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}.items():
        monkeypatch.setenv(name, value)
    with raises_code("BL400", names="requirements.txt"), torchserve.running(content, python):
        pass
    with torchserve.running(vendored, python) as served:
        assert ask(served, image).status == 200
        assert "Successfully installed" in served.log() and "optuna" in served.log()
