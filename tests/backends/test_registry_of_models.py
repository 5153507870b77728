"""The model registry: a model becomes a version with its metrics and origin, and an approved
version is deployed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest
from codes import exits_with_code, raises_code
from deploying import BUCKET, CLASSES, created, deploy, exported, sent
from sagemaker_endpoints import EndpointAccount

from breedlab.backends.sagemaker.endpoints.registry import properties
from breedlab.cli.deploy import main
from breedlab.serving.archive import write_archive

METRICS = {"test": {"metrics": {"top1": {"value": 0.912345678, "low": 0.88}, "loss": 0.3}}}
ARN = "arn:aws:sagemaker:us-east-1:123456789012:model-package/dogs"


@pytest.fixture
def run(model_archive: Path, tmp_path: Path) -> Path:
    """As much of a run directory as is read here."""
    made = tmp_path / "runs" / "dogs"
    made.mkdir(parents=True)
    (made / "model.tar.gz").write_bytes(model_archive.read_bytes())
    (made / "metrics.json").write_text(json.dumps(METRICS))
    (made / "config.yaml").write_text("name: dogs\nbackend: {name: local}\n")
    return made


def test_a_run_is_registered_with_its_metrics_origin_and_approval(
    deploy_account: EndpointAccount, run: Path, capsys: Any
) -> None:
    assert deploy(run, "--register", "dogs", "--tag", "team=vision") == 0
    assert created(deploy_account) == ["CreateModelPackageGroup", "CreateModelPackage"]
    tags = {
        tag["Key"]: tag["Value"] for tag in sent(deploy_account, "CreateModelPackageGroup")["Tags"]
    }
    assert tags == {"team": "vision", "breedlab:experiment": "dogs", "breedlab:user": "anna"}
    package = sent(deploy_account, "CreateModelPackage")
    assert package["ModelApprovalStatus"] == "PendingManualApproval"
    assert package["CustomerMetadataProperties"]["metrics.top1.value"] == "0.912346"
    assert package["CustomerMetadataProperties"]["lineage.run"] == "test"
    (container,) = package["InferenceSpecification"]["Containers"]
    address = package["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"]
    s3, start = boto3.client("s3"), f"s3://{BUCKET}/"
    assert (
        json.loads(s3.get_object(Bucket=BUCKET, Key=address.removeprefix(start))["Body"].read())
        == METRICS
    )
    assert s3.head_object(Bucket=BUCKET, Key=container["ModelDataUrl"].removeprefix(start))[
        "ContentLength"
    ]
    out = capsys.readouterr().out
    assert "registered as dogs:1, PendingManualApproval" in out and "update-model-package" in out
    # A group that is there gets another version.
    assert deploy(run, "--register", "dogs", "--approval", "approved") == 0
    assert "registered as dogs:2, Approved" in capsys.readouterr().out
    assert created(deploy_account).count("CreateModelPackageGroup") == 1


@pytest.mark.parametrize("machine", ["ml.c7g.large", "ml.m6gd.large", "ml.t2.medium"])
def test_a_type_that_runs_no_batch_jobs_is_registered_for_endpoints_alone(
    machine: str, deploy_account: EndpointAccount, run: Path
) -> None:
    assert deploy(run, "--register", "dogs", "--instance-type", machine) == 0
    inference = sent(deploy_account, "CreateModelPackage")["InferenceSpecification"]
    assert inference["SupportedRealtimeInferenceInstanceTypes"] == [machine]
    assert "SupportedTransformInstanceTypes" not in inference


def test_the_newest_approved_version_is_deployed(
    deploy_account: EndpointAccount, run: Path, tmp_path: Path, capsys: Any
) -> None:
    assert deploy(run, "--register", "dogs") == 0
    with raises_code("BL400", names=("dogs", "us-east-1")):
        deploy(None, "--from-registry", "dogs")
    with raises_code("BL400", names=("dogs:1", "PendingManualApproval", "aws sagemaker")):
        deploy(None, "--from-registry", "dogs:1")
    assert not deploy_account.models
    boto3.client("sagemaker").update_model_package(
        ModelPackageArn=f"{ARN}/1", ModelApprovalStatus="Approved"
    )
    (tmp_path / "content").mkdir()
    other = tmp_path / "other.tar.gz"
    write_archive(other, exported(tmp_path / "content", CLASSES[::-1]))
    assert deploy(other, "--register", "dogs", "--approval", "rejected") == 0
    assert deploy(None, "--from-registry", "dogs") == 0
    model = sent(deploy_account, "CreateModel")
    assert model["PrimaryContainer"]["ModelPackageName"] == f"{ARN}/1"
    assert not {"Image", "ModelDataUrl"} & set(model["PrimaryContainer"])
    assert "endpoint dogs answers" in capsys.readouterr().out


def test_a_version_for_other_processors_is_refused(
    deploy_account: EndpointAccount, run: Path
) -> None:
    assert deploy(run, "--register", "dogs", "--approval", "approved") == 0
    with raises_code("BL400", names=("ml.g5.xlarge", "dogs:1", "-cpu-")):
        deploy(None, "--from-registry", f"{ARN}/1", "--instance-type", "ml.g5.xlarge")
    with raises_code("BL400", names="dogs"):
        deploy(None, "--from-registry", "dogs:7")


def test_the_dry_run_prints_the_requests_and_sends_nothing(
    no_account: None, run: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.setattr(
        socket.socket, "connect", lambda *_: pytest.fail("a dry run went to the network")
    )
    assert deploy(run, "--register", "dogs", "--dry-run") == 0
    out = capsys.readouterr().out
    assert (
        "CreateModelPackageGroup, if the group does not exist yet" in out
        and '"metrics.top1.value"' in out
    )


def test_properties_are_such_that_aws_takes_them() -> None:
    from breedlab.backends.sagemaker.limits import violations

    wild = {f"key {n}": "ü\n" * 300 for n in range(80)} | {
        "empty": "",
        "none": None,
        "list": [1],
        "é(1)": 1.0,
    }
    made = properties(wild, METRICS)
    assert len(made) == 50 and made["metrics.top1.value"] == "0.912346"
    given = {"ModelPackageGroupName": "dogs", "CustomerMetadataProperties": made}
    assert violations("sagemaker", "CreateModelPackage", given) == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--from-registry", "dogs", "model.tar.gz"], ("--from-registry", "MODEL|RUN")),
        (["--from-registry", "dogs:x"], ("--from-registry", "GROUP:VERSION")),
        (["--from-registry", "dogs", "--dry-run"], "--dry-run"),
        (["--from-registry", "dogs", "--vendor"], "endpoint.vendor"),
        (["model.tar.gz", "--register", "a b"], ("--register", "'a b'")),
        (["model.tar.gz", "--approval", "approved"], ("--approval", "--register")),
    ],
)
def test_flags_that_do_not_go_together(words: list[str], named: Any, capsys: Any) -> None:
    with exits_with_code(capsys, "BL107", names=named):
        main(words)
