"""Other parts of AWS than the public one: China, the government's, Europe's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import Loader
from codes import raises_code
from deploying import deploy

from breedlab.backends.sagemaker.checks import arn_problems
from breedlab.backends.sagemaker.session import partition_of
from breedlab.errors import BreedlabError


def test_every_region_is_in_the_partition_that_botocore_puts_it_in() -> None:
    partitions = Loader().load_data("partitions")["partitions"]
    regions = {region: each["id"] for each in partitions for region in each["regions"]}
    assert len(regions) > 40
    found = {region: partition_of(region) for region in regions if not region.startswith("aws-")}
    assert found == {region: regions[region] for region in found}


@pytest.mark.parametrize(
    ("arn", "region", "named"),
    [
        ("arn:aws:iam::123456789012:role/R", "us-gov-west-1", "aws-us-gov"),
        ("arn:aws:iam::123456789012:role/R", "cn-north-1", "aws-cn"),
        ("arn:aws-us-gov:iam::123456789012:role/R", "us-gov-west-1", None),
        ("arn:aws-eusc:iam::123456789012:role/R", "eusc-de-east-1", None),
        ("arn:aws:sns:eu-west-1:123456789012:t", "us-east-1", "topic of eu-west-1"),
        ("arn:aws:kms:eu-west-1:123456789012:key/k", "us-east-1", "key of eu-west-1"),
        ("SageMakerRole", "us-gov-west-1", None),
        ("arn:aws:iam::123456789012:role/R", "<region>", None),
    ],
)
def test_an_arn_of_elsewhere(arn: str, region: str, named: str | None) -> None:
    problems = arn_problems({"endpoint.role": arn}, region)
    assert [problem.path for problem in problems] == ["endpoint.role"] * (named is not None)
    assert all(named in problem.message for problem in problems if named)


def test_a_deployment_is_refused_the_arns_of_elsewhere(
    model_archive: Path, no_account: Any
) -> None:
    with pytest.raises(BreedlabError) as refused:
        deploy(
            model_archive,
            "dry_run=true",
            "endpoint=async",
            "endpoint.region=us-gov-west-1",
            "endpoint.kms_key=arn:aws-us-gov:kms:us-gov-east-1:123456789012:key/k",
            "endpoint.error_topic=arn:aws:sns:us-gov-west-1:123456789012:t",
        )
    paths = [line.split(":")[0].strip() for line in str(refused.value).splitlines()[1:]]
    assert paths == ["endpoint.role", "endpoint.kms_key", "endpoint.error_topic"]


def test_an_update_that_keeps_two_fleets_says_so(
    model_archive: Path, no_account: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both are billed meanwhile."""
    steps = ["endpoint.traffic=linear", "endpoint.step_percent=25", "endpoint.step_wait=600"]
    assert deploy(model_archive, "dry_run=true", *steps, "endpoint.keep_old=60") == 0
    out = capsys.readouterr().out
    assert "the old and the new instances are billed side by side for 31 minutes" in out
    policy = out.partition('"BlueGreenUpdatePolicy": ')[2]
    routing = json.JSONDecoder().raw_decode(policy)[0]["TrafficRoutingConfiguration"]
    assert routing["LinearStepSize"]["Value"] == 25 and routing["WaitIntervalInSeconds"] == 600
    assert deploy(model_archive, "dry_run=true") == 0
    assert "side by side" not in capsys.readouterr().out


def test_instances_that_aws_does_not_scale(model_archive: Path, no_account: Any) -> None:
    words = ["endpoint.instance_type=ml.t2.medium", "endpoint.max_instances=3"]
    with raises_code("BL400", names=("endpoint.instance_type: ", "ml.t2.medium")):
        deploy(model_archive, "dry_run=true", *words)
