"""examples/browser: ONNX Runtime Web in a real browser, with what `breedlab export` wrote."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from breedlab.cli.export import main
from breedlab.data.transforms import EvalTransform
from breedlab.models import backbone as backbones
from breedlab.models.classifier import Architecture, Classifier
from breedlab.serving.archive import write_folder
from breedlab.serving.engine_kinds import EAGER
from breedlab.serving.model import Model

PAGE = Path(__file__).resolve().parents[2] / "examples" / "browser"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = ("Basset", "Bichon frisé", "<b>Boxer</b>")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def guess_type(self, path: str | os.PathLike[str]) -> str:
        types = {".mjs": "text/javascript", ".wasm": "application/wasm", ".html": "text/html"}
        return types.get(Path(path).suffix, "application/octet-stream")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The page's folder with its package installed, served."""
    pytest.importorskip("onnxruntime")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm here")
    shutil.copytree(PAGE, tmp_path, dirs_exist_ok=True)
    install = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"]
    subprocess.run(install, cwd=tmp_path, check=True, capture_output=True)
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_the_page_is_thirty_lines() -> None:
    assert len((PAGE / "index.html").read_text().splitlines()) <= 30


@pytest.mark.slow
def test_the_browser_answers_what_breedlab_answers(site: str, browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    torch.manual_seed(5)
    shape = Architecture("resnet18", len(CLASSES), (), 0.2, MEAN, STD)
    network = Classifier(shape, backbones.build("resnet18"), side=64).eval()
    folder = tmp_path / "content"
    folder.mkdir()
    transform = EvalTransform(64, 64, "bilinear", MEAN, STD)
    write_folder(folder, network, transform, CLASSES, {}, answers={"temperature": 0.5})
    main([str(folder), "--onnx", str(tmp_path / "model.onnx")])
    # already of the network's size: the browser's own resize is not what is tested
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    model = Model(folder, torch.device("cpu"), EAGER)
    batch = model.prepare((tmp_path / "photo.png").read_bytes())[None]
    shares = model.scores(batch).softmax(1)[0].tolist()
    ranked = sorted(zip(shares, CLASSES, strict=True), reverse=True)

    browser.get(site)
    wait = WebDriverWait(browser, 120)
    wait.until(lambda driver: driver.title == "ready")
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "photo.png"))
    wait.until(lambda driver: driver.find_elements(By.TAG_NAME, "li"))
    lines = [line.text for line in browser.find_elements(By.TAG_NAME, "li")]
    assert [line.split("% ")[1] for line in lines] == [name for _, name in ranked]
    for line, (share, _) in zip(lines, ranked, strict=True):
        assert float(line.split("%")[0]) == pytest.approx(100 * share, abs=0.051)
