"""The Pythons of AWS's images, which are newer than the one that these tests run on."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from interpreters import interpreter

from breedlab.backends.sagemaker.jobs.source import requirements, write_source
from breedlab.backends.sagemaker.jobs.start_scripts import write_start_scripts
from breedlab.backends.sagemaker.vendoring import PYTHONS
from breedlab.config import validate
from breedlab.config.compose import load
from breedlab.config.schema import Config

DROPPED = frozenset(
    re.findall(
        r"\w+",
        "aifc asynchat asyncore audioop cgi cgitb chunk crypt distutils imghdr imp lib2to3 mailcap"
        " msilib nis nntplib ossaudiodev pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib",
    )
)
"""What Python 3.12 and 3.13 took out of the standard library: PEP 594, and what went beside it."""


def config(*words: str) -> Config:
    given = ["experiment=quickstart", "backend=sagemaker", "dry_run=true", *words]
    return validate(load(given))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a job is started from: the source, and the channel with the start scripts."""
    folder = tmp_path_factory.mktemp("source")
    write_source(folder, config())
    write_start_scripts(folder / "sm_drivers", 2, 1)
    return folder


def test_nothing_is_imported_that_they_no_longer_have(source: Path) -> None:
    gone = []
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            gone += [f"{path.name}: {name}" for name in names if name.split(".")[0] in DROPPED]
    assert gone == []


@pytest.mark.parametrize("version", PYTHONS)
def test_they_compile_every_file_without_a_warning(version: str, source: Path) -> None:
    python = interpreter(version)
    compiled = [python, "-W", "error", "-m", "compileall", "-q", "-f", str(source)]
    done = subprocess.run(compiled, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.slow  # a package index is asked
@pytest.mark.parametrize("version", PYTHONS)
def test_every_package_of_a_job_has_a_wheel_for_them(version: str, tmp_path: Path) -> None:
    """With all that may travel: the debugger, both export engines' packages, and a tracker."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        pytest.skip("needs uv, of the dev extra")
    wanted = requirements(config("debugger=default", "serving.engine=openvino", "logger=mlflow"))
    (tmp_path / "requirements.txt").write_text("\n".join(wanted))
    resolve = [uv, "pip", "compile", "-q", "--no-header", "--python-version", version]
    resolve += ["--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:"]
    done = subprocess.run(
        [*resolve, str(tmp_path / "requirements.txt")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "lightning==" in done.stdout and "openvino==" in done.stdout
