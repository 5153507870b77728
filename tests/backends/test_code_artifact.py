"""Packages from a CodeArtifact repository, where no package index can be reached: what a job
installs by itself, and what AWS's stack installs for an endpoint from the archive's list."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from codes import raises_code

from breedlab.backends.sagemaker.endpoints import torchserve
from breedlab.backends.sagemaker.jobs.job_packages import install_undeclared
from breedlab.backends.sagemaker.jobs.source import UNDECLARED

ARN = "arn:aws:codeartifact:eu-west-1:123456789012:repository/lab/pypi"
UNREACHABLE = "http://127.0.0.1:9/simple"


def write_wheel(folder: Path, pin: str) -> None:
    name, _, version = pin.partition("==")
    stem = f"{name.replace('-', '_')}-{version}"
    files = {
        f"{name}/__init__.py": "",
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{stem}.dist-info/RECORD"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(record, "".join(f"{path},,\n" for path in [*files, record]))


@dataclass
class Repository:
    """CodeArtifact, and a repository in it.

    Attributes:
        url: Of both.
        wheels: What the repository holds.
        asked: What was asked for.
    """

    url: str
    wheels: Path
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> bytes:
        self.asked.append(path)
        if path.startswith("/v1/authorization-token?domain=lab&domain-owner=123456789012"):
            return json.dumps({"authorizationToken": "t0ken", "expiration": 0}).encode()
        if path.startswith("/v1/repository/endpoint?"):
            assert "repository=pypi" in path and "format=pypi" in path
            return json.dumps({"repositoryEndpoint": f"{self.url}/pypi/pypi/"}).encode()
        name = path.rstrip("/").rpartition("/")[2]
        if path.startswith("/pypi/pypi/simple/"):
            found = self.wheels.glob(f"{name.replace('-', '_')}-*.whl")
            return "".join(
                f'<a href="/files/{each.name}">{each.name}</a>' for each in found
            ).encode()
        return (self.wheels / name).read_bytes()


@pytest.fixture
def repository(
    tmp_path: Path, no_account: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Repository]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = made.answer(self.path)
            kind = "application/json" if self.path.startswith("/v1/") else "text/html"
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    (tmp_path / "index").mkdir()
    made = Repository(f"http://127.0.0.1:{server.server_port}", tmp_path / "index")
    Thread(target=server.serve_forever, daemon=True).start()
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ENDPOINT_URL": made.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": UNREACHABLE,
        "PIP_RETRIES": "0",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_TARGET": str(tmp_path / "site"),
    }.items():
        monkeypatch.setenv(name, value)
    yield made
    server.shutdown()


def installed(site: Path) -> set[str]:
    return {path.name.removesuffix(".dist-info") for path in site.glob("*.dist-info")}


def test_a_job_installs_what_it_does_by_itself_from_there(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(repository.wheels, "smdebug-of-ours==1.0")
    (tmp_path / UNDECLARED).write_text("smdebug-of-ours==1.0\n")
    with raises_code("BL400", names="smdebug-of-ours"):
        install_undeclared(tmp_path)
    monkeypatch.setenv("CA_REPOSITORY_ARN", ARN)
    install_undeclared(tmp_path)
    assert installed(tmp_path / "site") == {"smdebug_of_ours-1.0"}


@pytest.mark.aws_stack
def test_awss_stack_installs_an_archives_packages_from_there(
    repository: Repository, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the code of AWS's image, from the list that an archive brings."""
    python, missing = torchserve.find_environment()
    if python is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    pins = (model_folder / "code" / "requirements.txt").read_text().split()
    assert any(pin.startswith("safetensors==") for pin in pins)
    for pin in pins:
        write_wheel(repository.wheels, pin)
    (tmp_path / "model").symlink_to(model_folder)
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    monkeypatch.setenv("CA_REPOSITORY_ARN", ARN)
    script = "from sagemaker_inference import model_server; model_server._install_requirements()"
    done = subprocess.run([str(python), "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert installed(tmp_path / "site") == {pin.replace("==", "-") for pin in pins}
    assert [path for path in repository.asked if path.startswith("/v1/authorization-token")]
