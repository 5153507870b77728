"""Every sentence of AWS's documentation that limits a member of our requests is covered: by a row
of the documented limits, or by a reason why it cannot be broken."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from documented_sentences import limiting_sentences, listed
from sagemaker_account import ROLE

from breedlab.backends.sagemaker.documented_limits import LIMITS
from breedlab.cli import batch, deploy, launch

KEY = "1234abcd-12ab-34cd-56ef-1234567890ab"
NETWORK = "{0}subnets=[subnet-0]", "{0}security_groups=[sg-0]"
SEARCH = ["experiment=resnet34_hpo", "backend=sagemaker", "dry_run=true", "backend.trials=job_each"]
LAUNCHES = [
    [
        *SEARCH,
        "tuner=hyperband",
        "tuner.warm_start=[old]",
        "tuner.space={optim.lr: {low: 0.1, high: 0.2, log: true}, data.batch_size:"
        " {low: 2, high: 8}, model.head_type: [mlp, linear]}",
        f"backend.role={ROLE}",
        "backend.instance_type=ml.m5.large",
        f"backend.kms={{volume: {KEY}, output: {KEY}}}",
        *(text.format("backend.vpc.") for text in NETWORK),
        "backend.keep_alive_minutes=3",
        "backend.retries=1",
        "backend.tensorboard=true",
    ],
    [
        *SEARCH,
        "backend.spot=true",
        "backend.orchestrate=pipeline",
        "backend.register_in=dogs",
        "backend.input_mode=fastfile",
    ],
]
ENDPOINTS = [
    [
        "endpoint.max_instances=3",
        "endpoint.capture=5",
        f"endpoint.kms_key={KEY}",
        "endpoint.volume_gb=5",
        *(text.format("endpoint.") for text in NETWORK),
        "endpoint.network_isolation=true",
        "endpoint.vendor=true",
        "endpoint.traffic=canary",
        "endpoint.alarms=[a]",
    ],
    [
        "endpoint=async",
        "endpoint.success_topic=arn:aws:sns:us-east-1:123456789012:a",
        "endpoint.error_topic=arn:aws:sns:us-east-1:123456789012:a",
        f"endpoint.kms_key={KEY}",
        "endpoint.traffic=linear",
        "endpoint.instance_type=ml.g5.xlarge",
        "endpoint.image=123456789012.dkr.ecr.us-east-1.amazonaws.com/mine:1",
    ],
    ["endpoint=serverless", "endpoint.provisioned_concurrency=2", "endpoint.price_per_hour=1.0"],
    ["--register", "dogs"],
]
BATCH = ["s3://my-in/x", "s3://my-out/y", "--dry-run", "--region", "us-east-1", "--kms-key", KEY]
_REQUEST = re.compile(
    r"^(?:request \d+|or, if the endpoint already exists): (?:(?P<service>[a-z-]+) )?(?P<name>\w+)"
    r".*\n",
    re.MULTILINE,
)


def sentences_about(printed: str) -> set[str]:
    found = set()
    for match in _REQUEST.finditer(printed):
        if match["service"] in (None, "sagemaker"):
            parameters, _ = json.JSONDecoder().raw_decode(printed[match.end() :])
            found |= limiting_sentences(match["name"], parameters)
    return found


def test_each_is_listed_and_none_is_gone(
    no_account: None, here: Path, model_archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a new botocore: cover what is new by a limit or a reason, and take out what is gone."""
    commands: list[tuple[Callable[[list[str]], int], list[str]]] = [
        *((launch.main, words) for words in LAUNCHES),
        *(
            (deploy.main, [str(model_archive), "--dry-run", "endpoint.region=us-east-1", *words])
            for words in ENDPOINTS
        ),
        (batch.main, [str(model_archive), *BATCH]),
    ]
    found = set()
    for main, words in commands:
        assert main(words) == 0
        found |= sentences_about(capsys.readouterr().out)
    assert found - listed().keys() == set()
    assert listed().keys() - found == set()


def test_limits_that_cover_a_sentence_exist() -> None:
    names = {limit.name for limit in LIMITS}
    assert {text for kind, text in listed().values() if kind == "limit"} <= names
    assert {kind for kind, _ in listed().values()} == {"limit", "reason"}
