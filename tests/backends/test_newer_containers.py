"""Jobs in containers with the Pythons of AWS's images, which are newer than the tests' own."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from container_image import build_image
from containers import Container, can_run
from interpreters import interpreter
from sagemaker_account import Account

from breedlab.backends.sagemaker.vendoring import PYTHONS
from breedlab.cli import launch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.aws_stack,
    pytest.mark.skipif(
        not can_run(), reason="needs Linux and root: /opt/ml is mounted in a namespace of its own"
    ),
]


@pytest.mark.parametrize("version", PYTHONS)
def test_a_job_installs_trains_records_and_exports(
    version: str,
    account: Account,
    cloud: Callable[..., list[str]],
    here: Path,
    tmp_path: Path,
) -> None:
    """smdebug among the packages, whose C extension has no wheel there."""
    python = build_image(tmp_path / "image", interpreter(version))
    words = ["tuner=none", "trainer.max_epochs=2", "debugger=losses", "backend.wait=false"]
    assert launch.main(cloud(*words, f"name=python{version.replace('.', '')}")) == 0
    (request,) = account.sent("CreateTrainingJob")
    folder = tmp_path / "containers"
    folder.mkdir()
    container = Container(python, folder, account.url)
    try:
        ended = container.run("newer", request)
    finally:
        container.close()

    assert ended.code == [0] and ended.failure is None, ended.log[0]
    assert f"lib/python{version}/" in str(
        next(python.parent.glob("lib/python3*/site-packages/torch"))
    )
    with tarfile.open(next(ended.tree[0].rglob("model.tar.gz"))) as archive:
        assert "model.safetensors" in {Path(name).name for name in archive.getnames()}
    assert list(ended.checkpoints.rglob("collections/*"))  # what the debugger recorded
