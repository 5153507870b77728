"""`backend.orchestrate=pipeline`: one SageMaker Pipeline searches, trains the best, and registers
it, with no laptop to follow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import pytest
from codes import raises_code
from sagemaker_account import TWO_TRIALS, Account
from sagemaker_pipelines import look, search_ends, started, training_ends
from waiting import beside, until

from breedlab.backends.sagemaker.jobs import follow, job_start
from breedlab.cli import jobs
from breedlab.cli.launch import main
from breedlab.errors import BreedlabError

pytestmark = pytest.mark.usefixtures("slight_source")

Cloud = Callable[..., list[str]]

SEARCH = [*TWO_TRIALS, "backend.orchestrate=pipeline"]
LATER = "backend.wait=false"


def resume(account: Account, first: str | None, left: Path) -> None:
    """Have the pipeline go on; the training that it starts in place of the first one ends well."""

    def work() -> None:
        until(lambda: started(account, "train") not in (None, first))
        training_ends(account, left)

    with beside(work):
        assert jobs.main(["resume", "dogs"]) == 0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(job_start, "PAUSES", (0.0, 0.0, 0.0))


@pytest.fixture
def left(golden: Path) -> Path:
    """A run directory as a job leaves it; nothing here looks into its weights."""
    left = golden / "runs" / "golden" / "complete"
    for heavy in (*left.glob("checkpoints/*.ckpt"), left / "model.tar.gz"):
        heavy.write_bytes(f"as heavy as {heavy.name}".encode())
    shutil.rmtree(left / "debug")  # hundreds of files
    return left


@pytest.fixture
def aws(account: Account, left: Path) -> Iterator[Callable[[], None]]:
    """Does what AWS does with a pipeline, beside the test."""
    with ExitStack() as running:
        yield lambda: running.enter_context(beside(lambda: goes_through(account, left)))


def goes_through(account: Account, left: Path) -> None:
    until(lambda: account.executions)
    search_ends(account)
    training_ends(account, left)


def test_a_search_is_trained_and_registered_by_the_account_alone(
    cloud: Cloud, account: Account, here: Path, left: Path, capsys: Any
) -> None:
    """Nothing is sent from here after the launch, and nobody follows."""
    assert main(cloud(*SEARCH, LATER, "backend.register_in=breeds")) == 0
    sent = len(account.requests)
    assert account.created() == ["CreateModelPackageGroup", "CreatePipeline"]
    search = (look(account), search_ends(account))[1]
    job = (look(account), training_ends(account, left))[1]
    look(account)
    look(account)
    assert len(account.requests) == sent
    (execution,) = account.executions.values()
    assert execution["PipelineExecutionStatus"] == "Succeeded"

    trained, searched = account.training[job], account.tuning[search]
    assert trained["HyperParameters"] == {"optim__lr": "0.02", "data__batch_size": "32"}
    assert trained["Environment"]["BREEDLAB_STAGE"] == "final"
    assert searched["TrainingJobDefinition"]["Environment"]["BREEDLAB_STAGE"] == "trial"
    marks = {tag["Key"]: tag["Value"] for tag in account.tags[trained["TrainingJobArn"]]}
    assert marks["breedlab:run"] == "dogs" and {"breedlab:user", "breedlab:experiment"} <= set(
        marks
    )
    assert account.tags[execution["PipelineArn"]] == account.tags[trained["TrainingJobArn"]]

    (version,) = account.packages["breeds"]
    assert version["ModelApprovalStatus"] == "PendingManualApproval"
    (container,) = version["InferenceSpecification"]["Containers"]
    output = "s3://breedlab-tests/breedlab/jobs/dogs/output"
    assert container["ModelDataUrl"] == f"{output}/{job}/output/model.tar.gz"
    metrics = version["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"]
    bucket, _, key = metrics.removeprefix("s3://").partition("/")
    body = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    assert body == (left / "metrics.json").read_bytes()

    capsys.readouterr()
    assert jobs.main(["show", "dogs"]) == 0
    shown = capsys.readouterr().out
    assert "pipeline    dogs: Succeeded" in shown
    for step, became in (("search", search), ("train", job), ("register", "breeds/1")):
        assert f"{step:12}{became}: Succeeded" in shown
    assert jobs.main(["fetch", "dogs"]) == 0
    fetched = next(path for path in (here / "runs").glob("quickstart/*") if path.is_dir())
    assert (fetched / "model.tar.gz").read_bytes() == (left / "model.tar.gz").read_bytes()
    found = json.loads((fetched / "metrics.json").read_text())["search"]
    assert found["trial"] == 1 and found["values"] == {"optim.lr": 0.02, "data.batch_size": 32}
    lineage = json.loads((fetched / "lineage.json").read_text())
    assert lineage["sagemaker"]["jobs"] == [search, job]


def test_a_launch_follows_the_steps_to_the_end(
    cloud: Cloud, account: Account, aws: Callable[[], None], capsys: Any
) -> None:
    aws()
    assert main(cloud(*SEARCH, "backend.register_in=breeds")) == 0
    out = capsys.readouterr().out
    assert "trial 0 complete  optim.lr=0.01  data.batch_size=32  valid/top1 0.5000" in out
    assert "epoch 2/2" in out and "register: breeds/1" in out
    assert "Best of the search: trial 1" in out
    names = [name for name, _ in account.requests if name.startswith(("Create", "Start"))]
    assert names == ["CreateModelPackageGroup", "CreatePipeline", "StartPipelineExecution"]


def test_one_job_is_a_pipeline_of_one_step(
    cloud: Cloud, account: Account, left: Path, here: Path, capsys: Any
) -> None:
    assert main(cloud(*SEARCH, LATER, "backend.trials=one_job")) == 0
    look(account)
    job = training_ends(account, left)
    assert (
        "HyperParameters" not in account.training[job]
        or not account.training[job]["HyperParameters"]
    )
    assert account.tuning == {}
    look(account)
    capsys.readouterr()
    assert jobs.main(["list"]) == 0
    assert "pipeline Succeeded" in " ".join(capsys.readouterr().out.split())


def test_it_is_found_listed_and_stopped_from_another_machine(
    cloud: Cloud, account: Account, here: Path, tmp_path: Path, capsys: Any
) -> None:
    assert main(cloud(*SEARCH, LATER)) == 0
    look(account)
    search = started(account, "search")
    capsys.readouterr()
    other = ["--runs", str(tmp_path / "none")]
    assert jobs.main(["show", "dogs", "--region", "us-east-1", *other]) == 0
    assert f"search      {search}: Executing" in capsys.readouterr().out
    assert jobs.main(["list", "--all"]) == 0
    rows = capsys.readouterr().out
    assert "pipeline" in rows and "Executing" in rows and str(search)[:20] in rows
    assert jobs.main(["stop", "dogs", "--region", "us-east-1", *other]) == 0
    assert capsys.readouterr().out.startswith("dogs: stopping")
    assert account.tuning[search]["HyperParameterTuningJobStatus"] == "Stopping"
    account.end_tuning(search, "Stopped")
    assert jobs.main(["stop", "dogs"]) == 0
    assert "nothing to stop: dogs: Stopped" in capsys.readouterr().out
    who = next(
        tag["Value"] for tags in account.tags.values() for tag in tags if "stopped" in tag["Key"]
    )
    with raises_code("BL404", names=(f"dogs: stopped by {who}", "jobs resume dogs")):
        jobs.main(["fetch", "dogs"])


def test_whoever_may_not_look_at_pipelines_works_as_before(
    cloud: Cloud, account: Account, here: Path, tmp_path: Path, capsys: Any
) -> None:
    """With a policy of before there were any."""
    assert main(cloud(*SEARCH, LATER)) == 0
    for operation in ("DescribePipeline", "ListPipelineExecutions"):
        account.refuse[operation] = ("AccessDeniedException", "no")
    words = ["tuner=none", "backend.job_name=cats", LATER]
    assert main(cloud(*words)) == 0
    assert jobs.main(["list", "--all"]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert "cats" in listed and "dogs" in listed
    with raises_code("BL407", names="mice"):
        jobs.main(["stop", "mice", "--region", "us-east-1"])


def test_others_pipelines_are_left_alone(account: Account, here: Path) -> None:
    account.pipelines["theirs"] = {
        "PipelineName": "theirs",
        "PipelineArn": "arn:aws:sagemaker:us-east-1:123456789012:pipeline/theirs",
        "PipelineDefinition": json.dumps({"Steps": []}),
    }
    for verb in ("stop", "show"):
        with raises_code("BL408", names="theirs"):
            jobs.main([verb, "theirs", "--region", "us-east-1"])
    assert account.sent("StopPipelineExecution") == []


def test_a_step_that_failed_says_why_and_is_taken_up_again(
    cloud: Cloud, account: Account, left: Path, here: Path, capsys: Any
) -> None:
    assert main(cloud(*SEARCH, LATER)) == 0
    look(account)
    search = search_ends(account)
    look(account)
    first = started(account, "train")
    account.end_training(str(first), "Failed", FailureReason="AlgorithmError: NaN loss")
    with pytest.raises(BreedlabError) as failed:
        jobs.main(["fetch", "dogs"])
    assert f"train: {first}: ClientError: AlgorithmError: NaN loss" in str(failed.value)
    resume(account, first, left)
    assert list(account.tuning) == [search]  # the search is not paid for twice
    assert len(account.training) - len(account.trials(search)) == 2


def test_one_that_was_stopped_goes_on_from_where_it_was(
    cloud: Cloud, account: Account, left: Path, here: Path, capsys: Any
) -> None:
    assert main(cloud(*SEARCH, LATER)) == 0
    look(account)
    search_ends(account)
    look(account)
    first = str(started(account, "train"))
    assert jobs.main(["stop", "dogs"]) == 0
    account.end_training(first, "Stopped")
    look(account)
    (execution,) = account.executions.values()
    assert execution["PipelineExecutionStatus"] == "Stopped"
    resume(account, first, left)
    assert len(account.tuning) == 1, "the search is not paid for twice"
    assert len(account.sent("RetryPipelineExecution")) == len(account.executions) == 1
    assert execution["PipelineExecutionStatus"] == "Succeeded"


@pytest.mark.parametrize("operation", ["CreatePipeline", "StartPipelineExecution"])
def test_a_lost_answer_starts_it_once(
    cloud: Cloud, account: Account, here: Path, operation: str
) -> None:
    account.lose[operation] = 1
    assert main(cloud(*SEARCH, LATER)) == 0
    assert len(account.pipelines) == len(account.executions) == 1
    (record,) = (here / "runs").glob("*/*/job.json")
    kept = json.loads(record.read_text())
    assert kept["state"] == "started" and kept["execution"] == next(iter(account.executions))


@pytest.mark.parametrize("operation", ["CreatePipeline", "StartPipelineExecution"])
def test_a_refusal_leaves_nothing_behind(
    cloud: Cloud, account: Account, here: Path, operation: str
) -> None:
    account.refuse[operation] = ("ResourceLimitExceeded", "The account-level limit is reached.")
    with raises_code("BL400", names="account-level limit"):
        main(cloud(*SEARCH, LATER))
    assert account.pipelines == account.executions == {}
    assert not list((here / "runs").glob("*/*/job.json"))


def test_a_launch_that_broke_off_is_resumed_under_its_name(
    cloud: Cloud, account: Account, left: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer ever came to the start, though AWS had made the pipeline."""
    account.lose["StartPipelineExecution"] = 99
    with raises_code("BL402", names="dogs") as lost:
        main(cloud(*SEARCH, LATER))
    assert "jobs fetch dogs" in str(lost.value)
    account.lose.clear()
    account.executions.clear()
    account._answers.clear()
    with beside(lambda: goes_through(account, left)):
        assert jobs.main(["resume", "dogs"]) == 0
    assert len(account.pipelines) == len(account.executions) == 1


def test_a_name_that_is_taken_is_refused_before_anything_is_uploaded(
    cloud: Cloud, account: Account, here: Path
) -> None:
    assert main(cloud(*SEARCH, LATER)) == 0
    uploaded = len([call for call in account.calls if call.startswith("PUT")])
    with raises_code("BL411", names=("backend.job_name", "'dogs'")):
        main(cloud(*SEARCH, LATER))
    assert len([call for call in account.calls if call.startswith("PUT")]) == uploaded


def test_secrets_do_not_get_into_the_definition(
    cloud: Cloud, account: Account, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_hidden")
    for value in ("''", "${oc.env:HF_TOKEN}"):
        with raises_code("BL116", names="backend.environment.HF_TOKEN"):
            main(cloud(*SEARCH, LATER, f"backend.environment.HF_TOKEN={value}"))
    arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:hub-Ab12"
    assert main(cloud(*SEARCH, LATER, f"backend.environment.HF_TOKEN='{arn}'")) == 0
    (pipeline,) = account.pipelines.values()
    assert arn in pipeline["PipelineDefinition"]
    assert "hf_hidden" not in pipeline["PipelineDefinition"]


def test_the_largest_bill_holds_for_a_pipeline_and_for_its_retry(
    cloud: Cloud, account: Account, here: Path
) -> None:
    with raises_code("BL412", names="backend.max_bill"):
        main(cloud(*SEARCH, LATER, "backend.max_bill=0.5"))
    assert account.pipelines == {}
