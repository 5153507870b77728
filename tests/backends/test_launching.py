"""A launch that something comes between: what was paid for stays known, what was refused leaves
nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from codes import raises_code
from sagemaker_account import REGION, ROLE, Account

from breedlab.backends.launched import Launched
from breedlab.backends.sagemaker.jobs import follow, job_start, launch
from breedlab.backends.sagemaker.jobs.handle import SageMakerExperiment
from breedlab.cli import jobs
from breedlab.cli.launch import main
from breedlab.errors import BreedlabError

pytestmark = pytest.mark.usefixtures("slight_source")

Cloud = Callable[..., list[str]]

THEIRS = f"arn:aws:sagemaker:{REGION}:123456789012:training-job/theirs"
ONE = ["backend.job_name=dogs", "backend.wait=false"]
SEARCH = ["tuner=random", "tuner.trials=2", *ONE]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(job_start, "PAUSES", (0.01, 0.01, 0.01))


def in_bucket(name: str = "dogs") -> dict[str, Any]:
    body = boto3.client("s3").get_object(
        Bucket="breedlab-tests", Key=f"breedlab/jobs/{name}/job.json"
    )["Body"]
    found: dict[str, Any] = json.loads(body.read())
    return found


@pytest.mark.parametrize("kind", [ONE, SEARCH], ids=["training", "search"])
def test_an_answer_that_was_lost_is_a_job_that_was_started(
    kind: list[str], cloud: Cloud, account: Account, here: Path
) -> None:
    """The connection broke after AWS had taken the request; boto3 asks again and is told that the
    name is in use."""
    operation = "CreateHyperParameterTuningJob" if kind is SEARCH else "CreateTrainingJob"
    account.lose[operation] = 1
    assert main(cloud(*kind)) == 0
    assert len(account.sent(operation)) == 2
    assert len(account.training) + len(account.tuning) == 1
    assert in_bucket()["state"] == "started"
    (job,) = Launched(here / "runs").all()
    assert isinstance(job, SageMakerExperiment)
    record = job.record
    assert (record.name, record.state) == ("dogs", "started")


def test_a_name_that_another_took_is_not_taken_for_ours(
    cloud: Cloud, account: Account, here: Path, monkeypatch: Any
) -> None:
    theirs = boto3.client("sagemaker")
    theirs.create_training_job(
        TrainingJobName="dogs",
        AlgorithmSpecification={
            "TrainingInputMode": "File",
            "TrainingImage": "1.dkr.ecr.x.amazonaws.com/a:1",
        },
        RoleArn=ROLE,
        OutputDataConfig={"S3OutputPath": "s3://theirs/out"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    )
    # it came between that look and the request
    monkeypatch.setattr(launch, "_name_problems", lambda *_: [])
    with raises_code("BL400", names=("dogs", "backend.job_name")):
        main(cloud(*ONE))
    assert not (here / "runs").exists()


def test_an_answer_that_nobody_can_ask_for_leaves_a_job_that_is_known(
    cloud: Cloud, account: Account, here: Path, capsys: Any
) -> None:
    account.lose["CreateTrainingJob"] = 9
    account.lose["DescribeTrainingJob"] = 9
    with raises_code("BL402") as raised:
        main(cloud("backend.wait=false"))
    account.lose.clear()
    (name,) = account.training
    assert f"breedlab jobs stop {name} --region us-east-1" in str(raised.value)
    assert in_bucket(name)["state"] == "sending"
    capsys.readouterr()
    jobs.main(["list"])
    assert name in (listed := capsys.readouterr().out) and "InProgress" in listed
    jobs.main(["show", name])
    assert f"{name}: InProgress" in capsys.readouterr().out
    jobs.main(["stop", name])
    assert account.training[name]["TrainingJobStatus"] == "Stopping"


def test_ctrl_c_while_a_job_is_started_says_how_to_stop_it(
    cloud: Cloud, account: Account, here: Path, monkeypatch: Any
) -> None:
    send = launch.send

    def interrupted(*given: Any) -> None:
        send(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "send", interrupted)
    with raises_code("BL403", names=("dogs", "jobs stop")):
        main(cloud(*ONE))
    jobs.main(["stop", "dogs"])
    assert account.training["dogs"]["TrainingJobStatus"] == "Stopping"


def test_a_launch_that_broke_off_before_aws_had_it_is_resumed(
    cloud: Cloud, account: Account, here: Path, monkeypatch: Any, capsys: Any
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, raises_code("BL403", names="dogs"):
        patch.setattr(launch, "send", interrupted)
        main(cloud(*ONE))
    assert account.training == {}
    capsys.readouterr()
    jobs.main(["list"])
    assert "launch was interrupted" in " ".join(capsys.readouterr().out.replace("│", " ").split())
    jobs.main(["stop", "dogs"])
    assert (
        "nothing to stop: dogs: AWS does not know this job, so its launch was interrupted"
        in capsys.readouterr().out
    )
    # followed elsewhere
    monkeypatch.setattr("breedlab.backends.sagemaker.jobs.fetch.finish", lambda *_, **__: None)
    jobs.main(["resume", "dogs"])
    assert len(account.sent("CreateTrainingJob")) == 1
    assert in_bucket()["state"] == "started"


def test_a_full_disk_before_the_request_costs_nothing_and_one_after_it_loses_nothing(
    cloud: Cloud, account: Account, here: Path, monkeypatch: Any
) -> None:
    from breedlab.backends.sagemaker.jobs import record

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with (
        monkeypatch.context() as patch,
        pytest.raises((BreedlabError, OSError)) as full_disk,
    ):
        patch.setattr(record, "atomic_write_text", full)
        main(cloud(*ONE))
    assert getattr(full_disk.value, "code", "BL301") == "BL301"
    assert account.created() == []
    send = launch.send
    monkeypatch.setattr(
        launch,
        "send",
        lambda *given: (send(*given), monkeypatch.setattr(record, "atomic_write_text", full)),
    )
    assert main(cloud(*ONE)) == 0
    monkeypatch.undo()


def test_a_role_that_aws_has_not_heard_of_everywhere_is_waited_for(
    cloud: Cloud, account: Account, here: Path
) -> None:
    refusals = iter([True, True])
    create = account._CreateTrainingJob

    def not_yet(asked: dict[str, Any]) -> dict[str, Any]:
        if next(refusals, False):
            account.fail(
                "ValidationException",
                f"Could not assume role {ROLE}. Please ensure that the role exists",
            )
        return create(asked)

    account._CreateTrainingJob = not_yet  # type: ignore[method-assign]
    try:
        assert main(cloud(*ONE)) == 0
    finally:
        del account._CreateTrainingJob
    assert list(account.training) == ["dogs"]


def test_throttling_and_a_lag_are_lived_through(cloud: Cloud, account: Account, here: Path) -> None:
    account.throttle["CreateTrainingJob"] = 1
    account.lag = 0.3
    assert main(cloud(*ONE)) == 0
    assert list(account.training) == ["dogs"]


def test_old_records_are_read(cloud: Cloud, account: Account, here: Path) -> None:
    main(cloud(*ONE))
    file = next(here.glob("runs/quickstart/*/job.json"))
    tree = json.loads(file.read_text())
    del tree["state"]
    file.write_text(json.dumps({**tree, "of_a_newer_version": 1}))
    (job,) = Launched(here / "runs").all()
    assert isinstance(job, SageMakerExperiment)
    record = job.record
    assert record.state == "started"


# Whose job it is.


@pytest.mark.parametrize("kind", [ONE, SEARCH], ids=["training", "search"])
def test_every_job_carries_our_tags(
    kind: list[str], cloud: Cloud, account: Account, here: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("BREEDLAB_USER", "jo o'neil")
    main(cloud(*kind, "backend.tags={team: vision}"))
    ((_, sent),) = [each for each in account.requests if each[0].startswith("Create")]
    assert {tag["Key"]: tag["Value"] for tag in sent["Tags"]} == {
        "team": "vision",
        "breedlab": "quickstart",
        "breedlab:run": "dogs",
        "breedlab:experiment": "quickstart",
        "breedlab:user": "jo o_neil",
    }


def test_our_tags_are_not_set_by_a_config(cloud: Cloud, account: Account, here: Path) -> None:
    with raises_code("BL104", names="backend.tags.breedlab"):
        main(cloud(*ONE, "backend.tags={breedlab: mine}"))


def test_any_machine_lists_and_stops_our_jobs_and_leaves_others_alone(
    cloud: Cloud, account: Account, here: Path, tmp_path_factory: Any, monkeypatch: Any, capsys: Any
) -> None:
    main(cloud(*SEARCH, "backend.instance_count=2"))
    running = account.add_trial("dogs", {"optim__lr": "0.1"}, None, "InProgress")
    main(cloud("backend.wait=false", "backend.job_name=cats-0"))
    for number in range(1, 12):  # more than a page
        account.training[f"cats-{number}"] = {
            **account.training["cats-0"],
            "TrainingJobName": f"cats-{number}",
        }
    account.end_training("cats-3")
    account.training["theirs"] = {
        **account.training["cats-1"],
        "TrainingJobName": "theirs",
        "TrainingJobArn": THEIRS,
    }
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    capsys.readouterr()
    monkeypatch.setenv("COLUMNS", "200")
    jobs.main(["list", "--all"])
    lines = capsys.readouterr().out.splitlines()
    rows = {
        cells[0]: cells for line in lines if len(cells := [c.strip() for c in line.split("│")]) >= 7
    }
    # one trial
    assert rows["dogs"][1:3] == ["search", "quickstart"] and rows["dogs"][5:] == [
        "InProgress",
        "$0.46",
    ]
    assert rows["cats-2"][1] == "training" and rows["cats-2"][5:] == ["InProgress", "$0.23"]
    assert (
        rows["cats-3"][5] == "Completed"
        and len(rows["cats-3"]) == 7
        and "$" not in rows["cats-3"][6]
    )
    assert "theirs" not in rows and running not in rows

    for name in ("cats-2", running, "dogs"):
        jobs.main(["stop", name, "--region", REGION])
    assert (
        account.training["cats-2"]["TrainingJobStatus"]
        == account.training[running]["TrainingJobStatus"]
        == "Stopping"
    )
    assert account.tuning["dogs"]["HyperParameterTuningJobStatus"] == "Stopping"
    with raises_code("BL408", names="theirs"):
        jobs.main(["stop", "theirs"])
    assert account.training["theirs"]["TrainingJobStatus"] == "InProgress"
    with raises_code("BL407", names=("nobody", "us-east-1")):
        jobs.main(["stop", "nobody"])


# What it costs.


def test_a_bill_above_the_limit_is_refused_before_anything_is_sent(
    cloud: Cloud, account: Account, here: Path
) -> None:
    with pytest.raises(BreedlabError) as raised:
        main(cloud(*SEARCH, "backend.max_bill=2.0"))
    assert (
        "backend.max_bill: the largest bill is $2.76 (3 jobs, 12.0 instance hours), above 2 USD;"
        " lower backend.max_run_hours or tuner.trials, or set backend.max_bill=3"
        in str(raised.value)
    )
    assert account.created() == [] and not (here / "runs").exists()


def test_an_unknown_price_is_refused_until_it_is_given_or_waived(
    cloud: Cloud, account: Account, here: Path
) -> None:
    dear = ["backend.instance_type=ml.p5.48xlarge", "backend.wait=false", "backend.processes=1"]
    with raises_code("BL412", names=("backend.price_per_hour", "ml.p5.48xlarge", "us-east-1")):
        main(cloud(*dear))
    with raises_code("BL412", names=("backend.max_bill", "$400.00")):
        main(cloud(*dear, "backend.price_per_hour=100.0"))
    assert account.created() == []
    assert main(cloud(*dear, "backend.max_bill=null")) == 0
    assert main(cloud(*dear, "backend.price_per_hour=10.0")) == 0


def test_the_largest_bill_is_said_before_anything_is_sent(
    cloud: Cloud, account: Account, here: Path, monkeypatch: Any, capsys: Any
) -> None:
    said: list[str] = []
    send = launch.send
    monkeypatch.setattr(
        launch, "send", lambda *given: (said.append(capsys.readouterr().out), send(*given))
    )
    main(cloud(*SEARCH))
    assert (
        "largest bill: $2.76 (3 jobs, 12.0 instance hours); $0.23 an hour for ml.m5.xlarge"
        in " ".join(said[0].split())
    )


# How it ended.


def test_fetch_starts_nothing_and_resume_does(cloud: Cloud, account: Account, here: Path) -> None:
    main(cloud(*SEARCH))
    account.add_trial("dogs", {"optim__lr": "0.02", "data__batch_size": "32"}, 0.5)
    account.end_tuning("dogs")
    with pytest.raises(BreedlabError) as raised:
        jobs.main(["fetch", "dogs"])
    assert account.created() == ["CreateHyperParameterTuningJob"]
    assert "start it with: breedlab jobs resume dogs --region us-east-1  (at most $0.92" in str(
        raised.value
    )


@pytest.mark.parametrize("named", [True, False], ids=["best told", "best not told"])
def test_a_search_that_was_stopped_is_finished_from_its_best_trial(
    named: bool, cloud: Cloud, account: Account, here: Path, monkeypatch: Any
) -> None:
    main(cloud(*SEARCH))
    for lr, objective in (("0.02", 0.5), ("0.04", 0.75), ("0.08", 0.25)):
        account.add_trial("dogs", {"optim__lr": lr, "data__batch_size": "32"}, objective)
    jobs.main(["stop", "dogs"])
    account.end_tuning("dogs", "Stopped")
    if not named:
        del account.tuning["dogs"]["BestTrainingJob"]
    with raises_code("BL404", names="breedlab jobs resume dogs --region us-east-1"):
        jobs.main(["fetch", "dogs"])
    monkeypatch.setattr("breedlab.backends.sagemaker.jobs.fetch.follow_training", _ended)
    with raises_code("BL404", names=("dogs-final", "enough")):
        jobs.main(["resume", "dogs"])
    (final,) = account.sent("CreateTrainingJob")
    assert final["HyperParameters"] == {"optim__lr": "0.04", "data__batch_size": "32"}


def _ended(*_: Any) -> Any:
    from breedlab.backends.sagemaker.jobs.status import Status

    return Status("dogs-final", "Failed", reason="enough")


@pytest.mark.parametrize(
    ("status", "fields", "says"),
    [
        ("Stopped", {"SecondaryStatus": "MaxRuntimeExceeded"}, "4 hours of backend.max_run_hours"),
        ("Stopped", {"SecondaryStatus": "MaxWaitTimeExceeded"}, "backend.max_wait_hours"),
        ("Stopped", {}, "AWS console"),
        (
            "Failed",
            {"FailureReason": "CapacityError: Unable to provision requested ML compute capacity."},
            "ml.m5.xlarge in us-east-1: CapacityError",
        ),
        (
            "Failed",
            {"FailureReason": "InternalServerError: We encountered"},
            "internal AWS error",
        ),
        ("Failed", {"FailureReason": "AlgorithmError: no photos"}, "AlgorithmError: no photos"),
    ],
)
def test_an_ending_is_told_as_it_was(
    status: str,
    fields: dict[str, str],
    says: str,
    cloud: Cloud,
    account: Account,
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(cloud(*ONE))
    account.end_training("dogs", status, **fields)
    with raises_code("BL404", names=("dogs", says)):
        jobs.main(["fetch", "dogs"])
    capsys.readouterr()
    assert jobs.main(["show", "dogs"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert status in shown and says.removeprefix("dogs: failed: ") in shown


def test_who_stopped_a_job_is_told(
    cloud: Cloud,
    account: Account,
    here: Path,
    monkeypatch: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("BREEDLAB_USER", "jo")
    main(cloud(*ONE))
    jobs.main(["stop", "dogs"])
    account.end_training("dogs", "Stopped")
    with raises_code("BL404", names=("dogs", "jo stopped it")):
        jobs.main(["fetch", "dogs"])
    capsys.readouterr()
    assert jobs.main(["show", "dogs"]) == 0
    assert "Stopped: jo stopped it with" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("images", "sizes"), [(6, ["4"]), (None, ["4", "64"])])
def test_a_tuning_job_is_offered_no_batch_that_the_images_cannot_fill(
    account: Account,
    cloud: Cloud,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    images: int | None,
    sizes: list[str],
) -> None:
    """6 images to train on here; how many lie in S3 is for the job to count."""
    if images is None:
        boto3.client("s3").put_object(Bucket="breedlab-tests", Key="p/train/a/1.jpg", Body=b"")
    search = ["tuner=random", "tuner.trials=2", "tuner.space.data.batch_size=[4, 64]"]
    given = cloud(*search, *([] if images else ["data.root=s3://breedlab-tests/p"]))
    assert main([*given, "backend.wait=false"]) == 0
    (request,) = account.sent("CreateHyperParameterTuningJob")
    ranges = request["HyperParameterTuningJobConfig"]["ParameterRanges"][
        "CategoricalParameterRanges"
    ]
    assert [each["Values"] for each in ranges if "batch_size" in each["Name"]] == [sizes]
    told = "there are 6 training images" in " ".join(capsys.readouterr().out.split())
    assert told is bool(images)
    assert main([*given, "dry_run=true"]) == 0
    planned = capsys.readouterr().out
    assert json.dumps(sizes) in " ".join(planned.split()).replace("[ ", "[").replace(" ]", "]")
    assert ("there are 6 training images" in planned) is bool(images)
