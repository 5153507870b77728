"""What a stranger gets from `pip install breedlab`: wheel and sdist built, checked, and used in
empty environments."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
UV = BIN / "uv"
SMALL = [
    "experiment=quickstart",
    "debugger=none",
    "profiler=none",
    "tuner=none",
    "trainer.max_epochs=1",
    "model=resnet34",
    "model.name=resnet18",
    "model.weights=none",
    "data.image_size=32",
    "data.resize=36",
    "data.root=photos",
    "data.sample.classes=2",
    "data.sample.train=8",
    "data.sample.valid=4",
    "data.sample.test=4",
    "data.sample.size=48",
    "serving.engine=eager",
    "serving.precision=fp32",
    "data.num_workers=0",
]
VERSIONS = ("3.11", "3.12", "3.13")
HEAVY = (
    "smdebug",
    "pandas",
    "altair",
    "vl_convert",
    "tensorboard",
    "timm",
    "boto3",
    "fastapi",
    "openvino",
)

pytestmark = pytest.mark.slow


def _python(version: str) -> str | None:
    """Return the interpreter of a version: one on the path, or pyenv's."""
    found = subprocess.run(
        [UV, "python", "find", "--no-python-downloads", "--system", version],
        capture_output=True,
        text=True,
    )
    if not found.returncode:
        return found.stdout.strip()
    return next(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")), None)


def run(*words: str | Path, folder: Path, code: int = 0, **variables: str) -> str:
    """Return what a command prints, its errors after the rest.

    What an environment's first command compiles, the others find compiled, whatever the tests' own
    interpreter was told: PyTorch alone takes 20 seconds.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment |= variables
    done = subprocess.run(
        list(map(str, words)), cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from it, as GitHub's workflow builds
    them."""
    folder = tmp_path_factory.mktemp("dist")
    run(
        UV,
        "build",
        "--quiet",
        "--no-build-isolation",
        "--python",
        sys.executable,
        "-o",
        folder,
        ROOT,
        folder=folder,
        GITHUB_REPOSITORY="someone/breedlab",
        GITHUB_SERVER_URL="https://github.com",
    )
    return folder


def test_wheel_and_sdist_are_what_an_index_takes(packages: Path) -> None:
    wheel, sdist = next(packages.glob("*.whl")), next(packages.glob("*.tar.gz"))
    assert (
        run(BIN / "twine", "check", "--strict", wheel, sdist, folder=packages).count("PASSED") == 2
    )
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        metadata = content.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert {"breedlab/conf/config.yaml", "breedlab/entry/inference.py", "breedlab/py.typed"} <= set(
        names
    )
    assert not any(
        name.startswith(("tests/", "breedlab/runs", "breedlab/data/sample/")) for name in names
    )
    assert any(name.endswith("/LICENSE") for name in names)
    fields = Parser().parsestr(metadata)
    for name in ("Summary", "Author", "Keywords", "Classifier", "Provides-Extra"):
        assert fields[name], name
    assert (fields["License-Expression"], fields["Requires-Python"]) == ("Apache-2.0", ">=3.11")
    assert fields["Description-Content-Type"] == "text/markdown" and fields.get_payload()
    links = dict(str(each).split(", ") for each in fields.get_all("Project-URL"))
    assert {*links} == {"Homepage", "Documentation", "Changelog", "Issues"}
    assert all(link.startswith("https://github.com/someone/breedlab") for link in links.values())
    with tarfile.open(sdist) as content:
        assert not any(
            "/.venv" in name or "/runs/" in name or name.endswith(".tar.xz")
            for name in content.getnames()
        )


@pytest.mark.parametrize("version", VERSIONS)
def test_the_core_alone_trains_and_names_the_extra_that_is_absent(
    version: str, packages: Path, tmp_path: Path
) -> None:
    python = _python(version)
    if python is None:
        pytest.skip(f"there is no Python {version} on this machine")
    environment = tmp_path / "environment"
    run(UV, "venv", "--quiet", "--python", python, environment, folder=tmp_path)
    pins = re.findall(
        r"^[\w.-]+==[^\\\n]+", (ROOT / "requirements" / "dev.txt").read_text(), re.MULTILINE
    )
    (tmp_path / "pins.txt").write_text("\n".join(pins))
    install = [
        UV,
        "pip",
        "install",
        "--quiet",
        "--python",
        environment / "bin" / "python",
        "-c",
        tmp_path / "pins.txt",
    ]
    run(*install, next(packages.glob("*.whl")), folder=tmp_path)
    has = f"import importlib.util as u; print([name for name in {HEAVY!r} if u.find_spec(name)])"
    assert run(environment / "bin" / "python", "-c", has, folder=tmp_path).strip() == "[]"

    breedlab = environment / "bin" / "breedlab"
    text = run(breedlab, "launch", *SMALL, folder=tmp_path)
    assert "no report.html was written; it needs pip install 'breedlab[report]'" in text
    assert (
        "nothing was written for TensorBoard; it needs pip install 'breedlab[tensorboard]'" in text
    )
    assert (
        "valid/loss"
        in (tmp_path / "runs" / "latest" / "tensorboard" / "final" / "curves.csv").read_text()
    )
    assert "photos/test" in run(breedlab, "predict", "runs/latest", "photos/test", folder=tmp_path)
    if version == VERSIONS[0]:  # the others would say the same
        refused_without_extras(breedlab, tmp_path)
    shutil.rmtree(environment)  # gigabytes


def refused_without_extras(breedlab: Path, folder: Path) -> None:
    """What needs an extra says so in one line, whichever it is."""
    for words, extra in (
        (
            ["launch", "debugger=default", *(word for word in SMALL if word != "debugger=none")],
            "debugger",
        ),
        (["debug", "runs/latest"], "debugger"),
        (["report", "runs/latest"], "report"),
        (["serve", "runs/latest", "--port", "0"], "serve"),
        (["launch", "backend=sagemaker", "dry_run=true", *SMALL], "sagemaker"),
        (["launch", "backend=ray", *SMALL], "ray"),
        (["upload", "photos", "s3://my-bucket/photos"], "sagemaker"),
        (["launch", "experiment=quickstart", "debugger=none", "dry_run=true"], "pretrained"),
        (["launch", *SMALL, "model.name=timm/resnet10t", "dry_run=true"], "timm"),
        (["launch", *SMALL, "logger=mlflow", "dry_run=true"], "mlflow"),
        (["launch", *SMALL, "logger=wandb", "dry_run=true"], "wandb"),
        (["launch", *SMALL, "serving.engine=openvino", "dry_run=true"], "engines"),
        (["export", "runs/latest", "--onnx", "model.onnx"], "onnx"),
    ):
        said = run(breedlab, *words, folder=folder, code=2)
        assert f"pip install 'breedlab[{extra}]'" in said and "Traceback" not in said, said
        lines = [line for line in said.strip().splitlines() if "config: 1 problem" not in line]
        assert len(lines) == 1, said
    breed = next(path for path in (folder / "photos" / "train").iterdir() if path.is_dir())
    (breed / "phone.heic").touch()
    told = run(breedlab, "photos", "dry_run=true", folder=folder)
    assert "1 .heic" in told and "pip install 'breedlab[heic]'" in told, told
