"""Loggers of jobs: what travels with them, what they may ask, and what is refused before it is
paid for."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from codes import raises_code
from sagemaker_account import Account
from test_permissions import HERE, printed
from test_source_archive import archived

from breedlab.cli.launch import main
from breedlab.config.logger import TRACKING_VARIABLE

APP = "arn:aws:sagemaker:us-east-1:123456789012:mlflow-app/app-ABC123"
SERVER = "arn:aws:sagemaker:us-east-1:123456789012:mlflow-tracking-server/ours"
Cloud = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def _nothing_in_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (TRACKING_VARIABLE, "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("way", ["shell", "config", "variable"])
def test_a_job_gets_mlflows_address_and_its_package(
    way: str, cloud: Cloud, account: Account, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = []
    if way == "shell":
        monkeypatch.setenv(TRACKING_VARIABLE, APP)
    else:
        path = {
            "config": "logger.tracking_uri",
            "variable": "backend.environment.MLFLOW_TRACKING_URI",
        }
        more = [f"{path[way]}={APP}"]
    main(cloud("backend.wait=false", "logger=mlflow", *more))
    assert account.sent("CreateTrainingJob")[-1]["Environment"][TRACKING_VARIABLE] == APP
    with archived(account) as archive:
        file = archive.extractfile("requirements.txt")
        assert file is not None
        names = {line.split("==")[0] for line in file.read().decode().split()}
    assert {"mlflow", "sagemaker-mlflow"} <= names


SECRET = "https://anna:s3cret-word@mlflow.example"


@pytest.mark.parametrize("typed", [[], ["logger.tracking_uri='${oc.env:OURS}'"]])
def test_a_password_in_mlflows_address_reaches_the_job_and_no_record(
    typed: list[str],
    cloud: Cloud,
    account: Account,
    here: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OURS" if typed else TRACKING_VARIABLE, SECRET)
    main(cloud("tuner=none", "logger=mlflow", *typed, "dry_run=true"))
    main(cloud("tuner=none", "backend.wait=false", "logger=mlflow", *typed))
    assert account.sent("CreateTrainingJob")[-1]["Environment"][TRACKING_VARIABLE] == SECRET
    written = [path.read_bytes() for path in (here / "runs").rglob("*") if path.is_file()]
    for found in boto3.client("s3").list_objects_v2(Bucket="breedlab-tests")["Contents"]:
        body = boto3.client("s3").get_object(Bucket="breedlab-tests", Key=found["Key"])["Body"]
        written.append(body.read())
        if found["Key"].endswith("source.tar.gz"):
            written.append(gzip.decompress(written[-1]))
    assert not any(b"s3cret-word" in content for content in written)
    printed = capsys.readouterr()
    assert "s3cret-word" not in printed.out + printed.err


def test_a_password_that_would_be_written_down_is_refused(
    cloud: Cloud, words: Cloud, account: Account, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = words("experiment=quickstart", "logger=mlflow", f"logger.tracking_uri='{SECRET}'")
    index = "https://aws:s3cret-word@index.example/simple"
    for typed, code, named in (
        (local, "BL116", ("logger.tracking_uri", "MLFLOW_TRACKING_PASSWORD")),
        (
            cloud("logger=mlflow", f"logger.tracking_uri='{SECRET}'"),
            "BL116",
            ("logger.tracking_uri", "${oc.env:NAME}"),
        ),
        (
            cloud(f"backend.environment.PIP_INDEX_URL='{index}'"),
            "BL116",
            "backend.environment.PIP_INDEX_URL",
        ),
    ):
        with raises_code(code, names=named) as refused:
            main(typed)
        assert "s3cret-word" not in str(refused.value)
    assert account.created() == [] and not (here / "runs").exists()
    monkeypatch.setenv(TRACKING_VARIABLE, SECRET)
    with raises_code("BL116", names="MLFLOW_TRACKING_URI"):
        main(cloud("logger=mlflow", "backend.orchestrate=pipeline"))


def test_other_loggers_bring_nothing(
    cloud: Cloud, account: Account, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRACKING_VARIABLE, APP)
    main(cloud("backend.wait=false"))
    assert TRACKING_VARIABLE not in account.sent("CreateTrainingJob")[-1]["Environment"]


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        (["logger=mlflow"], "logger.tracking_uri"),
        (["logger=mlflow", "logger.tracking_uri=http://localhost:5000"], "'http://localhost"),
        (["logger=mlflow", "logger.tracking_uri='sqlite:///mlflow.db'"], "'sqlite:///mlflow.db"),
        (["logger=wandb"], "WANDB_API_KEY"),
        (
            [
                "logger=mlflow",
                f"logger.tracking_uri='{APP}'",
                "backend.network_isolation=true",
                "backend.vendor=true",
            ],
            "mlflow",
        ),
    ],
)
def test_what_a_job_could_not_log_to_is_refused(
    typed: list[str], named: str, cloud: Cloud, account: Account, here: Any
) -> None:
    with raises_code("BL411", names=named):
        main(cloud("backend.wait=false", *typed))
    assert not account.sent("CreateTrainingJob")


def test_the_role_may_log_there_and_aws_knows_the_actions(no_account: None, capsys: Any) -> None:
    from policy_sentry.querying.actions import get_actions_for_service

    for uri, service in ((APP, "sagemaker"), (SERVER, "sagemaker-mlflow")):
        policy = printed(
            capsys,
            "policies",
            *HERE,
            "logger=mlflow",
            f"logger.tracking_uri='{uri}'",
            "--only",
            "execution_role",
        )
        (found,) = [s for s in policy["Statement"] if s["Resource"] == [uri]]
        assert set(found["Action"]) <= set(get_actions_for_service(service))
    plain = printed(capsys, "policies", *HERE, "--only", "execution_role")
    assert "mlflow" not in str(plain).lower()
