"""The servers that are measured, each started as its documentation advises, around the same model and decoding."""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from _harness import CACHE, ROOT, say

CLASSES = 133
ENGINES = ("eager-fp32", "openvino-fp32", "openvino-bf16", "openvino-int8")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Served:
    """A server that runs: where, how it takes a photo, and its process."""

    name: str
    port: int
    path: str
    kind: str
    files: list[Path]
    process: subprocess.Popen[Any] | None = None


def exported(engine: str, photos: list[Path]) -> Path:
    """An archive's content with random weights and one engine, made once."""
    from breedlab.serving.archive import record_engine, write_folder
    from breedlab.serving.conversion import convert, quantise, write_graph
    from breedlab.serving.engines import Choice
    from breedlab.serving.handler import Model

    folder = CACHE / f"exported-{engine}"
    if (folder / "ready").exists():
        return folder
    import torch

    from breedlab.data.transforms import EvalTransform
    from breedlab.models import backbone
    from breedlab.models.classifier import Architecture, Classifier

    say(f"exporting a ResNet34 with {engine}, once ...")
    torch.manual_seed(0)
    shape = Architecture("resnet34", CLASSES, (512, 256), 0.2, _MEAN, _STD)
    classifier = Classifier(shape, backbone.build("resnet34"), side=224).eval()
    folder.mkdir(parents=True, exist_ok=True)
    transform = EvalTransform(256, 224, "bilinear", _MEAN, _STD)
    write_folder(folder, classifier, transform, tuple(f"breed {n}" for n in range(CLASSES)), {"run": "benchmark"})
    name, precision = engine.split("-")
    if name == "openvino":
        graph = convert(classifier, 224)
        if precision == "int8":
            model = Model(folder)
            graph = quantise(graph, [model.prepare(path.read_bytes()) for path in photos[:64]], lambda *_: None)
        write_graph(graph, folder / "engines" / f"{precision}.xml", halves=precision == "bf16")
    record_engine(folder, Choice(name, precision), {})
    (folder / "ready").touch()
    return folder


@contextmanager
def ours(folder: Path, photos: list[Path], *words: str) -> Iterator[Served]:
    """scripts/serve.py."""
    command = [sys.executable, str(ROOT / "scripts" / "serve.py"), str(folder), "--port", "0", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"listening on http://\S+:(\d+)", line):
                break
        else:
            raise SystemExit("serve.py did not start")
        # Its log is read by someone, as in life.
        reader = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
        process.stdout.close()
        yield Served("ours", int(found[1]), "/invocations", "image/jpeg", photos, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    reader.wait(10)


@contextmanager
def litserve(folder: Path, photos: list[Path], port: int, batch: int, timeout: float) -> Iterator[Served]:
    """LitServe; photos in JSON, as it takes them by default."""
    command = [sys.executable, str(Path(__file__).with_name("_litserve.py"))]
    words = [str(folder), str(port), str(batch), str(timeout)]
    name = f"LitServe, batches to {batch}" if batch > 1 else "LitServe"
    with _running(name, [*command, *words], f"http://127.0.0.1:{port}/health") as process:
        yield Served(name, port, "/predict", "application/json", _as_json(photos), process)


@contextmanager
def _running(name: str, command: list[str], healthy: str) -> Iterator[subprocess.Popen[Any]]:
    log = CACHE / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            deadline = time.monotonic() + 120
            while True:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{name} did not start; its log: {log}")
                try:
                    if urllib3.request("GET", healthy, timeout=2, retries=False).status == 200:
                        break
                except urllib3.exceptions.HTTPError:
                    pass
                time.sleep(0.2)
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def _as_json(photos: list[Path]) -> list[Path]:
    home = CACHE / "requests"
    home.mkdir(exist_ok=True)
    made = []
    for path in photos:
        file = home / f"{path.stem}.json"
        file.write_text(json.dumps({"image": base64.b64encode(path.read_bytes()).decode()}))
        made.append(file)
    return made
