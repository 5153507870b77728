"""`breedlab batch`: every image under an address in S3 is answered, and nothing is left that costs
or clutters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest
from codes import exits_with_code, raises_code
from deploying import BUCKET, CLASSES, created, sent
from sagemaker_account import ROLE
from sagemaker_endpoints import EndpointAccount

from breedlab.backends.sagemaker.endpoints import transform
from breedlab.cli.batch import main

IN, OUT = f"s3://{BUCKET}/in", f"s3://{BUCKET}/out"


@pytest.fixture
def account(
    deploy_account: EndpointAccount, few: Path, monkeypatch: pytest.MonkeyPatch
) -> EndpointAccount:
    monkeypatch.setattr(transform, "POLL_S", 0.0)
    for number, path in enumerate(sorted(few.rglob("*.jpg"))[:3]):
        boto3.client("s3").upload_file(str(path), BUCKET, f"in/folder/{number}.jpg")
    deploy_account.requests.clear()
    return deploy_account


def batch(archive: Path, *words: str, source: str = IN, target: str = OUT) -> int:
    return main(
        [str(archive), source, target, "--role", ROLE, "--bucket", BUCKET, "--name", "dogs", *words]
    )


def answers() -> dict[str, Any]:
    s3 = boto3.client("s3")
    keys = [
        entry["Key"]
        for entry in s3.list_objects_v2(Bucket=BUCKET, Prefix="out/").get("Contents", [])
    ]
    return {key: json.loads(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()) for key in keys}


def test_every_image_is_answered_and_the_model_goes_again(
    account: EndpointAccount, model_archive: Path, capsys: Any
) -> None:
    assert batch(model_archive, "--tag", "team=vision") == 0
    found = answers()
    assert set(found) == {f"out/folder/{number}.jpg.out" for number in range(3)}
    assert all(tuple(answer["classes"]) == CLASSES for answer in found.values())
    assert (
        created(account) == ["CreateModel", "CreateTransformJob", "DeleteModel"]
        and not account.models
    )
    job = sent(account, "CreateTransformJob")
    tags = {tag["Key"]: tag["Value"] for tag in job["Tags"]}
    assert tags == {
        "team": "vision",
        "breedlab:run": "test",
        "breedlab:user": "anna",
        "breedlab:batch": "dogs",
    }
    out = capsys.readouterr().out
    assert (
        "dogs costs $0.115 an hour until every image is answered" in out
        and f"answers are in {OUT}/" in out
    )


def test_a_file_that_is_no_image_is_named(account: EndpointAccount, model_archive: Path) -> None:
    boto3.client("s3").put_object(Bucket=BUCKET, Key="in/notes.txt", Body=b"no image")
    with raises_code("BL400", names=("dogs", "ClientError", "1 image", "notes.txt")):
        batch(model_archive)
    assert len(answers()) == 3 and not account.models


def test_a_job_is_left_to_aws_found_again_and_stopped(
    account: EndpointAccount, model_archive: Path, capsys: Any
) -> None:
    assert batch(model_archive, "--no-wait") == 0
    assert "--follow dogs" in capsys.readouterr().out
    assert list(account.models) == ["dogs"]
    assert main(["--stop", "dogs"]) == 0
    with raises_code("BL400", names=("dogs", "Stopped", "someone stopped it")):
        main(["--follow", "dogs"])
    assert not account.models
    with raises_code("BL400", names=("dogs", "Stopped")):
        main(["--stop", "dogs"])
    with raises_code("BL407", names=("cats", "us-east-1")):
        main(["--follow", "cats"])


@pytest.mark.parametrize("operation", ["CreateModel", "CreateTransformJob"])
def test_a_lost_answer_starts_one_job(
    account: EndpointAccount, model_archive: Path, operation: str
) -> None:
    account.lost.add(operation)
    assert batch(model_archive) == 0
    assert len(account.transforms) == 1 and not account.models


def test_a_job_that_is_refused_leaves_no_model(
    account: EndpointAccount, model_archive: Path
) -> None:
    account.refuse["CreateTransformJob"] = (
        "ResourceLimitExceeded",
        "The account-level limit is 0 Instances.",
    )
    with raises_code("BL400", names="account-level limit is 0"):
        batch(model_archive)
    assert not account.models and not account.transforms


@pytest.mark.parametrize(
    ("words", "places", "names"),
    [
        (["--at-once", "20"], {}, ("--max-image-mb", "6 MB", "20 requests")),
        ([], {"source": f"s3://{BUCKET}/empty"}, ("IN: ", f"s3://{BUCKET}/empty")),
        ([], {"source": "s3://nobodys-bucket/in"}, ("IN: ", "nobodys-bucket")),
        (["--instance-type", "ml.r7i.large"], {}, "--price-per-hour"),
    ],
)
def test_what_would_fail_is_told_before_anything_is_sent(
    account: EndpointAccount,
    model_archive: Path,
    words: list[str],
    places: dict[str, str],
    names: str | tuple[str, ...],
) -> None:
    account.quotas["ml.r7i.large for transform job usage"] = 1
    with raises_code("BL400", names=names):
        batch(model_archive, *words, **places)
    assert not created(account)


def test_the_dry_run_needs_no_account(no_account: None, model_archive: Path, capsys: Any) -> None:
    assert main([str(model_archive), IN, OUT, "--dry-run", "--region", "us-east-1"]) == 0
    out = capsys.readouterr().out
    assert "sagemaker CreateTransformJob" in out and "costs    $0.115 an hour" in out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["m.tar.gz", IN], "s3://BUCKET/OUT"),
        (["m.tar.gz", "in", OUT], ("IN", "'in'")),
        (["m.tar.gz", IN, f"{IN}/answers"], ("IN", "OUT")),
        (["m.tar.gz", "--stop", "dogs"], ("--stop", "MODEL|RUN")),
    ],
)
def test_args_that_do_not_go_together(words: list[str], named: Any, capsys: Any) -> None:
    with exits_with_code(capsys, "BL107", names=named):
        main(words)
