"""Secrets of a launch are in the request and nowhere else."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from codes import raises_code
from sagemaker_account import Account

from breedlab.backends.sagemaker.jobs import job_secrets
from breedlab.cli import batch, deploy, jobs
from breedlab.cli.launch import main

pytestmark = pytest.mark.usefixtures("slight_source")

Cloud = Callable[..., list[str]]
VALUE = "hunter2hunter2"


def everything_in_the_bucket() -> bytes:
    s3 = boto3.client("s3")
    found = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket="breedlab-tests"):
        for item in page["Contents"]:
            body = s3.get_object(Bucket="breedlab-tests", Key=item["Key"])["Body"].read()
            found.append(gzip.decompress(body) if item["Key"].endswith(".gz") else body)
    return b"".join(found)


@pytest.mark.parametrize(
    "given",
    [
        "backend.environment={WANDB_API_KEY: '', MODE: 'online'}",
        "backend.environment={WANDB_API_KEY: '${oc.env:WANDB_API_KEY}', MODE: 'online'}",
        "backend.environment={WANDB_API_KEY: " + VALUE + ", MODE: 'online'}",
    ],
    ids=["empty", "interpolated", "typed as it is in the shell"],
)
@pytest.mark.parametrize(
    "kind", [[], ["tuner=random", "tuner.trials=2"]], ids=["training", "search"]
)
def test_a_secret_is_in_the_request_and_in_nothing_that_is_kept(
    given: str,
    kind: list[str],
    cloud: Cloud,
    account: Account,
    here: Path,
    monkeypatch: Any,
    capsys: Any,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", VALUE)
    launched = cloud("backend.wait=false", "backend.job_name=dogs", *kind, given)
    main([*launched, "dry_run=true"])
    main(launched)
    jobs.main(["show", "dogs"])
    printed = capsys.readouterr()
    ((_, sent),) = [each for each in account.requests if each[0].startswith("Create")]
    environment = sent.get("TrainingJobDefinition", sent)["Environment"]
    assert environment["WANDB_API_KEY"] == VALUE and environment["MODE"] == "online"
    assert VALUE not in printed.out + printed.err
    kept = everything_in_the_bucket()
    assert b"WANDB_API_KEY" in kept and VALUE.encode() not in kept
    files = [path for path in here.rglob("*") if path.is_file()]
    assert any(path.name == "job.json" for path in files)
    assert not [path for path in files if VALUE.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("given", "code", "named"),
    [
        ("backend.environment={HF_TOKEN: abc}", "BL116", "backend.environment.HF_TOKEN"),
        ("backend.environment={DB_PASSWORD: ''}", "BL109", "backend.environment.DB_PASSWORD"),
    ],
)
def test_a_secret_that_would_be_kept_or_is_missing_is_refused(
    given: str, code: str, named: str, cloud: Cloud, account: Account, here: Path
) -> None:
    with raises_code(code, names=named) as raised:
        main(cloud("backend.wait=false", given))
    assert "abc" not in str(raised.value) and account.created() == []


def test_names_of_secrets() -> None:
    looks = "WANDB_API_KEY HF_TOKEN password MY_SECRET AWS_SECRET_ACCESS_KEY OPENAI_APIKEY GIT_PAT"
    assert all(job_secrets.is_secret(name, "x") for name in looks.split())
    assert not any(
        job_secrets.is_secret(name, "x")
        for name in ["WANDB", "MODE", "TOKENIZERS_PARALLELISM", "KEYBOARD", "PATH"]
    )
    assert not job_secrets.is_secret(
        "HF_TOKEN", "arn:aws:secretsmanager:eu-west-1:123456789012:secret:hf-AbCdEf"
    )


def test_addresses_in_secrets_manager_are_resolved_in_the_job(account: Account) -> None:
    manager = boto3.client("secretsmanager")
    plain = manager.create_secret(Name="plain", SecretString=VALUE)["ARN"]
    tree = manager.create_secret(
        Name="tree", SecretString=json.dumps({"user": "jo", "password": VALUE})
    )["ARN"]
    environment = {"A": plain, "B": f"{tree}:password::", "MODE": "online"}
    job_secrets.resolve(environment)
    assert environment == {"A": VALUE, "B": VALUE, "MODE": "online"}
    with raises_code("BL400", names=("backend.environment.C", "'pin'")):
        job_secrets.resolve({"C": f"{tree}:pin::"})
    nobody = plain.replace("plain", "nobody")
    with raises_code("BL400", names="secretsmanager:GetSecretValue"):
        job_secrets.resolve({"C": nobody})


@pytest.mark.parametrize("words", [[], ["--register", "dogs"]], ids=["endpoint", "registry"])
def test_the_dry_run_of_a_deployment_shows_no_secret(
    words: list[str], no_account: None, model_archive: Path, capsys: Any
) -> None:
    given = f"endpoint.environment={{HF_TOKEN: {VALUE}, MODE: online}}"
    assert deploy.main([str(model_archive), "--dry-run", given, *words]) == 0
    printed = capsys.readouterr().out
    assert "HF_TOKEN" in printed and '"MODE": "online"' in printed and VALUE not in printed


def test_the_dry_run_of_a_batch_job_shows_no_secret(
    no_account: None, model_archive: Path, capsys: Any
) -> None:
    places = ["s3://my-in/x", "s3://my-out/y"]
    words = [str(model_archive), *places, "--dry-run", "--env", f"HF_TOKEN={VALUE}"]
    assert batch.main(words) == 0
    printed = capsys.readouterr().out
    assert "HF_TOKEN" in printed and VALUE not in printed
