"""deploy.py against an account whose endpoints are answered by the archive's own handler."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import numpy as np
import pytest
import torch
from codes import check_names, raises_code
from deploying import BUCKET, CLASSES, contained, created, deploy, exported, sent
from sagemaker_account import REGION, ROLE
from sagemaker_endpoints import EndpointAccount

from breedlab.backends.sagemaker.endpoints import archive_check, lifecycle, torchserve
from breedlab.backends.sagemaker.endpoints.rollout import RolloutInterrupted
from breedlab.cli.deploy import main
from breedlab.cli.predict import main as predict
from breedlab.errors import ConfigError
from breedlab.serving import handler

STACK = os.environ.get("BREEDLAB_INFERENCE_ENV")
OWN_IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/breedlab:1"
SLEEPY = ("--kind", "async", "--min-instances", "0", "--max-instances", "2")


@pytest.fixture
def bare_account(bare_deploy_account: EndpointAccount) -> EndpointAccount:
    return bare_deploy_account


@pytest.fixture
def account(deploy_account: EndpointAccount) -> EndpointAccount:
    return deploy_account


@pytest.fixture
def folder(model_folder: Path) -> Path:
    return model_folder


@pytest.fixture
def archive(model_archive: Path) -> Path:
    return model_archive


def test_an_endpoint_is_made_asked_and_scaled(
    bare_account: EndpointAccount, archive: Path, capsys: Any
) -> None:
    assert (
        deploy(
            archive, "--max-instances", "4", "--scale-target", "120", "--scale-out-cooldown", "30"
        )
        == 0
    )
    assert created(bare_account) == ["CreateModel", "CreateEndpointConfig", "CreateEndpoint"]
    model = sent(bare_account, "CreateModel")
    bucket, _, key = model["PrimaryContainer"]["ModelDataUrl"].removeprefix("s3://").partition("/")
    assert (
        boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read() == archive.read_bytes()
    )
    assert model["ExecutionRoleArn"] == ROLE
    assert "pytorch-inference:2.6.0-cpu" in model["PrimaryContainer"]["Image"]
    assert model["PrimaryContainer"]["Environment"]["SAGEMAKER_PROGRAM"] == "inference.py"
    config = sent(bare_account, "CreateEndpointConfig")
    (variant,) = config["ProductionVariants"]
    assert (variant["InstanceType"], variant["InitialInstanceCount"]) == ("ml.m5.large", 1)
    assert variant["ModelName"] == model["ModelName"]
    assert (
        sent(bare_account, "CreateEndpoint")["EndpointConfigName"] == config["EndpointConfigName"]
    )
    assert bare_account.endpoints["dogs"]["EndpointStatus"] == "InService"
    target, policy = (
        sent(bare_account, "RegisterScalableTarget"),
        sent(bare_account, "PutScalingPolicy"),
    )
    assert (target["MinCapacity"], target["MaxCapacity"]) == (1, 4)
    tracking = policy["TargetTrackingScalingPolicyConfiguration"]
    assert tracking == {
        "TargetValue": 120.0,
        "ScaleOutCooldown": 30,
        "ScaleInCooldown": 300,
        "PredefinedMetricSpecification": {
            "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"
        },
    }
    out = capsys.readouterr().out
    assert "classifies the test image as" in out and "AWS's inference stack was not tested" in out
    assert "endpoint dogs: Creating" in out and "endpoint dogs answers" in out


@pytest.mark.slow
@pytest.mark.aws_stack
def test_under_awss_own_stack_the_archive_answers_first(
    bare_account: EndpointAccount, archive: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BREEDLAB_INFERENCE_ENV")
    if STACK:
        monkeypatch.setenv("BREEDLAB_INFERENCE_ENV", STACK)
    python, missing = torchserve.find_environment()
    if python is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    assert deploy(archive) == 0
    assert "AWS's inference stack on this machine" in capsys.readouterr().out


def test_the_dry_run_prints_the_very_requests_and_needs_nothing(
    account: EndpointAccount, archive: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--max-instances", "4", "--capture", "10", "--region", REGION]
    deploy(archive, *words)
    capsys.readouterr()
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ENDPOINT_URL",
        "AWS_DEFAULT_REGION",
    ):
        monkeypatch.delenv(name)
    before = len(account.requests), len(account.calls)
    assert deploy(archive, *words, "--dry-run") == 0
    printed = _printed(capsys.readouterr().out)
    assert (len(account.requests), len(account.calls)) == before
    for operation in ("CreateModel", "CreateEndpointConfig", "CreateEndpoint"):
        assert printed[operation] == sent(account, operation)
    for operation in ("RegisterScalableTarget", "PutScalingPolicy"):
        assert printed[operation] == sent(account, operation)
    assert main([str(archive), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "<role>" in out and "s3://<bucket>/" in out
    needs = out[out.index("a launch needs") :]
    assert all(
        word in needs
        for word in ("credentials", *(f"endpoint.{n}=" for n in ("region", "role", "bucket")))
    )
    assert "backend." not in needs


def _printed(text: str) -> dict[str, Any]:
    """The requests in a dry run's text, by operation."""
    found, decoder = {}, json.JSONDecoder()
    for part in text.split("\n\n"):
        title, _, body = part.partition("\n")
        if body.startswith("{"):
            found[title.split()[-1]] = decoder.decode(body)
    return found


SNS = "arn:aws:sns:us-east-1:123456789012"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            (
                "--instance-type ml.c6i.xlarge --price-per-hour 0.2 --min-instances 2"
                " --max-instances 3 --volume-gb 30 --startup-timeout 900 --kms-key alias/k --tag"
                " team=vision --env A=b --workers 3 --subnet subnet-1 --security-group sg-1"
                " --capture 7 --prefix team/x --scale-in-cooldown 9"
            ),
            {
                "CreateModel Tags.0": {"Key": "team", "Value": "vision"},
                "CreateModel PrimaryContainer.Environment.A": "b",
                "CreateModel PrimaryContainer.Environment.SAGEMAKER_MODEL_SERVER_WORKERS": "3",
                "CreateModel VpcConfig": {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]},
                "CreateEndpointConfig Tags.0": {"Key": "team", "Value": "vision"},
                "CreateEndpointConfig KmsKeyId": "alias/k",
                "CreateEndpointConfig ProductionVariants.0.InstanceType": "ml.c6i.xlarge",
                "CreateEndpointConfig ProductionVariants.0.InitialInstanceCount": 2,
                "CreateEndpointConfig ProductionVariants.0.VolumeSizeInGB": 30,
                "CreateEndpointConfig ProductionVariants.0.ContainerStartupHealthCheckTimeoutInSeconds": (  # noqa: E501
                    900
                ),
                "CreateEndpointConfig DataCaptureConfig.EnableCapture": True,
                "CreateEndpointConfig DataCaptureConfig.InitialSamplingPercentage": 7,
                "CreateEndpointConfig DataCaptureConfig.DestinationS3Uri": (
                    f"s3://{BUCKET}/team/x/endpoints/dogs/capture"
                ),
                "CreateEndpointConfig DataCaptureConfig.KmsKeyId": "alias/k",
                "CreateEndpoint Tags.0": {"Key": "team", "Value": "vision"},
                "RegisterScalableTarget MinCapacity": 2,
                "PutScalingPolicy TargetTrackingScalingPolicyConfiguration.ScaleInCooldown": 9,
            },
        ),
        (
            f"--image {OWN_IMAGE} --network-isolation --env A=b --capture 7 --capture-to s3://captures/y",
            {
                "CreateModel PrimaryContainer.Image": OWN_IMAGE,
                "CreateModel PrimaryContainer.Environment": {"A": "b"},
                "CreateModel EnableNetworkIsolation": True,
                "CreateEndpointConfig DataCaptureConfig.DestinationS3Uri": "s3://captures/y",
            },
        ),
        (
            (
                "--kind serverless --memory-mb 3072 --max-concurrency 9 --provisioned-concurrency 2"
                " --price-per-hour 0.1"
            ),
            {
                "CreateEndpointConfig ProductionVariants.0.ServerlessConfig": {
                    "MemorySizeInMB": 3072,
                    "MaxConcurrency": 9,
                    "ProvisionedConcurrency": 2,
                }
            },
        ),
        (
            (
                f"--kind async --async-output s3://{BUCKET}/answers --async-concurrency 7 --kms-key"
                f" alias/k --success-topic {SNS}:yes --error-topic {SNS}:no"
            ),
            {
                "CreateEndpointConfig AsyncInferenceConfig": {
                    "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 7},
                    "OutputConfig": {
                        "S3OutputPath": f"s3://{BUCKET}/answers",
                        "S3FailurePath": f"s3://{BUCKET}/answers-failed",
                        "NotificationConfig": {
                            "SuccessTopic": f"{SNS}:yes",
                            "ErrorTopic": f"{SNS}:no",
                        },
                        "KmsKeyId": "alias/k",
                    },
                }
            },
        ),
    ],
)
def test_every_flag_is_in_the_request_that_leaves(
    account: EndpointAccount, archive: Path, words: str, expected: dict[str, Any]
) -> None:
    assert deploy(archive, *words.split()) == 0
    for where, value in expected.items():
        operation, path = where.split()
        found: Any = sent(account, operation)
        for part in path.split("."):
            found = found[int(part) if part.isdigit() else part]
        assert found == value, where
    if "--prefix" in words:
        assert "/team/x/models/" in sent(account, "CreateModel")["PrimaryContainer"]["ModelDataUrl"]


def test_an_async_endpoint_that_may_sleep_is_woken_by_an_alarm(
    account: EndpointAccount, archive: Path
) -> None:
    assert deploy(archive, *SLEEPY) == 0
    policies = {p["PolicyName"]: p for name, p in account.scaled if name == "PutScalingPolicy"}
    backlog = policies["dogs-target"]["TargetTrackingScalingPolicyConfiguration"][
        "CustomizedMetricSpecification"
    ]
    assert backlog["MetricName"] == "ApproximateBacklogSizePerInstance"
    (alarm,) = _alarms()
    assert alarm["MetricName"] == "HasBacklogWithoutCapacity"
    assert alarm["AlarmActions"] == [_wake_policy()["PolicyARN"]]


@pytest.mark.parametrize(
    ("words", "code", "names"),
    [
        ("--memory-mb 2048", "BL104", ["endpoint.memory_mb: ", "endpoint=realtime"]),
        (
            "--kind serverless --instance-type ml.m5.large",
            "BL104",
            ["endpoint.instance_type: ", "endpoint=serverless"],
        ),
        (
            "--kind serverless --capture 5",
            "BL104",
            ["endpoint.capture: ", "endpoint=serverless"],
        ),
        (
            "--kind serverless --subnet a --security-group b",
            "BL104",
            ["endpoint.subnets: ", "endpoint=serverless"],
        ),
        (
            "--kind serverless --max-concurrency 2 --provisioned-concurrency 3",
            "BL104",
            ["endpoint.provisioned_concurrency: ", "3", "2"],
        ),
        (
            "--kind serverless --memory-mb 1000",
            "BL103",
            ["endpoint.memory_mb: ", "1000", "1024, 2048"],
        ),
        ("--min-instances 0", "BL104", ["endpoint.min_instances: ", "0"]),
        (
            "--min-instances 3 --max-instances 2",
            "BL104",
            ["endpoint.max_instances: ", "2", "3"],
        ),
        ("--subnet a", "BL104", ["endpoint.subnets", "endpoint.security_groups"]),
        (
            "--capture-to s3://my-bucket/x",
            "BL104",
            ["endpoint.capture_to: ", "endpoint.capture="],
        ),
        ("--capture 5 --capture-to /tmp/x", "BL103", ["endpoint.capture_to: ", "'/tmp/x'"]),
        (
            "--kind async --async-output https://x",
            "BL103",
            ["endpoint.async_output: ", "'https://x'"],
        ),
        ("--capture 101", "BL103", ["endpoint.capture: ", "101", "100"]),
        ("--traffic canary --step-percent 60", "BL104", ["endpoint.step_percent: ", "60"]),
        ("--step-percent 20", "BL104", ["endpoint.step_percent: ", "endpoint.traffic=canary"]),
        ("--step-wait 0", "BL104", ["endpoint.step_wait: ", "endpoint.traffic=canary"]),
        (
            "--scale-target 100",
            "BL104",
            ["endpoint.scale_target: ", "endpoint.max_instances", "endpoint.min_instances"],
        ),
        (
            "--min-instances 2 --max-instances 2 --scale-in-cooldown 0",
            "BL104",
            ["endpoint.scale_in_cooldown: ", "endpoint.max_instances"],
        ),
        ("--max-inst 2", "BL107", ["--max-inst 2"]),
        ("--network-isolation", "BL104", ["endpoint.network_isolation: "]),
        ("--image nginx", "BL104", ["endpoint.image: ", "'nginx'"]),
        (
            "--region eu-west-1 --image 123456789012.dkr.ecr.us-east-1.amazonaws.com/x:1",
            "BL104",
            ["endpoint.image: ", "us-east-1", "eu-west-1"],
        ),
        (
            "--image 763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.6",
            "BL104",
            ["endpoint.image: ", "pytorch-training"],
        ),
        ("--tag x", "BL107", ["--tag", "KEY=VALUE"]),
        ("--name -dogs-", "BL103", ["endpoint.name: "]),
        (f"--name {'x' * 60}", "BL103", ["endpoint.name: "]),
        ("--delete dogs", "BL107", ["--delete", "MODEL"]),
        ("--bucket Bad_Bucket", "BL103", ["endpoint.bucket: ", "'Bad_Bucket'"]),
        ("--role ?!", "BL103", ["endpoint.role: ", "'?!'"]),
        (
            "--kind serverless --volume-gb 5 --capture 5",
            "BL104",
            ["endpoint.volume_gb: ", "endpoint.capture: ", "endpoint=serverless"],
        ),
    ],
)
def test_flags_that_do_not_go_together_are_refused_and_nothing_is_sent(
    account: EndpointAccount, archive: Path, capsys: Any, words: str, code: str, names: list[str]
) -> None:
    with pytest.raises((SystemExit, ConfigError)) as ended:
        main(
            [str(archive), *(word or "-" for word in words.replace("--name -", "--name=-").split())]
        )
    refused = ended.value
    said = capsys.readouterr().err
    if isinstance(refused, ConfigError):
        said = refused.shown()
    assert f"[{code}]" in said, said
    check_names(said, names)
    assert not account.requests and not account.calls


@pytest.mark.parametrize(
    ("words", "code", "names"),
    [
        (["--instance-type", "ml.nothing.large"], "BL400", ("instance_type: ", "ml.nothing.large")),
        (["--role", "NoSuchRole"], "BL400", ("endpoint.role: ", "'NoSuchRole'")),
        (["--bucket", "no-such-bucket"], "BL400", ("endpoint.bucket: ", "'no-such-bucket'")),
        (
            ["--success-topic", "nonsense", "--kind", "async"],
            "BL400",
            ("endpoint.success_topic: ", "'nonsense'"),
        ),
        (["--region", "eu-mars-1"], "BL400", ("endpoint.region: ", "'eu-mars-1'")),
        (["--startup-timeout", "9999"], "BL400", ("endpoint.startup_timeout: ", "9999", "3600")),
        (["--kms-key", "a key"], "BL103", ("endpoint.kms_key: ", "'a key'")),
    ],
)
def test_what_aws_would_refuse_is_told_before_anything_is_sent(
    account: EndpointAccount, archive: Path, words: list[str], code: str, names: tuple[str, ...]
) -> None:
    with raises_code(code, names=names):
        deploy(archive, *words)
    assert not account.requests
    assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket=BUCKET)


def test_missing_role_bucket_and_credentials_are_told_at_once(
    no_account: None, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = [f"endpoint.{name}: " for name in ("role", "bucket", "region")]
    with raises_code("BL400", names=needed) as caught:
        main([str(archive)])
    assert "backend." not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xa5\xc4", b"a: [", b"[1]"])
def test_a_run_whose_config_is_damaged_is_deployed_by_its_flags(
    no_account: None, archive: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "model.tar.gz").symlink_to(archive)
    (tmp_path / "config.yaml").write_bytes(content)
    with raises_code("BL400", names="endpoint.role"):
        main([str(tmp_path)])


def test_an_archive_that_cannot_be_served_never_leaves(
    bare_account: EndpointAccount, folder: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "code" / "inference.py").write_text("import lightning\n")
    with raises_code("BL500", names=("code/inference.py", "lightning")):
        archive_check.lint(broken)
    with raises_code("BL500", names="lightning"):
        deploy(broken)
    description = json.loads((broken / "model.json").read_text())
    (broken / "model.json").write_text(json.dumps({**description, "classes": ["one"]}))
    (broken / "weights.pth").write_bytes(b"pickle")
    with (broken / "code" / "requirements.txt").open("a") as file:
        file.write("torch==2.6\n")
    with raises_code("BL500", names=("model.json: ", "weights.pth: ", "torch==2.6 ")):
        deploy(broken)
    assert not created(bare_account)


def test_weights_that_do_not_fit_are_found_by_the_image_here(
    bare_account: EndpointAccount, folder: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    with raises_code("BL500", names="handler"):
        deploy(broken)
    assert not created(bare_account)


def test_a_image_that_is_not_there_is_named(
    account: EndpointAccount, archive: Path, tmp_path: Path
) -> None:
    with raises_code("BL200", names=("endpoint.photo", "gone.jpg")):
        deploy(archive, "--photo", str(tmp_path / "gone.jpg"))
    (tmp_path / "no.jpg").write_bytes(b"no photo")
    with raises_code("BL208", names=("endpoint.photo", "no.jpg")):
        deploy(archive, "--photo", str(tmp_path / "no.jpg"))


def test_the_same_command_again_finds_its_endpoint(
    account: EndpointAccount, archive: Path, capsys: Any
) -> None:
    deploy(archive)
    account.requests.clear()
    assert deploy(archive) == 0
    assert created(account) == []
    assert "already has this model and these settings" in capsys.readouterr().out


def test_another_model_comes_in_place_with_guardrails(
    account: EndpointAccount, archive: Path, tmp_path: Path
) -> None:
    deploy(archive, "--max-instances", "3")
    old = account.endpoints["dogs"]["EndpointConfigName"]
    torch.manual_seed(2)
    other = exported(tmp_path, CLASSES)
    account.requests.clear()
    account.scaled.clear()
    words = [
        "--max-instances",
        "3",
        "--traffic",
        "canary",
        "--step-percent",
        "20",
        "--step-wait",
        "60",
    ]
    assert deploy(other, *words, "--keep-old", "120", "--alarm", "slow", "--alarm", "wrong") == 0
    assert created(account) == ["CreateModel", "CreateEndpointConfig", "UpdateEndpoint"]
    update = sent(account, "UpdateEndpoint")
    assert update["DeploymentConfig"] == {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": {
                "Type": "CANARY",
                "WaitIntervalInSeconds": 60,
                "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 20},
            },
            "TerminationWaitInSeconds": 120,
        },
        "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "slow"}, {"AlarmName": "wrong"}]},
    }
    assert update["RetainAllVariantProperties"] is True
    assert account.endpoints["dogs"]["EndpointConfigName"] == update["EndpointConfigName"] != old
    changes = [name for name, _ in account.scaled if not name.startswith(("Describe", "List"))]
    assert changes == ["DeregisterScalableTarget", "RegisterScalableTarget", "PutScalingPolicy"]


def test_an_endpoint_on_instances_is_not_turned_into_a_serverless_one(
    account: EndpointAccount, archive: Path
) -> None:
    assert deploy(archive) == 0
    sent = len(account.requests)
    with raises_code("BL400", names=("endpoint=serverless", "dogs")):
        deploy(archive, "--kind", "serverless")
    assert not [
        name for name, _ in account.requests[sent:] if not name.startswith(("Describe", "List"))
    ]


def test_linear_traffic_is_in_the_update(account: EndpointAccount, archive: Path) -> None:
    deploy(archive)
    assert deploy(archive, "--env", "A=b", "--traffic", "linear", "--step-percent", "25") == 0
    routing = sent(account, "UpdateEndpoint")["DeploymentConfig"]["BlueGreenUpdatePolicy"][
        "TrafficRoutingConfiguration"
    ]
    assert (routing["Type"], routing["LinearStepSize"]["Value"]) == ("LINEAR", 25)


@pytest.mark.parametrize("kind", ["realtime", "async"])
def test_an_update_that_answers_no_scores_goes_back(
    account: EndpointAccount, archive: Path, kind: str
) -> None:
    deploy(archive, "--kind", kind, "--max-instances", "2")
    old, (scaling,) = account.endpoints["dogs"]["EndpointConfigName"], _targets()
    account.container = lambda body, kind, accept: (500, b"worker died", "text/plain")
    with raises_code("BL409", names=("worker died", old)) as caught:
        deploy(archive, "--kind", kind, "--max-instances", "5", "--env", "A=b")
    assert "/aws/sagemaker/Endpoints/dogs" in str(caught.value)
    assert account.endpoints["dogs"]["EndpointConfigName"] == old
    assert list(account.configs) == [old] and list(account.models) == [old]
    (restored,) = _targets()
    assert (restored["MinCapacity"], restored["MaxCapacity"]) == (
        scaling["MinCapacity"],
        scaling["MaxCapacity"],
    )
    assert len(_policies()) == 1


def test_an_endpoint_that_sleeps_is_still_woken_after_an_update_that_went_back(
    account: EndpointAccount, archive: Path
) -> None:
    deploy(archive, *SLEEPY)
    account.container = lambda body, kind, accept: (500, b"worker died", "text/plain")
    with raises_code("BL409", names=("worker died", "dogs")):
        deploy(archive, *SLEEPY, "--env", "A=b")
    assert _alarms()[0]["AlarmActions"] == [_wake_policy()["PolicyARN"]]


def test_an_endpoint_that_sleeps_no_more_keeps_no_alarm(
    account: EndpointAccount, archive: Path
) -> None:
    deploy(archive, *SLEEPY)
    assert (
        deploy(
            archive,
            "--kind",
            "async",
            "--min-instances",
            "1",
            "--max-instances",
            "2",
            "--env",
            "A=b",
        )
        == 0
    )
    assert not _alarms()


def _alarms() -> Any:
    return boto3.client("cloudwatch").describe_alarms(AlarmNames=["dogs-wake"])["MetricAlarms"]


def _wake_policy() -> Any:
    (policy,) = [policy for policy in _policies() if policy["PolicyName"] == "dogs-wake"]
    return policy


def _policies() -> Any:
    scaling = boto3.client("application-autoscaling")
    return scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]


def _targets() -> Any:
    scaling = boto3.client("application-autoscaling")
    return scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]


def test_an_update_that_aws_takes_back_is_told(account: EndpointAccount, archive: Path) -> None:
    deploy(archive)
    old = account.endpoints["dogs"]["EndpointConfigName"]
    account.fails = "Alarm slow went off"
    with raises_code("BL409", names=("Alarm slow went off", old)):
        deploy(archive, "--env", "A=b")
    assert account.endpoints["dogs"]["EndpointConfigName"] == old
    assert list(account.models) == [old]


@pytest.mark.parametrize("how", ["fails to start", "answers nothing", "other classes"])
def test_a_new_endpoint_that_is_no_good_is_removed(
    account: EndpointAccount, archive: Path, tmp_path: Path, how: str
) -> None:
    if how == "fails to start":
        account.fails = "The primary container did not pass the ping health check."
    elif how == "answers nothing":
        account.container = lambda body, kind, accept: (500, b"ModuleNotFoundError", "text/plain")
    else:
        account.container = contained(handler.model_fn(str(exported(tmp_path, ("Cat", "Dog")))))
    names = {
        "fails to start": "ping health check",
        "answers nothing": "ModuleNotFoundError",
        "other classes": "Cat, Dog",
    }
    with raises_code("BL409", names=names[how]):
        deploy(archive)
    assert not account.endpoints and not account.configs and not account.models


def test_what_is_refused_half_way_leaves_nothing(account: EndpointAccount, archive: Path) -> None:
    account.refuse["CreateEndpoint"] = (
        "ResourceLimitExceeded",
        "The limit for ml.m5.large is 0 instances.",
    )
    with raises_code("BL409", names="limit for ml.m5.large is 0"):
        deploy(archive)
    assert not account.configs and not account.models


def test_an_endpoint_at_work_is_not_disturbed(account: EndpointAccount, archive: Path) -> None:
    deploy(archive)
    account.endpoints["dogs"] |= {"EndpointStatus": "Updating", "_steps": 99, "_next": "other"}
    account.requests.clear()
    with raises_code("BL400", names=("dogs", "Updating")):
        deploy(archive, "--env", "A=b")
    assert created(account) == []


def test_ctrl_c_leaves_it_to_aws_and_says_how_to_come_back(
    account: EndpointAccount, archive: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # Its own clock: time.sleep is everybody's, and subprocess sleeps while it waits.
        patch.setattr(lifecycle, "time", SimpleNamespace(sleep=interrupt, monotonic=time.monotonic))
        with pytest.raises(RolloutInterrupted) as caught:
            deploy(archive, "--max-instances", "2")
    assert caught.value.exit_code == 130
    told = str(caught.value)
    assert (
        "AWS keeps working on endpoint dogs" in told
        and "same command" in told
        and "--delete dogs" in told
    )
    account.requests.clear()
    assert deploy(archive, "--max-instances", "2") == 0
    assert created(account) == [] and sent(account, "RegisterScalableTarget")


def test_delete_removes_all_that_was_made_and_nothing_else(
    account: EndpointAccount, archive: Path, capsys: Any
) -> None:
    deploy(archive, "--max-instances", "2")
    deploy(archive, "--max-instances", "2", "--env", "A=b")
    deploy(archive, name="dogs-too")
    other = account.endpoints["dogs-too"]["EndpointConfigName"]
    assert main(["--delete", "dogs"]) == 0
    assert list(account.endpoints) == ["dogs-too"]
    assert list(account.configs) == [other] and list(account.models) == [other]
    assert not _targets()
    assert "deleted endpoint dogs" in capsys.readouterr().out
    with raises_code("BL407", names="dogs"):
        main(["--delete", "dogs"])


def test_predict_boto3_and_the_sdk_ask_the_endpoint_by_name(
    account: EndpointAccount,
    archive: Path,
    folder: Path,
    image_folder: Path,
    capsys: Any,
    tmp_path: Path,
) -> None:
    deploy(archive)
    image = next((image_folder / "test").rglob("*.jpg"))
    capsys.readouterr()
    assert predict(["--endpoint", "dogs", str(image), "--json", "--top", "1"]) == 0
    asked = json.loads(capsys.readouterr().out)
    predict([str(folder), str(image), "--json", "--top", "1"])
    assert asked == json.loads(capsys.readouterr().out)
    (tmp_path / "no.jpg").write_bytes(b"no photo")
    assert predict(["--endpoint", "dogs", str(tmp_path / "no.jpg"), "--json"]) == 1
    assert "not an image" in json.loads(capsys.readouterr().out)[0]["error"]
    with raises_code("BL400", names="Endpoint cats"):
        predict(["--endpoint", "cats", str(image)])

    model = handler.model_fn(str(folder))
    own = handler.predict_fn([image.read_bytes()], model).scores
    runtime = boto3.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint(
        EndpointName="dogs", Body=image.read_bytes(), ContentType="image/jpeg"
    )
    np.testing.assert_allclose(json.loads(answer["Body"].read()), own, rtol=1e-4, atol=1e-5)
    from sagemaker.core.resources import Endpoint

    invoked = Endpoint(endpoint_name="dogs").invoke(
        body=image.read_bytes(),
        content_type="image/jpeg",
        accept="application/x-npy",
        session=boto3.Session(),
    )
    body = invoked.body if isinstance(invoked.body, bytes) else invoked.body.read()
    np.testing.assert_allclose(np.load(io.BytesIO(body)), own, rtol=1e-4, atol=1e-5)
    assert {"Accept": "application/x-npy", "Content-Type": "image/jpeg"} in account.invoked


def test_an_archive_that_knows_the_unknown_is_deployed(
    model_folder: Path, tmp_path: Path, no_account: None, capsys: Any
) -> None:
    """Every run leaves what tells images of none of its classes."""
    from breedlab.models import novelty

    content = Path(shutil.copytree(model_folder, tmp_path / "content"))
    (content / novelty.FILE).write_bytes((content / "model.safetensors").read_bytes())
    assert deploy(content, "--dry-run", "--region", "us-east-1") == 0
    assert "CreateEndpoint" in capsys.readouterr().out
