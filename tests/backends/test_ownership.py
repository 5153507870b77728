"""What others made is left as it is: deploy.py updates, lists and deletes what carries its own
tags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import pytest
from codes import raises_code
from deploying import created, deploy, sent
from sagemaker_account import ROLE
from sagemaker_endpoints import EndpointAccount

from breedlab.cli.deploy import main

OWN = {"breedlab:endpoint": "dogs", "breedlab:run": "test", "breedlab:user": "anna"}


def tags_of(tagged: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in tagged["Tags"]}


def someone_elses(account: EndpointAccount, name: str = "dogs", version: str = "") -> None:
    """Has a colleague make an endpoint by hand, whose config and model are called as ours would
    be."""
    sagemaker = boto3.client("sagemaker")
    made = f"{name}-{version or '1732780000'}"
    image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/x:1"
    sagemaker.create_model(ModelName=made, PrimaryContainer={"Image": image}, ExecutionRoleArn=ROLE)
    variant = {
        "VariantName": "one",
        "ModelName": made,
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
    }
    sagemaker.create_endpoint_config(EndpointConfigName=made, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=made)
    account.endpoints[name]["EndpointStatus"] = "InService"
    account.requests.clear()


def test_all_that_is_created_says_whose_it_is(
    deploy_account: EndpointAccount, model_archive: Path
) -> None:
    assert deploy(model_archive, "--tag", "team=vision", "--max-instances", "2") == 0
    for operation in ("CreateModel", "CreateEndpointConfig", "CreateEndpoint"):
        assert tags_of(sent(deploy_account, operation)) == {"team": "vision", **OWN}
    assert sent(deploy_account, "RegisterScalableTarget")["Tags"] == {"team": "vision", **OWN}


def test_the_alarm_that_wakes_it_is_tagged_and_anothers_of_that_name_is_kept(
    deploy_account: EndpointAccount, model_archive: Path
) -> None:
    cloudwatch = boto3.client("cloudwatch")
    theirs: dict[str, Any] = {
        "AlarmName": "dogs-wake",
        "MetricName": "CPUUtilization",
        "Namespace": "AWS/EC2",
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 1.0,
        "ComparisonOperator": "GreaterThanThreshold",
    }
    cloudwatch.put_metric_alarm(**theirs)
    sleepy = ("--kind", "async", "--min-instances", "0", "--max-instances", "2")
    with raises_code("BL400", names="dogs-wake"):
        deploy(model_archive, *sleepy)
    (alarm,) = cloudwatch.describe_alarms()["MetricAlarms"]
    assert alarm["MetricName"] == "CPUUtilization"
    cloudwatch.delete_alarms(AlarmNames=["dogs-wake"])
    deploy(model_archive, *sleepy)
    (alarm,) = cloudwatch.describe_alarms()["MetricAlarms"]
    assert (
        tags_of(cloudwatch.list_tags_for_resource(ResourceARN=alarm["AlarmArn"]))[
            "breedlab:endpoint"
        ]
        == "dogs"
    )


def test_a_run_of_an_experiment_is_named(
    deploy_account: EndpointAccount, model_archive: Path, tmp_path: Path
) -> None:
    (tmp_path / "model.tar.gz").write_bytes(model_archive.read_bytes())
    (tmp_path / "config.yaml").write_text("name: quickstart\n")
    deploy(tmp_path)
    assert tags_of(sent(deploy_account, "CreateEndpoint"))["breedlab:experiment"] == "quickstart"


def test_tags_are_such_that_aws_takes_them(
    deploy_account: EndpointAccount,
    model_archive: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    monkeypatch.setenv("BREEDLAB_USER", "o'neil, ann\t(vision) é")
    deploy(model_archive)
    assert (
        tags_of(sent(deploy_account, "CreateEndpoint"))["breedlab:user"] == "o_neil_ ann _vision_ é"
    )
    with raises_code("BL104", names=("endpoint.tags", "breedlab:user")):
        deploy(model_archive, "--tag", "breedlab:user=bob")


@pytest.mark.parametrize("who", ["by hand", "by a colleague"])
def test_anothers_endpoint_is_not_updated_unless_it_is_named(
    deploy_account: EndpointAccount,
    model_archive: Path,
    monkeypatch: pytest.MonkeyPatch,
    who: str,
    capsys: Any,
) -> None:
    if who == "by hand":
        someone_elses(deploy_account)
    else:
        monkeypatch.setenv("BREEDLAB_USER", "bob")
        deploy(model_archive)
        monkeypatch.setenv("BREEDLAB_USER", "anna")
        deploy_account.requests.clear()
    was = deploy_account.endpoints["dogs"]["EndpointConfigName"]
    whose = "endpoint dogs" if who == "by hand" else "bob's"
    with raises_code("BL408", names=("endpoint dogs", whose, "endpoint.replace=dogs")):
        deploy(model_archive, "--env", "A=b")
    assert (
        created(deploy_account) == []
        and deploy_account.endpoints["dogs"]["EndpointConfigName"] == was
    )
    with raises_code("BL104", names=("endpoint.replace", "cats", "dogs")):
        deploy(model_archive, "endpoint.replace=cats")
    assert deploy(model_archive, "--env", "A=b", "endpoint.replace=dogs") == 0
    assert deploy_account.endpoints["dogs"]["EndpointConfigName"] != was
    # From now on it is hers, and without a word more.
    assert tags_of(deploy_account.endpoints["dogs"])["breedlab:user"] == "anna"
    assert deploy(model_archive, "--env", "A=c") == 0


def test_delete_leaves_alone_what_is_called_alike(
    deploy_account: EndpointAccount, model_archive: Path, capsys: Any
) -> None:
    """A colleague's `dogs-0123456789` is called as one of ours; only the tag tells them apart."""
    someone_elses(deploy_account, "dogs", version="0123456789")
    del deploy_account.endpoints["dogs"]
    deploy(model_archive)
    capsys.readouterr()
    assert main(["--delete", "dogs"]) == 0
    assert not deploy_account.endpoints
    assert list(deploy_account.configs) == list(deploy_account.models) == ["dogs-0123456789"]
    out = capsys.readouterr().out
    assert (
        "left model dogs-0123456789: has no tag breedlab:endpoint=dogs" in out
        and "deleted endpoint dogs" in out
    )


def test_delete_of_anothers_endpoint_is_refused(deploy_account: EndpointAccount) -> None:
    someone_elses(deploy_account)
    with raises_code("BL408", names=("dogs", "aws sagemaker add-tags --region us-east-1")):
        main(["--delete", "dogs"])
    assert created(deploy_account) == [] and "dogs" in deploy_account.endpoints


def test_delete_keeps_what_another_endpoint_uses(
    deploy_account: EndpointAccount, model_archive: Path, capsys: Any
) -> None:
    deploy(model_archive)
    ours = deploy_account.endpoints["dogs"]["EndpointConfigName"]
    boto3.client("sagemaker").create_endpoint(EndpointName="theirs", EndpointConfigName=ours)
    deploy_account.endpoints["theirs"]["EndpointStatus"] = "InService"
    assert main(["--delete", "dogs"]) == 0
    assert list(deploy_account.endpoints) == ["theirs"]
    assert list(deploy_account.configs) == list(deploy_account.models) == [ours]
    assert f"left model {ours}: endpoint theirs uses it" in capsys.readouterr().out


def test_a_model_that_another_made_under_our_name_is_not_served(
    deploy_account: EndpointAccount, model_archive: Path
) -> None:
    deploy(model_archive)
    name = sent(deploy_account, "CreateModel")["ModelName"]
    main(["--delete", "dogs"])
    someone_elses(deploy_account, version=name.removeprefix("dogs-"))
    del deploy_account.endpoints["dogs"]
    with raises_code("BL409", names=f"model {name}"):
        deploy(model_archive)
    assert created(deploy_account) == [] and name in deploy_account.models


def test_the_list_has_ours_with_age_and_price_and_no_others(
    deploy_account: EndpointAccount, model_archive: Path, capsys: Any
) -> None:
    deploy(model_archive, "--min-instances", "2")
    deploy(model_archive, "--kind", "serverless", name="cats")
    someone_elses(deploy_account, "theirs")
    deploy_account.endpoints["dogs"]["CreationTime"] -= 3 * 24 * 3600
    capsys.readouterr()
    assert main(["--list"]) == 0
    out = capsys.readouterr().out
    dogs, cats = (
        next(line for line in out.splitlines() if name in line) for name in ("dogs", "cats")
    )
    assert all(
        text in dogs for text in ("InService", "2 x ml.m5.large", "3 days", "0.230", "anna", "test")
    )
    assert "serverless" in cats and "0.000" in cats
    assert "theirs" not in out
    assert "$0.230 an hour, $167.90 a month" in out
    assert main(["--list", "--region", "eu-west-1"]) == 0
    out = capsys.readouterr().out
    assert "unknown" in out and "--delete NAME --region eu-west-1" in out


def test_an_empty_account_lists_nothing(deploy_account: EndpointAccount, capsys: Any) -> None:
    assert main(["--list"]) == 0
    assert "breedlab has no endpoint in us-east-1" in capsys.readouterr().out
