"""The source archive that a launch uploads, from a checkout and from an installed wheel."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
import yaml
from sagemaker_account import Account

import breedlab
from breedlab.backends.sagemaker.jobs.launch import pack
from breedlab.cli.launch import main


def archived(account: Account) -> tarfile.TarFile:
    """The archive that the last training job unpacks."""
    channels = {
        channel["ChannelName"]: channel["DataSource"]["S3DataSource"]["S3Uri"]
        for channel in account.sent("CreateTrainingJob")[-1]["InputDataConfig"]
    }
    bucket, _, key = channels["code"].removeprefix("s3://").partition("/")
    body = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    return tarfile.open(fileobj=io.BytesIO(body))


def holds_a_jobs_source(archive: tarfile.TarFile) -> None:
    names = archive.getnames()
    assert {name.split("/")[0] for name in names} <= {
        "src",
        "conf",
        "entry",
        "config.yaml",
        "requirements.txt",
        "requirements-no-deps.txt",
    }
    assert {
        "src/breedlab/pipeline/run.py",
        "conf/config.yaml",
        "entry/train.py",
        "requirements.txt",
    } <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_it_holds_what_a_job_needs_and_the_config(
    cloud: Callable[..., list[str]], account: Account, here: Path
) -> None:
    main(cloud("backend.wait=false", "optim.lr=0.0123"))
    with archived(account) as archive:
        holds_a_jobs_source(archive)
        config = archive.extractfile("config.yaml")
        assert config is not None and yaml.safe_load(config)["optim"]["lr"] == 0.0123


def test_the_same_content_is_the_same_archive(tmp_path: Path) -> None:
    packed = []
    for number in range(2):
        folder = tmp_path / str(number)
        (folder / "src").mkdir(parents=True)
        for name in ("b", "a") if number else ("a", "b"):
            (folder / "src" / name).write_text(name)
        packed.append(pack(folder, tmp_path / f"{number}.tar.gz").read_bytes())
    assert packed[0] == packed[1]


@pytest.mark.slow
def test_an_installed_wheel_launches(
    site: Path, cloud: Callable[..., list[str]], account: Account, tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            sys.executable,
            site / "bin" / "breedlab",
            "launch",
            *cloud("backend.job_name=wheel", "backend.wait=false"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert account.created() == ["CreateTrainingJob"]
    with archived(account) as archive:
        holds_a_jobs_source(archive)
        assert "src/breedlab/conf" not in archive.getnames()
        requirements = archive.extractfile("requirements.txt")
        assert requirements is not None and b"lightning==" in requirements.read()
    jobs = [sys.executable, site / "bin" / "breedlab", "jobs", "list"]
    listed = subprocess.run(
        jobs, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True
    )
    assert b"wheel" in listed.stdout and b"InProgress" in listed.stdout


def test_no_module_hides_one_of_the_standard_library() -> None:
    """AWS's stack starts a script from that folder, and Python looks there first: `secrets` of ours
    broke numpy's."""
    folder = Path(breedlab.__file__).parent / "backends" / "sagemaker"
    assert {file.stem for file in folder.glob("*.py")} & sys.stdlib_module_names == set()
