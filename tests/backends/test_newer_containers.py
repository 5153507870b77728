"""Jobs in containers with the Pythons of AWS's images, which are newer than the tests' own."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from container_image import build_image
from containers import Container, needs_namespace
from interpreters import interpreter
from sagemaker_account import Account

from breedlab.backends.sagemaker.vendoring import PYTHONS
from breedlab.cli import launch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.aws_stack,
    needs_namespace,
]


@pytest.fixture(params=PYTHONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def image(version: str, tmp_path: Path) -> Path:
    """In place of the image with the tests' own Python, which `container` runs otherwise."""
    return build_image(tmp_path / "image", interpreter(version))


def test_a_job_installs_trains_records_and_exports(
    version: str,
    image: Path,
    container: Container,
    account: Account,
    cloud: Callable[..., list[str]],
    here: Path,
) -> None:
    """smdebug among the packages, whose C extension has no wheel there."""
    words = ["tuner=none", "trainer.max_epochs=2", "debugger=losses", "backend.wait=false"]
    assert launch.main(cloud(*words, f"name=python{version.replace('.', '')}")) == 0
    (request,) = account.sent("CreateTrainingJob")
    ended = container.run("newer", request)
    assert ended.code == [0] and ended.failure is None, ended.log[0]
    assert f"lib/python{version}/" in str(
        next(image.parent.glob("lib/python3*/site-packages/torch"))
    )
    with tarfile.open(next(ended.tree[0].rglob("model.tar.gz"))) as archive:
        assert "model.safetensors" in {Path(name).name for name in archive.getnames()}
    assert list(ended.checkpoints.rglob("collections/*"))  # what the debugger recorded
