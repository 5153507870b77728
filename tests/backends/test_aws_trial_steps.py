"""The scripts of docs/aws-trial.md between whose commands AWS acts: a job that is stopped, and an
endpoint's whole life."""

from __future__ import annotations

import shutil
from pathlib import Path

import boto3
import pytest
from deploying import contained_run
from sagemaker_account import Account, say
from sagemaker_endpoints import EndpointAccount
from trial_page import steps

from breedlab.backends.sagemaker.jobs import follow
from breedlab.cli import deploy, jobs
from breedlab.training.objective import FIGURES, epoch_line


def test_a_spot_job_is_stopped_and_what_it_left_is_fetched(
    account: Account,
    golden: Path,
    few: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.05)
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="my-bucket")
    script = steps(3, capsys, f"data.root={few}")

    launched = next(script)
    assert all(f"jobs {word} trial-spot" in launched for word in ("fetch", "stop"))
    job = account.training["trial-spot"]
    assert job["EnableManagedSpotTraining"] and job["StoppingCondition"]["MaxWaitTimeInSeconds"]

    job["SecondaryStatus"] = "Training"
    say("trial-spot", epoch_line(1, 3, dict.fromkeys(FIGURES, 0.5), "valid/top1", 0.75))
    prefix = job["CheckpointConfig"]["S3Uri"].removeprefix("s3://my-bucket/")
    left = golden / "runs" / "golden" / "complete"
    for path in (left / "trials").rglob("*.json"):
        name = path.relative_to(left).as_posix()
        s3.upload_file(str(path), "my-bucket", f"{prefix}/trial-spot/{name}")
    shown = next(script)
    assert "Training" in shown and "trial" in shown

    next(script)
    assert job["TrainingJobStatus"] == "Stopping"
    account.end_training("trial-spot", "Stopped")
    fetched = next(script)
    (run,) = Path("runs/trial-spot").iterdir()
    assert str(run) in fetched
    assert {path.name for path in (run / "trials").iterdir()} >= {"1"}

    assert jobs.main(["show", "trial-spot", "--region", "us-east-1"]) == 0
    assert "Stopped" in (ended := capsys.readouterr().out) and "stopped it with" in ended


def test_an_endpoint_is_deployed_asked_updated_and_deleted(
    deploy_account: EndpointAccount,
    golden: Path,
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    account = deploy_account
    boto3.client("s3").create_bucket(Bucket="my-bucket")
    shutil.copytree(golden / "runs" / "golden" / "complete", golden / "runs" / "trial")
    shutil.copytree(image_folder, golden / "data" / "sample")
    account.container = contained_run(golden / "runs" / "trial", tmp_path / "model")
    script = steps(5, capsys)

    assert "endpoint trial-dogs costs $0.115 an hour" in next(script)
    assert account.endpoints["trial-dogs"]["EndpointStatus"] == "InService"

    answered = next(script)
    images = sorted(Path("data/sample/test").glob("*/0001.jpg"))
    assert images and all(str(image) in answered for image in images)
    assert answered.count("%") >= 2 * len(images)

    first = account.endpoints["trial-dogs"]["EndpointConfigName"]
    next(script)
    assert account.endpoints["trial-dogs"]["EndpointConfigName"] != first
    (update,) = [asked for name, asked in account.requests if name == "UpdateEndpoint"]
    shift = update["DeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert shift["Type"] == "CANARY" and shift["CanarySize"]["Value"] == 50

    assert "trial-dogs" in (listed := next(script)) and "0.115" in listed
    next(script)
    assert not account.endpoints
    sagemaker = boto3.client("sagemaker")
    assert not sagemaker.list_models()["Models"]
    assert not sagemaker.list_endpoint_configs()["EndpointConfigs"]
    assert deploy.main(["--list", "--region", "us-east-1"]) == 0
    assert "trial-dogs" not in capsys.readouterr().out
