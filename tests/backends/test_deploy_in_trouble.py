"""deploy.py where AWS is slow, busy, forgetful or says no: nothing is lost, doubled, or left behind
untold."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.endpoint
import pytest
from codes import raises_code
from deploying import created, deploy, sent
from sagemaker_account import REGION
from sagemaker_endpoints import EndpointAccount

from breedlab.backends.sagemaker.endpoints import first_answer, invoke
from breedlab.cli.deploy import main
from breedlab.cli.predict import main as predict
from breedlab.errors import BackendError


@pytest.fixture
def account(deploy_account: EndpointAccount, monkeypatch: pytest.MonkeyPatch) -> EndpointAccount:
    """An account in which nobody has to wait for boto3's own pauses between two tries."""
    clock = SimpleNamespace(sleep=lambda _seconds: None, time=botocore.endpoint.time.time)
    monkeypatch.setattr(botocore.endpoint, "time", clock)
    return deploy_account


@pytest.fixture
def minutes(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock of the first answer that only its own pauses move; `now` is the seconds that have
    passed."""
    clock = SimpleNamespace(now=0.0)

    def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(
        first_answer, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep)
    )
    monkeypatch.setattr(first_answer, "PATIENCE_S", 180.0)
    return clock


def test_what_was_just_created_is_not_found_for_a_while(
    account: EndpointAccount, model_archive: Path
) -> None:
    account.unseen_for = 2
    assert deploy(model_archive) == 0
    account.requests.clear()
    assert deploy(model_archive, "--env", "A=b") == 0
    assert account.endpoints["dogs"]["EndpointStatus"] == "InService"
    assert (
        account.endpoints["dogs"]["EndpointConfigName"] == sent(account, "CreateModel")["ModelName"]
    )


def test_a_config_that_never_appears_is_told_and_all_is_undone(
    account: EndpointAccount, model_archive: Path
) -> None:
    account.unseen_for = 10_000
    with raises_code("BL409", names="Could not find model"):
        deploy(model_archive)
    assert not account.endpoints


@pytest.mark.parametrize(
    "operation", ["CreateModel", "CreateEndpointConfig", "CreateEndpoint", "UpdateEndpoint"]
)
def test_an_answer_that_is_lost_makes_nothing_twice_and_undoes_nothing(
    account: EndpointAccount, model_archive: Path, operation: str
) -> None:
    deploy(model_archive) if operation == "UpdateEndpoint" else None
    account.lost = {operation}
    assert deploy(model_archive, "--env", "A=b") == 0
    assert not account.lost
    wanted = account.endpoints["dogs"]["EndpointConfigName"]
    assert account.endpoints["dogs"]["EndpointStatus"] == "InService" and wanted in account.models
    assert not [name for name in created(account) if name.startswith("Delete")]


@pytest.mark.parametrize(
    "operation", ["CreateModel", "CreateEndpoint", "DescribeEndpoint", "RegisterScalableTarget"]
)
def test_a_busy_account_is_asked_again(
    account: EndpointAccount, model_archive: Path, operation: str
) -> None:
    account.throttled = {operation: 12}  # more often than boto3 tries
    assert deploy(model_archive, "--max-instances", "2") == 0
    assert account.endpoints["dogs"]["EndpointStatus"] == "InService"


def test_a_cold_container_is_waited_for(
    account: EndpointAccount, model_archive: Path, minutes: SimpleNamespace, capsys: Any
) -> None:
    account.cold = 12
    assert deploy(model_archive) == 0
    assert minutes.now > 0
    out = capsys.readouterr().out
    assert "no answer yet" in out and "endpoint dogs answers" in out


def test_a_model_that_fails_for_three_minutes_is_removed(
    account: EndpointAccount, model_archive: Path, minutes: SimpleNamespace
) -> None:
    account.container = lambda body, kind, accept: (503, b"worker is starting", "text/plain")
    with raises_code("BL409", names=("503", "worker is starting")):
        deploy(model_archive)
    assert minutes.now >= 180 and not account.endpoints


def test_what_is_no_failure_of_the_server_is_not_waited_for(
    account: EndpointAccount, model_archive: Path, minutes: SimpleNamespace
) -> None:
    account.container = lambda body, kind, accept: (415, b"no photo", "text/plain")
    with raises_code("BL409", names="415"):
        deploy(model_archive)
    assert minutes.now == 0


@pytest.mark.parametrize("update", [False, True])
def test_who_may_not_ask_the_endpoint_is_told_and_keeps_it(
    account: EndpointAccount, model_archive: Path, update: bool
) -> None:
    if update:
        deploy(model_archive)
    account.denied = {"InvokeEndpoint"}
    with raises_code("BL410", names="InvokeEndpoint") as told:
        deploy(model_archive, "--env", "A=b", "--max-instances", "2")
    assert "--delete dogs" in str(told.value)
    assert account.endpoints["dogs"]["EndpointConfigName"] in account.configs
    assert not [name for name in created(account) if name.startswith("Delete")]
    assert sent(account, "RegisterScalableTarget")["MaxCapacity"] == 2
    account.denied = set()
    account.requests.clear()
    assert deploy(model_archive, "--env", "A=b", "--max-instances", "2") == 0
    assert created(account) == []


def test_who_may_not_read_the_answers_of_an_asynchronous_endpoint_keeps_it(
    account: EndpointAccount, model_archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)

    def sleep(seconds: float) -> None:
        clock.now += 60 * seconds

    monkeypatch.setattr(invoke, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
    answers = account.container
    assert answers is not None

    def answer(body: bytes, kind: str, accept: str) -> tuple[int, bytes, str]:
        account.denied = {"S3:GET"}  # of the caller; the endpoint has read its image by then
        return answers(body, kind, accept)

    account.container = answer
    with raises_code("BL410", names="dogs"):
        deploy(model_archive, "--kind", "async")
    assert account.endpoints["dogs"]["EndpointStatus"] == "InService"


NEW = [
    "S3:PUT",
    "CreateModel",
    "CreateEndpointConfig",
    "CreateEndpoint",
    "DescribeModel",
    "DescribeEndpointConfig",
    "DescribeEndpoint",
    "RegisterScalableTarget",
    "PutScalingPolicy",
    "InvokeEndpoint",
]


@pytest.mark.parametrize("operation", NEW)
def test_a_permission_that_is_missing_leaves_nothing_untold(
    account: EndpointAccount, model_archive: Path, operation: str
) -> None:
    account.denied = {operation}
    with pytest.raises(BackendError) as told:
        deploy(model_archive, "--max-instances", "2")
    assert ("PutObject" if operation == "S3:PUT" else operation) in str(told.value)
    if account.endpoints:
        assert "endpoint dogs: is in service" in str(told.value)
    else:
        assert not account.configs and not account.models


@pytest.mark.parametrize(
    "operation",
    [
        "ListTags",
        "UpdateEndpoint",
        "DescribeScalableTargets",
        "DeregisterScalableTarget",
        "AddTags",
        "InvokeEndpoint",
    ],
)
def test_an_update_without_a_permission_leaves_an_endpoint_that_serves(
    account: EndpointAccount, model_archive: Path, operation: str
) -> None:
    deploy(model_archive, "--max-instances", "2")
    old = account.endpoints["dogs"]["EndpointConfigName"]
    account.denied = {operation}
    words = ("--max-instances", "2", "--env", "A=b")
    if operation in ("AddTags", "DeregisterScalableTarget"):
        assert deploy(model_archive, *words) == 0
    else:
        code = {"UpdateEndpoint": "BL409", "InvokeEndpoint": "BL410"}.get(operation, "BL400")
        with raises_code(code, names=operation):
            deploy(model_archive, *words)
    now = account.endpoints["dogs"]
    assert now["EndpointStatus"] == "InService"
    assert (
        now["EndpointConfigName"] in account.configs and now["EndpointConfigName"] in account.models
    )
    if operation in ("ListTags", "UpdateEndpoint", "DescribeScalableTargets"):
        assert now["EndpointConfigName"] == old and list(account.configs) == [old]


def test_what_cannot_be_undone_is_named(account: EndpointAccount, model_archive: Path) -> None:
    account.fails = "The primary container did not pass the ping health check."
    account.denied = {"DeleteEndpointConfig"}
    with raises_code("BL409", names=("ping health", "endpoint config dogs-", "--delete dogs")):
        deploy(model_archive)
    assert not account.endpoints and not account.models and account.configs


# Money.


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--max-instances 4", "$0.115 to $0.460 an hour, $83.95 to $335.80 a month, until deleted"),
        ("--instance-type ml.g5.xlarge", "$1.408 an hour, $1,027.84 a month, until deleted"),
        (
            "--kind async --min-instances 0 --max-instances 2",
            "$0.000 to $0.230 an hour, $0.00 to $167.90 a month",
        ),
        (
            "--kind serverless",
            "$0.000 an hour, $0.00 a month, until deleted (serverless: nothing while idle",
        ),
        ("--instance-type ml.c6i.xlarge --price-per-hour 0.2", "$0.200 an hour, $146.00 a month"),
        ("--kind serverless --provisioned-concurrency 2 --price-per-hour 0.1", "$0.200 an hour"),
    ],
)
def test_what_it_costs_is_told_by_the_dry_run_and_before_it_is_sent(
    account: EndpointAccount, model_archive: Path, capsys: Any, words: str, says: str
) -> None:
    assert deploy(model_archive, *words.split(), "--dry-run") == 0
    assert says in capsys.readouterr().out
    assert deploy(model_archive, *words.split()) == 0
    out = capsys.readouterr().out
    assert says in out and out.index(says) < out.index("uploading")


@pytest.mark.parametrize(
    "words",
    ["--instance-type ml.c6i.xlarge", "--kind serverless --provisioned-concurrency 2"],
)
def test_an_unknown_price_is_told_and_nothing_is_sent(
    account: EndpointAccount, model_archive: Path, capsys: Any, words: str
) -> None:
    assert deploy(model_archive, *words.split(), "--dry-run") == 0
    out = capsys.readouterr().out
    needs = out[out.index("a launch needs") :]
    assert "costs    unknown" in out and "endpoint.price_per_hour" in needs
    with raises_code("BL400", names="endpoint.price_per_hour"):
        deploy(model_archive, *words.split())
    assert created(account) == [] and not [call for call in account.calls if call.startswith("PUT")]


# Where.


def test_commands_name_a_region_that_is_not_the_profiles(
    account: EndpointAccount,
    model_archive: Path,
    image_folder: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert deploy(model_archive) == 0
    assert "--region" not in capsys.readouterr().out
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert deploy(model_archive, "--region", REGION) == 0
    out = capsys.readouterr().out
    commands = [line for line in out.splitlines() if "breedlab " in line]
    assert len(commands) == 2 and all(f"--region {REGION}" in line for line in commands)
    image = str(next((image_folder / "test").rglob("*.jpg")))
    assert predict(["--endpoint", "dogs", "--region", REGION, image, "--json"]) == 0
    assert "predictions" in json.loads(capsys.readouterr().out)[0]
    account.endpoints["dogs"]["EndpointStatus"] = "Failed"
    with raises_code("BL400", names=f"--delete dogs --region {REGION}"):
        deploy(model_archive, "--region", REGION, "--env", "A=b")
    with pytest.raises(SystemExit):
        predict(["--endpoint", "http://127.0.0.1:1", "--region", REGION, image])
    assert "--region: is for --endpoint NAME" in capsys.readouterr().err


# Hosts.


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            f"--image 123456789012.dkr.ecr.{REGION}.amazonaws.com/x:1 --instance-type ml.g5.xlarge",
            "gpu-4-1",
        ),
        (f"--image 123456789012.dkr.ecr.{REGION}.amazonaws.com/x:1", None),
        ("--instance-type ml.g5.xlarge", None),
    ],
)
def test_our_cuda_13_image_gets_hosts_with_its_driver(
    account: EndpointAccount, model_archive: Path, words: str, expected: str | None
) -> None:
    assert deploy(model_archive, *words.split()) == 0
    (variant,) = sent(account, "CreateEndpointConfig")["ProductionVariants"]
    assert str(variant.get("InferenceAmiVersion", None)).endswith(str(expected))


@pytest.mark.parametrize(
    "flag",
    ["--alarm slow", "--traffic canary", "--traffic all-at-once", "--keep-old 60", "--step-wait 5"],
)
def test_guardrails_of_a_serverless_endpoint_are_refused_before_anything_is_sent(
    account: EndpointAccount, model_archive: Path, capsys: Any, flag: str
) -> None:
    name = flag.split()[0].removeprefix("--").replace("-", "_").replace("alarm", "alarms")
    with raises_code("BL104", names=(f"endpoint.{name}", "serverless")):
        main([str(model_archive), "--kind", "serverless", *flag.split()])
    assert not account.requests and not account.calls
