"""Jobs that an older version launched are still listed and fetched."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from codes import raises_code
from sagemaker_account import Account, leave

from breedlab.backends.sagemaker.jobs import follow
from breedlab.cli import jobs, report

BUCKET = "breedlab-tests"
JOBS = f"s3://{BUCKET}/breedlab/jobs"
COMPLETE = Path("runs/golden/complete")


@pytest.fixture
def old_jobs(golden: Path, account: Account, monkeypatch: pytest.MonkeyPatch) -> Account:
    """The account in which both jobs of the golden folder are done, with what they left in the
    bucket."""
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.02)
    described = json.loads(Path("account.json").read_text())
    account.training.update(described["training"])
    account.tuning.update(described["tuning"])
    for trial in account.trials("golden-search"):
        leave(COMPLETE, f"{JOBS}/golden-search/checkpoints/{trial['TrainingJobName']}")
    leave(COMPLETE, f"{JOBS}/golden-one/checkpoints/golden-one")
    return account


def test_old_jobs_are_listed(old_jobs: Account, capsys: Any) -> None:
    assert jobs.main(["list"]) == 0
    listed = capsys.readouterr().out
    assert "golden-search" in listed and "golden-one" in listed


def test_an_old_job_that_is_done_is_fetched(old_jobs: Account) -> None:
    assert jobs.main(["fetch", "golden-one"]) == 0
    fetched = Path("runs/golden/job_one")
    assert (fetched / "model.tar.gz").read_bytes() == (COMPLETE / "model.tar.gz").read_bytes()
    assert report.main([str(fetched)]) == 0
    assert yaml.safe_load((fetched / "config.yaml").read_text())["backend"]["trials"] == "one_job"


def test_weights_that_changed_since_are_fetched_again(old_jobs: Account) -> None:
    """Those of a later epoch have the very size of those before."""
    assert jobs.main(["fetch", "golden-one", "--now"]) == 0
    file, key = (
        "checkpoints/last.ckpt",
        "breedlab/jobs/golden-one/checkpoints/golden-one/checkpoints/last.ckpt",
    )
    fetched = Path("runs/golden/job_one") / file
    later = fetched.read_bytes()[:-1] + b"x"
    time.sleep(1.1)  # S3 tells whole seconds
    boto3.client("s3").put_object(Bucket=BUCKET, Key=key, Body=later)
    unchanged = fetched.with_name("best.ckpt").stat().st_ino
    assert jobs.main(["fetch", "golden-one"]) == 0
    assert fetched.read_bytes() == later
    assert fetched.with_name("best.ckpt").stat().st_ino == unchanged


def test_an_old_search_that_is_done_is_shown(old_jobs: Account, capsys: Any) -> None:
    assert jobs.main(["show", "golden-search"]) == 0
    assert "0.625" in capsys.readouterr().out


def test_the_job_of_a_newer_breedlab_is_refused_in_a_sentence(old_jobs: Account) -> None:
    file = Path("runs/golden/job_one/job.json")
    file.write_text(json.dumps({"schema_version": 99, **json.loads(file.read_text())}))
    with raises_code("BL111", names="job.json"):
        jobs.main(["fetch", os.fspath(file.parent)])
