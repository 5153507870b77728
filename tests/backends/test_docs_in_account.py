"""The commands of the docs that need an AWS account, typed into one that is made up, in the order
of the pages."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path

import boto3
import pytest
from deploying import contained_run
from documents import Command, of_breedlab, run_by
from sagemaker_account import Account, leave
from sagemaker_endpoints import EndpointAccount
from waiting import beside, until

from breedlab.backends.sagemaker.endpoints import transform
from breedlab.backends.sagemaker.jobs import follow

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("slight_source")]

COMMANDS = run_by("account")
ENDPOINTS = [each for each in COMMANDS if each.args[1] in ("batch", "deploy", "predict")]
JOBS = [each for each in COMMANDS if each not in ENDPOINTS]


def types(command: Command, name: str, *more: str) -> None:
    """Run a command of the docs in which NAME stands for another."""
    word, *args = of_breedlab(command.args) or []
    args = [name if each == "NAME" else each for each in args]
    assert import_module(f"breedlab.cli.{word}").main([*args, *more]) == 0, command


@pytest.fixture
def run(golden: Path) -> Path:
    """`runs/latest` of somebody who is about to open an account."""
    latest = golden / "runs" / "latest"
    latest.unlink(missing_ok=True)
    latest.symlink_to("golden/complete")
    return latest.resolve()


def test_endpoints_versions_and_batch_jobs(
    deploy_account: EndpointAccount,
    run: Path,
    few: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account = deploy_account
    monkeypatch.setattr(transform, "POLL_S", 0.0)
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="my-bucket")
    s3.upload_file(str(next(few.rglob("*.jpg"))), "my-bucket", "images/dog.jpg")
    account.container = contained_run(run, tmp_path / "model")

    for number, command in enumerate(ENDPOINTS):
        is_new = "endpoint.role=" in command.text and "--register" not in command.text
        types(command, "dogs-0", *([f"endpoint.name=dogs-{number}"] if is_new else []))
    created = [name for name, _ in account.requests if name == "CreateEndpoint"]
    assert len(created) == 4 and len(account.endpoints) == 3
    assert [*account.groups] == ["dogs"]
    assert "Contents" in s3.list_objects_v2(Bucket="my-bucket", Prefix="answers/dog.jpg.out")
    told = capsys.readouterr().out
    assert all(name in told for name in ("serverless", "scales from 0 to 2", "photos/", "dogs:1"))


def test_jobs(
    account: Account,
    run: Path,
    few: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.05)
    boto3.client("s3").create_bucket(Bucket="my-bucket")
    shutil.rmtree(run / "debug")  # hundreds of files
    shutil.copytree(few, Path("data", "dog_breeds"))
    small = ["data=image_folder", f"data.root={few}", "backend.wait=false"]

    def completes() -> None:
        until(lambda: "dogs" in account.training)
        leave(run, f"{account.training['dogs']['CheckpointConfig']['S3Uri']}/dogs")
        account.end_training("dogs")

    for command in JOBS:
        if " launch " in command.text:
            name = "cats" if "orchestrate=pipeline" in command.text else "dogs"
            types(command, "", *small, f"backend.job_name={name}")
        elif " resume " in command.text:
            del account.training["dogs"]  # as if the request had never arrived
            with beside(completes):
                types(command, "dogs")
        else:
            types(command, "dogs")
        if " stop " in command.text:
            assert account.training["dogs"]["TrainingJobStatus"] == "Stopping"
            account.end_training("dogs", "Stopped")
    assert [*account.pipelines] == ["cats"] and Path("runs/latest/metrics.json").is_file()
    told = capsys.readouterr().out
    assert all(word in told for word in ("14 images, 14 new", "largest bill: $5.63", "follow it"))
