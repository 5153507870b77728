"""What is asked of the account before anything is uploaded, and what is said where nobody may
ask."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from codes import raises_code
from deploying import deploy
from sagemaker_account import ROLE, TRUST, Account
from sagemaker_endpoints import EndpointAccount

from breedlab.backends.sagemaker.preflight import Need, look, training_needs
from breedlab.backends.sagemaker.prices import Instance, price_per_hour, quoted
from breedlab.cli.launch import main
from breedlab.config.backend import Backend
from breedlab.errors import ConfigError

pytestmark = pytest.mark.usefixtures("slight_source")

Cloud = Callable[..., list[str]]
DENIED = ("AccessDeniedException", "You are not authorized")


def looked(*needs: Need) -> tuple[list[str], list[str]]:
    found = look(boto3.Session(), ROLE, list(needs))
    return [f"{p.path}: {p.message}" for p in found.problems], found.unchecked


def trusting(**statement: Any) -> None:
    """Have the role's trust policy hold one statement."""
    policy = json.loads(TRUST)
    policy["Statement"][0] |= statement
    boto3.client("iam").update_assume_role_policy(
        RoleName="SageMakerRole", PolicyDocument=json.dumps(policy)
    )


@pytest.mark.parametrize(
    ("statement", "fits"),
    [
        ({}, True),
        ({"Principal": {"Service": ["lambda.amazonaws.com", "sagemaker.amazonaws.com"]}}, True),
        ({"Principal": {"Service": "lambda.amazonaws.com"}}, False),
        ({"Principal": {"AWS": "arn:aws:iam::123456789012:root"}}, False),
        ({"Effect": "Deny"}, False),
        ({"Action": ["sts:AssumeRole", "sts:SetSourceIdentity"]}, True),
    ],
)
def test_a_role_that_sagemaker_may_not_take_on(
    account: Account, statement: dict[str, Any], fits: bool
) -> None:
    trusting(**statement)
    problems, unchecked = looked()
    assert (problems == []) == fits and unchecked == []
    assert fits or "does not trust SageMaker" in problems[0]


def test_a_role_that_the_caller_may_not_pass(account: Account) -> None:
    boto3.client("iam").create_user(UserName="anna")
    key = boto3.client("iam").create_access_key(UserName="anna")["AccessKey"]
    anna = boto3.Session(
        aws_access_key_id=key["AccessKeyId"], aws_secret_access_key=key["SecretAccessKey"]
    )
    account.passes = "implicitDeny"
    (problem,) = look(anna, ROLE, []).problems
    assert problem.path == "backend.role" and "user/anna may not pass" in problem.message
    (asked,) = account.simulated
    assert (
        asked["ActionNames.member.1"] == "iam:PassRole" and asked["ResourceArns.member.1"] == ROLE
    )
    assert asked["ContextEntries.member.1.ContextKeyValues.member.1"] == "sagemaker.amazonaws.com"


def test_a_warm_pool_needs_its_own_quota_which_is_0_by_default(account: Account) -> None:
    account.quotas["ml.m5.xlarge for training job usage"] = 9
    account.quotas["ml.m5.xlarge for training warm pool usage"] = 0
    backend = Backend(name="sagemaker", instance_type="ml.m5.xlarge", keep_alive_minutes=20)
    needs = training_needs(backend, 3)
    (problem,) = looked(*needs)[0]
    assert problem.startswith("backend.keep_alive_minutes: 1 x ml.m5.xlarge kept warm is above")
    account.quotas["ml.m5.xlarge for training warm pool usage"] = 1
    found = look(boto3.Session(), ROLE, needs)
    assert found.problems == [] and "ml.m5.xlarge for training warm pool usage" in found.enough


def test_a_quota_that_is_too_small(account: Account) -> None:
    account.quotas["ml.g5.xlarge for training job usage"] = 1
    backend = Backend(name="sagemaker", instance_type="ml.g5.xlarge", instance_count=1)
    assert looked(*training_needs(backend, 1)) == ([], [])
    (problem,), _ = looked(*training_needs(backend, 2))
    assert problem.startswith(
        "backend.instance_type: 2 x ml.g5.xlarge is above the account's quota"
    )
    spot = backend.model_copy(update={"spot": True})
    assert looked(*training_needs(spot, 2)) == ([], [])  # which is another quota
    account.quotas["ml.g5.xlarge for spot training job usage"] = 0
    assert "spot training job usage', 0 in us-east-1" in looked(*training_needs(spot, 1))[0][0]
    (problem,), _ = looked(*training_needs(backend.model_copy(update={"max_run_hours": 121.0}), 1))
    assert problem.startswith("backend.max_run_hours: 121 hours is above")


def test_what_may_not_be_asked_refuses_nothing_and_is_said(account: Account) -> None:
    account.refuse |= {"ListServiceQuotas": DENIED}
    problems, unchecked = looked(
        Need("ml.g5.xlarge for training job usage", 1, "backend.instance_type", "one")
    )
    assert problems == []
    assert unchecked == ["the account's quotas: your credentials do not allow checking it"]
    account.refuse.clear()
    assert looked(Need("ml.new.xlarge for training job usage", 1, "x", "one"))[1] == [
        "the quota 'ml.new.xlarge for training job usage': the account has no quota of that name"
    ]


def test_a_launch_asks_before_it_uploads(
    cloud: Cloud, account: Account, here: Path, capsys: Any
) -> None:
    trusting(Principal={"Service": "lambda.amazonaws.com"})
    account.quotas["ml.c5.xlarge for training job usage"] = 0
    with pytest.raises(ConfigError) as refused:
        main(cloud("tuner=none", "backend.instance_type=ml.c5.xlarge"))
    assert "does not trust SageMaker" in str(refused.value) and "'ml.c5.xlarge for training" in str(
        refused.value
    )
    assert not account.created()
    assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket="breedlab-tests")

    trusting()
    account.refuse["ListServiceQuotas"] = DENIED
    assert main(cloud("tuner=none", "backend.wait=false")) == 0
    assert "not checked: the account's quotas" in capsys.readouterr().out
    assert account.created() == ["CreateTrainingJob"]


def test_a_deployment_asks_for_its_instances(
    deploy_account: EndpointAccount, model_archive: Path
) -> None:
    deploy_account.quotas["ml.m5.large for endpoint usage"] = 2
    with raises_code("BL400", names=("endpoint.instance_type", "3 x ml.m5.large")):
        deploy(model_archive, "--max-instances", "3")
    assert not deploy_account.created()


def test_the_price_is_that_of_awss_list_where_the_account_may_ask(account: Account) -> None:
    machine = Instance("ml.m5.xlarge")
    listed = price_per_hour(machine, "us-east-1")
    assert listed[0] == 0.23 and quoted(boto3.Session(), machine, "Training") == listed
    account.prices[("us-east-1", "ml.m5.xlarge", "Training")] = [0.0, 0.25]
    assert quoted(boto3.Session(), machine, "Training") == (
        0.25,
        "$0.25 an hour for ml.m5.xlarge in us-east-1 by AWS's price list today",
    )
    assert quoted(boto3.Session(), machine, "Hosting") == listed
    assert quoted(boto3.Session(), Instance("ml.m5.xlarge", 9.0), "Training")[0] == 9.0
    account.refuse["GetProducts"] = DENIED
    assert quoted(boto3.Session(), machine, "Training") == listed


def test_a_launch_knows_the_price_of_a_type_that_the_table_lacks(
    cloud: Cloud, account: Account, here: Path, capsys: Any
) -> None:
    words = ("tuner=none", "backend.instance_type=ml.r7i.large", "backend.wait=false")
    with raises_code("BL412", names=("backend.price_per_hour", "ml.r7i.large")):
        main(cloud(*words))
    account.prices[("us-east-1", "ml.r7i.large", "Training")] = [0.159]
    assert main(cloud(*words)) == 0
    assert (
        "$0.159 an hour for ml.r7i.large in us-east-1 by AWS's price list today"
        in capsys.readouterr().out
    )
