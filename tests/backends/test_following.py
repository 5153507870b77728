"""Following, coming back, stopping and fetching."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import shutil
import sqlite3
import struct
import sys
import tarfile
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import preloaded
import pytest
import yaml
from codes import raises_code
from sagemaker_account import TWO_TRIALS as SEARCH
from sagemaker_account import Account, leave, say
from waiting import beside, until

from breedlab.backends.sagemaker.jobs import follow
from breedlab.backends.sagemaker.jobs.job_files import is_of_a_trial
from breedlab.backends.sagemaker.jobs.status import Status
from breedlab.cli import jobs, upload
from breedlab.cli.launch import main
from breedlab.config import validate
from breedlab.config.compose import load
from breedlab.errors import NotFound
from breedlab.pipeline.run import run
from breedlab.tuning.trial_log import read_trial

pytestmark = pytest.mark.usefixtures("slight_source")

Cloud = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.02)


@pytest.fixture(scope="module")
def finished(words: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a training without a search, as a job leaves it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("job"))
        given = words("experiment=quickstart", "debugger=default", "trainer.max_epochs=2")
        left = run(validate(load(given)), []).run.resolve()
    for heavy in (*left.glob("checkpoints/*.ckpt"), left / "model.tar.gz"):
        heavy.write_bytes(f"as heavy as {heavy.name}".encode())  # nothing here looks inside
    for recorded in ("events", "index"):  # hundreds of files, which each test would send and fetch
        shutil.rmtree(left / "debug" / "0" / recorded)
    return left


def leave_output(run: Path, key: str, job: str) -> None:
    """Packs what a trial keeps of its run directory as SageMaker does at its end."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path in run.rglob("*"):
            if path.is_file() and is_of_a_trial(name := path.relative_to(run).as_posix()):
                archive.add(path, arcname=f"./{job}/{name}")
    boto3.client("s3").put_object(Bucket="breedlab-tests", Key=key, Body=packed.getvalue())


def work(account: Account, finished: Path, objectives: tuple[float, ...] = (0.5, 0.75)) -> None:
    """Does what AWS does with a search that was launched: trials, then whatever final job is asked
    for."""
    (tuning,) = until(lambda: [*account.tuning])
    for number, objective in enumerate(objectives):
        values = {"optim__lr": repr(0.01 * (number + 1)), "data__batch_size": "32"}
        ends = {"interval/top1_low": objective - 0.1, "interval/top1_high": objective + 0.1}
        figures = [{"MetricName": name, "Value": value} for name, value in ends.items()]
        name = account.add_trial(tuning, values, objective, FinalMetricDataList=figures)
        leave_output(finished, f"breedlab/jobs/{tuning}/output/{name}/output/output.tar.gz", name)
    account.end_tuning(tuning)
    (final,) = until(lambda: [name for name in [*account.training] if name.endswith("-final")])
    leave(finished, f"{account.training[final]['CheckpointConfig']['S3Uri']}/{final}")
    say(final, "epoch 1/2", "epoch 2/2")
    account.end_training(final)


@pytest.fixture
def aws(account: Account, finished: Path) -> Iterator[Callable[..., None]]:
    """Runs `work` beside the test."""
    with contextlib.ExitStack() as running:
        yield lambda *given: running.enter_context(beside(lambda: work(account, finished, *given)))


def test_a_search_comes_back_as_a_run_directory(
    cloud: Cloud,
    account: Account,
    aws: Callable[..., None],
    here: Path,
    finished: Path,
    capsys: Any,
) -> None:
    aws()
    assert main(cloud(*SEARCH)) == 0
    out = capsys.readouterr().out
    # Followed: the trials, the log, the figures at the end.
    line = "trial 0 complete  optim.lr=0.01  data.batch_size=32  valid/top1 0.5000"
    assert f"{line}  95% 0.4000 to 0.6000" in out
    assert "epoch 2/2" in out
    assert "Best of the search: trial 1" in out
    # The best trial's values went to the final job, by their names.
    (final,) = account.sent("CreateTrainingJob")
    assert final["HyperParameters"] == {"optim__lr": "0.02", "data__batch_size": "32"}
    assert final["TrainingJobName"] == "dogs-final"
    assert final["Environment"]["BREEDLAB_STAGE"] == "final"

    fetched = (here / "runs" / "latest").resolve()
    left = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    got = {path.relative_to(fetched).as_posix() for path in fetched.rglob("*") if path.is_file()}
    assert left <= got
    assert (fetched / "model.tar.gz").read_bytes() == (finished / "model.tar.gz").read_bytes()
    # The report of the final job knew of no search.
    assert "optim.lr" in (fetched / "report.html").read_text()
    assert (fetched / "report.html").read_text() != (finished / "report.html").read_text()
    assert {"study.db", "trials/0/trial.json", "trials/1/trial.json", "job.json"} <= got
    assert any(name.startswith("tensorboard/trial_001/events") for name in got)
    # What a trial keeps for itself is not fetched.
    assert not any(
        "trial_000/checkpoints" in name or name.startswith("trials/0/checkpoints") for name in got
    )
    debugged = {name for name in left if name.startswith("debug/")}
    assert debugged and {name for name in got if name.startswith("debug/")} == debugged
    assert {name for name in got if name.startswith("trials/1/debug/")} == {
        f"trials/1/{name}" for name in debugged
    }

    trial = json.loads((fetched / "trials" / "1" / "trial.json").read_text())
    assert trial["values"] == {"optim.lr": 0.02, "data.batch_size": 32}
    assert (trial["state"], trial["objective"], trial["seconds"]) == (
        "complete",
        0.75,
        pytest.approx(7, abs=0.1),
    )
    low, high = trial["interval"]
    assert low < max(epoch["valid/top1"] for epoch in trial["epochs"]) < high
    assert len(trial["epochs"]) == 2 and {"train/loss", "valid/top1"} <= trial["epochs"][0].keys()
    metrics = json.loads((fetched / "metrics.json").read_text())
    assert metrics["search"] == {
        "trial": 1,
        "values": {"optim.lr": 0.02, "data.batch_size": 32},
        "objective": 0.75,
        "tied": [],
        "interval": trial["interval"],
    }
    config = yaml.safe_load((fetched / "config.yaml").read_text())
    assert config["tuner"]["strategy"] == "random"
    lineage = json.loads((fetched / "lineage.json").read_text())
    assert lineage["sagemaker"]["jobs"] == ["dogs", "dogs-final"]
    with sqlite3.connect(fetched / "study.db") as database:
        assert database.execute(
            "select count(*) from trials where state = 'COMPLETE'"
        ).fetchone() == (2,)


def test_of_trials_that_tie_the_one_of_the_lowest_validation_loss_is_trained(
    cloud: Cloud,
    account: Account,
    here: Path,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """AWS takes the first of three that are equal; the second was surer of its answers."""
    from lightning.fabric.loggers.tensorboard import TensorBoardLogger

    assert main(cloud(*SEARCH, "tuner.trials=4", "backend.wait=false")) == 0
    for number, (objective, loss) in enumerate([(0.75, 0.6), (0.75, 0.2), (0.5, 0.1), (0.75, 0.4)]):
        name = account.add_trial(
            "dogs", {"optim__lr": repr(0.01 * (number + 1)), "data__batch_size": "32"}, objective
        )
        left = tmp_path / name
        events = TensorBoardLogger(left / "tensorboard", name="final", version="")
        for epoch in range(2):  # the loss that counts is that of the best epoch, not of the last
            metrics = {
                "train/loss": 1.0,
                "valid/top1": objective - 0.1 * epoch,
                "valid/loss": loss - 0.05 * number * epoch,
            }
            events.log_metrics(metrics, step=epoch)
        events.finalize("success")
        leave_output(left, f"breedlab/jobs/dogs/output/{name}/output/output.tar.gz", name)
    account.end_tuning("dogs")
    assert account.tuning["dogs"]["BestTrainingJob"]["TunedHyperParameters"]["optim__lr"] == "0.01"
    monkeypatch.setattr(
        "breedlab.backends.sagemaker.jobs.fetch.follow_training",
        lambda *_: Status("dogs-final", "Failed"),
    )
    with raises_code("BL404", names="dogs-final"):
        jobs.main(["resume", "dogs"])
    (final,) = account.sent("CreateTrainingJob")
    assert final["HyperParameters"] == {"optim__lr": "0.02", "data__batch_size": "32"}
    assert "trial 1 ties with 0, 3; the lower validation loss decided" in " ".join(
        capsys.readouterr().out.split()
    )


@contextlib.contextmanager
def on_a_terminal(call: str, seen: list[str]) -> Iterator[None]:
    """Runs a command on a terminal of its own to its end, and keeps in `seen` what is drawn there,
    as one text."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    quick = (
        "from breedlab.cli import jobs; from breedlab.backends.sagemaker.jobs import follow;"
        " follow.POLL_SECONDS = 0.2"
    )
    # Its size is what the terminal says, not what pytest's processes are told of the one that they
    # have not.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")
    }
    environment["TERM"] = "xterm"

    def read() -> None:
        whole = b""  # a read ends anywhere, in the middle of a row or a character, too
        with contextlib.suppress(OSError):  # what the other end is closed by
            while drawn := os.read(ours, 1 << 20):
                whole += drawn
                seen[:] = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", whole.decode(errors="replace"))]

    with preloaded.FreshPopen(
        [sys.executable, "-c", f"{quick}; {call}"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    ) as process:
        os.close(theirs)
        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield
            assert process.wait(60) == 0, "".join(seen)
        finally:
            process.kill()
    reader.join()
    os.close(ours)


INSIDE = [
    "a line of the start scripts",
    "  trial 0 running  optim.lr=0.01  data.batch_size=32",
    "  trial 0 epoch 1/5  optim.lr=0.01  data.batch_size=32  valid/top1 0.2500",
    "  trial 0 complete  optim.lr=0.01  data.batch_size=32  valid/top1 0.5000  61.2 s",
    "  trial 1 failed  optim.lr=9  data.batch_size=64  1.0 s  (training diverged)",
    "  trial 2 running  optim.lr=0.02  data.batch_size=64",
    "  epoch 1/2  train/loss 0.5",
]


def test_a_search_inside_a_job_is_followed_as_a_live_table(
    cloud: Cloud, account: Account, here: Path, finished: Path
) -> None:
    main(cloud("backend.trials=one_job", *SEARCH, "tuner.trials=3", "backend.wait=false"))
    leave(finished, "s3://breedlab-tests/breedlab/jobs/dogs/checkpoints/dogs")
    seen: list[str] = []

    def shows(*cells: str) -> bool:
        """Whether a row of the table held these, at some time."""
        rows = [[cell.strip() for cell in line.split("│")] for line in "".join(seen).splitlines()]
        return any(set(cells) <= set(row) for row in rows if len(row) > 4)

    def is_seen(line: str) -> bool:
        row = read_trial(line)
        return shows(str(row.number), row.state) if row else line.strip() in "".join(seen)

    with on_a_terminal("jobs.main(['fetch', 'dogs'])", seen):
        for line in INSIDE:
            say("dogs", line)
            until(lambda line=line: is_seen(line))
        until(lambda: re.search(r"dogs: Starting, \d+ min, 2 of 3 trials ended", "".join(seen)))
        account.end_training("dogs")

    assert shows("0", "0.01", "32", "running")
    assert shows("0", "0.01", "32", "0.2500", "epoch 1/5")
    assert shows("★", "0", "0.01", "32", "0.5000", "complete", "61.2")
    assert shows("1", "9", "failed", "training diverged") and shows("2", "0.02", "64", "running")
    # What is no trial's stays in the log above the table, and what is one's is in the table alone.
    whole = "".join(seen)
    assert "a line of the start scripts" in whole and "epoch 1/2  train/loss 0.5" in whole
    assert "trial 0 complete" not in whole


def test_a_search_inside_a_job_is_followed_in_a_pipe_and_shown(
    cloud: Cloud, account: Account, here: Path, finished: Path, capsys: Any
) -> None:
    main(cloud("backend.trials=one_job", *SEARCH, "tuner.trials=3", "backend.wait=false"))
    leave(finished, "s3://breedlab-tests/breedlab/jobs/dogs/checkpoints/dogs")
    say("dogs", *INSIDE)
    capsys.readouterr()
    jobs.main(["show", "dogs"])
    shown = capsys.readouterr().out
    assert (
        re.search(r"★ +│ 0 +│ 0.01 +│ 32 +│ 0.5000 +│ complete", shown)
        and "training diverged" in shown
    )
    account.end_training("dogs")
    jobs.main(["fetch", "dogs"])
    out = capsys.readouterr().out
    assert all(out.count(line.strip()) == 1 for line in INSIDE)


def test_a_launch_that_does_not_wait_says_how_to_come_back(
    cloud: Cloud, account: Account, here: Path, capsys: Any
) -> None:
    assert main(cloud("backend.job_name=dogs", "backend.wait=false")) == 0
    assert "breedlab jobs fetch dogs --region us-east-1" in capsys.readouterr().out
    assert account.training["dogs"]["TrainingJobStatus"] == "InProgress"


def test_ctrl_c_detaches_and_stops_nothing(
    cloud: Cloud, account: Account, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    # Not time.sleep: that is everybody's, and subprocess sleeps while it waits for git.
    monkeypatch.setattr(follow, "list_trials", interrupted)
    with raises_code("BL403", names="jobs fetch dogs"):
        main(cloud(*SEARCH))
    assert not [name for name, _ in account.requests if name.startswith("Stop")]
    assert account.tuning["dogs"]["HyperParameterTuningJobStatus"] == "InProgress"


def test_what_ends_the_following_keeps_its_code_and_gets_the_ways_on(
    cloud: Cloud, account: Account, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise NotFound("the search is gone")

    monkeypatch.setattr(follow, "list_trials", gone)
    with raises_code("BL407", names=("gone", "jobs fetch dogs", "jobs stop dogs")) as caught:
        main(cloud(*SEARCH))
    assert caught.type is NotFound


@pytest.mark.slow
def test_fetch_goes_on_where_the_launch_left_off(
    cloud: Cloud, account: Account, aws: Callable[..., None], here: Path, capsys: Any
) -> None:
    main(cloud(*SEARCH, "backend.wait=false"))
    reserved = next(here.glob("runs/quickstart/*"))
    aws()
    assert jobs.main(["resume", "dogs"]) == 0
    assert (here / "runs" / "latest").resolve() == reserved.resolve()
    assert len(account.sent("CreateTrainingJob")) == 1
    capsys.readouterr()
    # Again: everything is here, nothing is started twice, nothing fetched twice.
    before = {path: path.stat().st_mtime_ns for path in reserved.rglob("*.ckpt")}
    assert jobs.main(["fetch", "dogs"]) == 0
    assert {path: path.stat().st_mtime_ns for path in reserved.rglob("*.ckpt")} == before
    assert len(account.sent("CreateTrainingJob")) == 1


@pytest.mark.slow
def test_another_machine_can_fetch_by_name(
    cloud: Cloud,
    account: Account,
    aws: Callable[..., None],
    here: Path,
    tmp_path_factory: Any,
    monkeypatch: Any,
) -> None:
    main(cloud(*SEARCH, "backend.wait=false"))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    aws()
    assert jobs.main(["resume", "dogs", "--region", "us-east-1"]) == 0
    assert (elsewhere / "runs" / "latest" / "model.tar.gz").is_file()
    assert (
        yaml.safe_load((elsewhere / "runs" / "latest" / "config.yaml").read_text())["tuner"][
            "trials"
        ]
        == 2
    )


@pytest.mark.parametrize("between", ["", "/dogs"], ids=["", "a level more between"])
def test_a_training_job_comes_back_too(
    between: str, cloud: Cloud, account: Account, here: Path, finished: Path, capsys: Any
) -> None:
    main(cloud("backend.job_name=dogs", "backend.wait=false", "optim.lr=0.0042"))
    leave(finished, f"s3://breedlab-tests/breedlab/jobs/dogs/checkpoints{between}/dogs")
    leave(finished, "s3://breedlab-tests/breedlab/jobs/dogs/checkpoints/another")
    account.end_training("dogs")
    jobs.main(["fetch", "dogs"])
    fetched = here / "runs" / "latest"
    for path in finished.rglob("*"):
        name = path.relative_to(finished).as_posix()
        assert (fetched / name).exists(), name
    assert not (fetched / "another").exists() and not (fetched / "dogs").exists()
    # The record of what was asked for is the launch's; the job's own says where its files lay
    # there.
    assert yaml.safe_load((fetched / "config.yaml").read_text())["optim"]["lr"] == 0.0042
    assert "Best of the search" not in capsys.readouterr().out


@pytest.mark.parametrize(("started", "moves"), [("2020-01-01", True), ("2099-01-01", False)])
def test_the_link_to_the_latest_run_moves_to_a_job_only_from_an_older_run(
    started: str, moves: bool, cloud: Cloud, account: Account, here: Path, finished: Path
) -> None:
    main(cloud("backend.job_name=dogs", "backend.wait=false"))
    leave(finished, "s3://breedlab-tests/breedlab/jobs/dogs/checkpoints/dogs")
    account.end_training("dogs")
    other = here / "runs" / "mine" / "other"
    other.mkdir(parents=True)
    (other / "config.yaml").write_text("name: mine\n")
    (other / "lineage.json").write_text(json.dumps({"started": f"{started}T00:00:00+00:00"}))
    (here / "runs" / "latest").symlink_to("mine/other")
    jobs.main(["fetch", "dogs"])
    latest = (here / "runs" / "latest").resolve()
    assert (latest != other.resolve()) == moves


@pytest.mark.parametrize("left", [None, "{}", ""])
def test_a_completed_job_that_left_no_figures_is_no_traceback(
    left: str | None, cloud: Cloud, account: Account, here: Path, finished: Path
) -> None:
    main(cloud("backend.job_name=dogs", "backend.wait=false"))
    leave(finished, "s3://breedlab-tests/breedlab/jobs/dogs/checkpoints/dogs")
    place = {"Bucket": "breedlab-tests", "Key": "breedlab/jobs/dogs/checkpoints/dogs/metrics.json"}
    boto3.client("s3").delete_object(**place)
    if left is not None:
        boto3.client("s3").put_object(**place, Body=left.encode())
    account.end_training("dogs")
    with raises_code("BL400", names=("dogs", "jobs show dogs --log")):
        jobs.main(["fetch", "dogs"])


def test_a_failed_job_tells_its_reason(cloud: Cloud, account: Account, here: Path) -> None:
    main(cloud("backend.job_name=dogs", "backend.wait=false"))
    account.end_training("dogs", "Failed", FailureReason="AlgorithmError: data.root: no photos")
    reason = "AlgorithmError: data.root: no photos"
    with raises_code("BL404", names=("dogs", reason, "breedlab jobs show dogs ")):
        jobs.main(["fetch", "dogs"])


def test_a_search_without_a_complete_trial_starts_no_final_job(
    cloud: Cloud, account: Account, here: Path
) -> None:
    main(cloud(*SEARCH, "backend.wait=false"))
    account.add_trial("dogs", {"optim__lr": "1.0"}, None, "Failed", FailureReason="it diverged")
    account.end_tuning("dogs")
    with raises_code("BL404", names=("dogs", "it diverged")):
        jobs.main(["resume", "dogs"])
    assert account.sent("CreateTrainingJob") == []


def test_stop_stops_what_runs(cloud: Cloud, account: Account, here: Path, capsys: Any) -> None:
    main(cloud(*SEARCH, "backend.wait=false"))
    capsys.readouterr()
    jobs.main(["stop", "dogs"])
    assert capsys.readouterr().out.startswith(
        "dogs: stopping; what it has written stays in s3://breedlab-tests/"
    )
    assert account.tuning["dogs"]["HyperParameterTuningJobStatus"] == "Stopping"
    jobs.main(["stop", "dogs"])
    assert capsys.readouterr().out.startswith("nothing to stop: dogs: Stopping")
    assert len(account.sent("StopHyperParameterTuningJob")) == 1


def test_list_and_show(cloud: Cloud, account: Account, here: Path, capsys: Any) -> None:
    jobs.main(["list"])
    assert "no job was launched from here" in capsys.readouterr().out
    main(cloud(*SEARCH, "backend.wait=false"))
    for number in range(12):  # more than one page of the API
        account.add_trial("dogs", {"optim__lr": "0.05", "data__batch_size": "64"}, number / 20)
    account.add_trial(
        "dogs",
        {"optim__lr": "0.5", "data__batch_size": "64"},
        None,
        "Failed",
        FailureReason="diverged",
    )
    account.add_trial("dogs", {"optim__lr": "0.1", "data__batch_size": "64"}, 0.1, "Stopped")
    capsys.readouterr()
    jobs.main(["list"])
    assert (
        "dogs" in (listed := capsys.readouterr().out)
        and "12 trials complete, 0 running, 1 stopped early" in listed
    )
    jobs.main(["show", str(next(here.glob("runs/quickstart/*")))])
    shown = capsys.readouterr().out
    assert "not started; `breedlab jobs resume` starts it when the search is over" in shown
    assert "tensorboard --logdir s3://breedlab-tests/breedlab/jobs/dogs" in shown
    rows = [line.split() for line in shown.splitlines()]
    assert any(row[:2] == ["★", "│"] and "11" in row for row in rows) or any(
        "★" in row and "11" in row for row in rows
    )
    assert "diverged" in shown and "pruned" in shown


def test_show_log_of_one_trial(cloud: Cloud, account: Account, here: Path, capsys: Any) -> None:
    main(cloud(*SEARCH, "backend.wait=false"))
    for number in range(2):
        say(account.add_trial("dogs", {"optim__lr": "0.05"}, 0.5), f"this is trial {number}")
    capsys.readouterr()
    jobs.main(["show", "dogs", "--log", "--trial", "1"])
    assert capsys.readouterr().out == "this is trial 1\n"
    with raises_code("BL400", names=("--trial 7", "2 trials")):
        jobs.main(["show", "dogs", "--log", "--trial", "7"])


def test_a_name_that_nobody_knows(account: Account, here: Path) -> None:
    with raises_code("BL407", names=("cats", "us-east-1")):
        jobs.main(["show", "cats"])


def test_without_a_region_the_flag_is_named(
    account: Account, here: Path, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    for command, words in (
        (jobs.main, ["show", "cats"]),
        (upload.main, [str(few), "s3://breedlab-tests/dogs"]),
    ):
        with raises_code("BL400", names="--region"):
            command(words)


def test_every_verb_says_what_it_does(capsys: Any) -> None:
    for verb, says in (
        ("list", "their status"),
        ("show", "its trials"),
        ("stop", "are kept"),
        ("fetch", "Ctrl-C"),
    ):
        with pytest.raises(SystemExit):
            jobs.main([verb, "--help"])
        assert says in capsys.readouterr().out


def test_fetch_now_takes_what_there_is(
    cloud: Cloud, account: Account, here: Path, finished: Path
) -> None:
    main(cloud("backend.job_name=dogs", "backend.wait=false"))
    run = next(here.glob("runs/quickstart/*"))
    leave(
        finished / "tensorboard",
        "s3://breedlab-tests/breedlab/jobs/dogs/checkpoints/dogs/tensorboard",
    )
    jobs.main(["fetch", "dogs", "--now"])
    assert list(run.glob("tensorboard/final/events*"))
    assert not (here / "runs" / "latest").exists()


def test_a_run_that_is_still_in_the_cloud_is_not_resumed_here(
    cloud: Cloud, account: Account, here: Path
) -> None:
    main(cloud("backend.job_name=dogs", "backend.wait=false"))
    run = next(here.glob("runs/quickstart/*"))
    with raises_code("BL110", names="breedlab jobs fetch"):
        main([f"resume={run}"])


@pytest.mark.slow
def test_tensorboard_reads_the_curves_from_the_bucket(
    cloud: Cloud, account: Account, here: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    main(cloud("backend.job_name=dogs", "backend.wait=false"))
    address = "s3://breedlab-tests/breedlab/jobs/dogs"
    leave(finished, f"{address}/checkpoints/dogs")
    monkeypatch.setenv("S3_ENDPOINT", account.url)
    seen = EventMultiplexer().AddRunsFromDirectory(address)
    seen.Reload()
    assert any("valid/top1" in kinds["scalars"] for kinds in seen.Runs().values())
