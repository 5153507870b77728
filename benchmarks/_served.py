"""The servers that are measured, each started as its documentation advises, around the same
model."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from _harness import CACHE, ROOT, say

CLASSES = 133
ENGINES = ("eager-fp32", "openvino-fp32", "openvino-bf16", "openvino-int8")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Setting:
    """How a peer is set up: worker processes, which have the cores among them, and batches.

    Attributes:
        batch: The largest.
        timeout: Seconds to wait for it.
    """

    workers: int
    batch: int
    timeout: float

    @property
    def threads(self) -> int:
        """Of each worker."""
        return max(1, (os.cpu_count() or 1) // self.workers)

    def name(self, peer: str) -> str:
        words = [peer]
        if self.workers > 1:
            words.append("a worker a core")
        if self.batch > 1:
            words.append(f"batches to {self.batch}")
        return ", ".join(words)


@dataclass(frozen=True)
class Served:
    """A server that runs: where, how it takes an image, and its process, which leads a group of its
    own."""

    name: str
    port: int
    path: str
    kind: str
    files: list[Path]
    process: subprocess.Popen[Any]

    def halt(self) -> None:
        """Takes no more of the machine: idle, LitServe looks for batches so often that it costs a
        fifth of a core."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)


def exported(engine: str, images: list[Path]) -> Path:
    """An archive's content with random weights and one engine, made once; its code is always
    today's."""
    from breedlab.serving.archive import record_engine, write_code, write_folder
    from breedlab.serving.engine_kinds import Choice
    from breedlab.serving.model import Model
    from breedlab.serving.openvino_export import convert, quantize, write_graph

    folder = CACHE / f"exported-{engine}"
    if (folder / "ready").exists():
        write_code(folder, "resnet34")
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
    write_folder(
        folder,
        classifier,
        transform,
        tuple(f"breed {n}" for n in range(CLASSES)),
        {"run": "benchmark"},
    )
    name, precision = engine.split("-")
    if name == "openvino":
        graph = convert(classifier, 224)
        if precision == "int8":
            model = Model(folder)
            graph = quantize(
                graph, [model.prepare(path.read_bytes()) for path in images[:64]], lambda *_: None
            )
        write_graph(graph, folder / "engines" / f"{precision}.xml", halves=precision == "bf16")
    record_engine(folder, Choice(name, precision), {})
    (folder / "ready").touch()
    return folder


@contextmanager
def ours(folder: Path, images: list[Path], *words: str) -> Iterator[Served]:
    """scripts/serve.py."""
    command = [
        sys.executable,
        str(ROOT / "scripts" / "serve.py"),
        str(folder),
        "--port",
        "0",
        *words,
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
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
        yield Served("ours", int(found[1]), "/invocations", "image/jpeg", images, process)
    finally:
        os.killpg(process.pid, signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    reader.wait(10)


@contextmanager
def litserve(folder: Path, images: list[Path], setting: Setting, decoder: str) -> Iterator[Served]:
    """LitServe; images in JSON, as it takes them by default."""
    port, name = free_port(), setting.name("LitServe")
    command = [sys.executable, str(Path(__file__).with_name("_litserve.py"))]
    words = map(
        str,
        (folder, port, setting.workers, setting.threads, setting.batch, setting.timeout, decoder),
    )
    with _running(name, [*command, *words], f"http://127.0.0.1:{port}/health") as process:
        yield Served(name, port, "/predict", "application/json", _as_json(images), process)


@contextmanager
def torchserve(
    folder: Path, images: list[Path], python: Path, settings: Sequence[Setting], decoder: str
) -> Iterator[list[Served]]:
    """TorchServe with the model once a setting; images as bytes."""
    home = Path(tempfile.mkdtemp(prefix="torchserve-"))
    ports = [free_port() for _ in range(5)]
    models = {}
    for setting in settings:
        name = _model_name(setting)
        manifest = {"modelName": name, "handler": "_torchserve.py", "modelVersion": "1.0"}
        place = home / "store" / name
        (place / "MAR-INF").mkdir(parents=True)
        (place / "MAR-INF" / "MANIFEST.json").write_text(
            json.dumps({"runtime": "python", "model": manifest})
        )
        shutil.copy(Path(__file__).with_name("_torchserve.py"), place)
        (place / "threads").write_text(str(setting.threads))
        models[name] = {
            "1.0": {
                "defaultVersion": True,
                "marName": name,
                "minWorkers": setting.workers,
                "maxWorkers": setting.workers,
                "batchSize": setting.batch,
                "maxBatchDelay": round(1000 * setting.timeout),
                "responseTimeout": 120,
            }
        }
    lines = [f"{name}_address=http://127.0.0.1:{ports[0]}" for name in ("inference", "management")]
    lines += [f"metrics_address=http://127.0.0.1:{ports[1]}", f"grpc_inference_port={ports[2]}"]
    lines += [
        f"grpc_management_port={ports[3]}",
        "disable_system_metrics=true",
        "load_models=" + ",".join(models),
    ]
    lines += [f"models={json.dumps(models)}"]
    (home / "config.properties").write_text("\n".join(lines) + "\n")
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    clean |= {name: str(home) for name in ("TMPDIR", "TEMP", "LOG_LOCATION", "METRICS_LOCATION")}
    clean |= {"BREEDLAB_MODEL": str(folder), "BREEDLAB_BENCHMARKS": str(Path(__file__).parent)}
    clean |= {"BREEDLAB_DECODER": decoder, "PATH": f"{python.parent}:{clean['PATH']}"}
    command = [
        str(python),
        "-m",
        "ts.model_server",
        "--start",
        "--foreground",
        "--ncs",
        "--disable-token-auth",
    ]
    command += [
        "--model-store",
        str(home / "store"),
        "--ts-config",
        str(home / "config.properties"),
    ]
    try:
        with _running(
            "TorchServe", command, f"http://127.0.0.1:{ports[0]}/ping", environment=clean, cwd=home
        ) as process:
            served = []
            for setting in settings:
                name, path = setting.name("TorchServe"), f"/predictions/{_model_name(setting)}"
                served.append(
                    Served(name, ports[0], path, "application/octet-stream", images, process)
                )
                _await(f"http://127.0.0.1:{ports[0]}{path}", images[0].read_bytes())
            yield served
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _model_name(setting: Setting) -> str:
    return f"photos{setting.workers}x{setting.batch}"


def _await(url: str, image: bytes) -> None:
    """TorchServe says that it is well before its workers are."""
    deadline = time.monotonic() + 120
    while urllib3.request("POST", url, body=image, timeout=120, retries=False).status != 200:
        if time.monotonic() > deadline:
            raise SystemExit(f"{url} does not answer; the log: {CACHE / 'server.log'}")
        time.sleep(0.5)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def _running(
    name: str,
    command: list[str],
    healthy: str,
    environment: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[Any]]:
    log = CACHE / "server.log"
    with log.open("a") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
            cwd=cwd,
        )
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
            # The whole group: Java leaves its parent, and LitServe its workers.
            for how in (signal.SIGCONT, signal.SIGINT, signal.SIGKILL):
                with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, how)
                    process.wait(0 if how == signal.SIGCONT else 10)


def _as_json(images: list[Path]) -> list[Path]:
    home = CACHE / "requests"
    home.mkdir(exist_ok=True)
    made = []
    for path in images:
        file = home / f"{path.stem}.json"
        file.write_text(json.dumps({"image": base64.b64encode(path.read_bytes()).decode()}))
        made.append(file)
    return made
