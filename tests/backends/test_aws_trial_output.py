"""docs/aws-trial.md, its scripts run in the tests' account: each prints what the page says."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from job_tree import put_output
from sagemaker_account import Account, leave, say
from sagemaker_pipelines import look, search_ends, training_ends
from trial_page import expected, steps
from waiting import beside, until

from breedlab.backends.sagemaker.jobs import follow
from breedlab.training.objective import FIGURES, epoch_line

ASIDE = {
    "jobs.py list",
    "launch.py",
    "list-model-packages",
    "show",
    "output.tar.gz",
    "PendingManualApproval",
    "S3ModelArtifacts",
}
"""What the page has in backticks that is neither printed nor a file of the run."""


@pytest.fixture
def left(golden: Path) -> Path:
    """A run directory as a job leaves it, with the report that the golden one was kept without."""
    left = golden / "runs" / "golden" / "complete"
    (left / "report.html").write_text("<!doctype html>")
    shutil.rmtree(left / "debug")  # hundreds of files, of which the page says nothing
    return left


def trains(account: Account, ends: str, left: Path, epochs: int) -> None:
    """Do what AWS does with the training job whose name ends so."""
    (job,) = until(lambda: [name for name in [*account.training] if name.endswith(ends)])
    for state in ("Starting", "Downloading", "Training"):
        account.training[job]["SecondaryStatus"] = state
        time.sleep(0.3)
    figures = dict.fromkeys(FIGURES, 0.5)
    lines = [epoch_line(n, epochs, figures, "valid/top1", 0.75) for n in range(1, epochs + 1)]
    say(job, *lines)
    leave(left, f"{account.training[job]['CheckpointConfig']['S3Uri']}/{job}", without="trials")
    account.end_training(job)


def searches(account: Account, left: Path, **_: Any) -> None:
    (search,) = until(lambda: [*account.tuning])
    for number, objective in enumerate((0.5, 0.75)):
        values = {"optim__lr": repr(0.001 * (number + 1)), "data__batch_size": "32"}
        trial = account.add_trial(search, values, objective)
        definition = account.tuning[search]["TrainingJobDefinition"]
        put_output(left, trial, definition)
        say(trial, epoch_line(2, 2, dict.fromkeys(FIGURES, 0.5), "valid/top1", objective))
    account.end_tuning(search)
    trains(account, "-final", left, 2)


def goes_through(account: Account, left: Path) -> None:
    until(lambda: account.executions)
    look(account)
    search_ends(account, lr=0.001)
    training_ends(account, left)


@pytest.mark.parametrize(
    ("script", "aws"),
    [
        (1, lambda account, left: trains(account, "", left, 2)),
        (2, searches),
        (4, goes_through),
    ],
    ids=["training", "search", "pipeline"],
)
def test_a_script_prints_what_the_page_says(
    script: int,
    aws: Callable[[Account, Path], None],
    account: Account,
    left: Path,
    here: Path,
    few: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On few images instead of those that it draws."""
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.05)
    boto3.client("s3").create_bucket(Bucket="my-bucket")
    account.refuse["ListServiceQuotas"] = ("AccessDeniedException", "no")
    with beside(lambda: aws(account, left)):
        seen = " ".join(steps(script, capsys, f"data.root={few}"))
    run = max((here / "runs").glob("trial-*/*/"), key=lambda path: path.stat().st_mtime)

    def is_seen(quote: str) -> bool:
        pattern = ".*".join(re.escape(part) for part in quote.split("..."))
        found = re.search(pattern, seen)
        return bool(found) or (here / quote).exists() or (run / quote).exists()

    wanted = [quote for quote in expected(script) if quote not in ASIDE]
    assert len(wanted) > 4
    assert [quote for quote in wanted if not is_seen(quote)] == [], seen
