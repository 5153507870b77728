"""`backend=sagemaker dry_run=true`: the requests to the letter, on a machine that has never heard
of AWS."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from codes import raises_code
from sagemaker_account import ROLE, Account

from breedlab.backends.sagemaker.prices import listed_price
from breedlab.backends.sagemaker.request import Request
from breedlab.cli.launch import main

Planned = Callable[..., str]


@pytest.fixture
def planned(
    no_account: None,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Planned:
    """The plan of a flagship search, in an empty folder, without credentials, and without a way to
    any network."""
    import socket

    def no_network(*_: object) -> None:
        raise AssertionError("a dry run went to the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)

    def make(*words: str) -> str:
        capsys.readouterr()
        given = [
            "experiment=resnet34_hpo",
            "backend=sagemaker",
            "dry_run=true",
            "backend.trials=job_each",
        ]
        assert main([*given, *words]) == 0
        assert list(here.iterdir()) == []
        return capsys.readouterr().out

    return make


def requests_in(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The requests that a plan prints."""
    found = []
    for match in re.finditer(r"^request \d: (\w+)\n", text, re.MULTILINE):
        parameters, _ = json.JSONDecoder().raw_decode(text[match.end() :])
        found.append((match[1], parameters))
    return found


def test_without_an_account_placeholders_stand_in_and_what_a_launch_needs_is_listed(
    planned: Planned,
) -> None:
    text = planned()
    (first, tuning), (second, final) = requests_in(text)
    assert (first, second) == ("CreateHyperParameterTuningJob", "CreateTrainingJob")
    assert tuning["TrainingJobDefinition"]["RoleArn"] == final["RoleArn"] == "<role>"
    assert tuning["TrainingJobDefinition"]["OutputDataConfig"]["S3OutputPath"].startswith(
        "s3://<bucket>/breedlab/jobs/"
    )
    assert final["HyperParameters"] == {
        "optim__lr": "<best optim.lr>",
        "data__batch_size": "<best data.batch_size>",
    }
    needs = text[text.index("a launch will need") :]
    for need in ("credentials", "backend.region=", "backend.role=", "backend.bucket="):
        assert need in needs


def test_what_is_known_is_not_asked_for(planned: Planned) -> None:
    text = planned(f"backend.role={ROLE}", "backend.bucket=mine", "backend.region=eu-central-1")
    needs = text[text.index("a launch will need") :]
    assert "backend." not in needs and "credentials" in needs
    assert "<" not in json.dumps([p for _, p in requests_in(text)]).replace("<best ", "").replace(
        "<fingerprint>", ""
    )


def test_the_dry_run_prints_what_the_launch_sends(
    cloud: Any, account: Account, here: Path, capsys: Any
) -> None:
    words = cloud(
        "tuner=random",
        "tuner.trials=3",
        "backend.job_name=same",
        "backend.wait=false",
        "backend.spot=true",
    )
    main([*words, "dry_run=true"])
    assert account.requests == []
    (operation, printed), _ = requests_in(capsys.readouterr().out)
    main(words)
    sent = account.sent(operation)[0]
    for request in (printed, sent):
        channel = request["TrainingJobDefinition"]["InputDataConfig"][0]
        # The one thing that a dry run does not know: it has not read the images.
        del channel["DataSource"]["S3DataSource"]["S3Uri"]
    assert printed == sent


def test_the_table_of_hyperparameters(planned: Planned) -> None:
    rows = [re.split(r"\s{2,}", line.strip()) for line in planned().splitlines()]
    assert ["optim__lr", "optim.lr", "continuous", "numbers from 0.0001 to 0.01, log scale"] in rows
    assert ["data__batch_size", "data.batch_size", "categorical", "one of 32, 64, 128, 256"] in rows


def test_the_objectives_regex_finds_its_value_in_the_sample_line(planned: Planned) -> None:
    text = planned("monitor.metric=valid/loss", "monitor.mode=min")
    regex = re.search(r"^  regex   (.+)$", text, re.MULTILINE)
    line = re.search(r"^  finds   (\S+) in '(.+)'$", text, re.MULTILINE)
    assert regex and line
    found = re.search(regex[1], line[2])
    assert found and found[1] == line[1]
    # The line is as training prints it, whose other figures SageMaker reads as well.
    assert re.fullmatch(
        r"epoch 3/20  train/loss \S+  valid/loss \S+  valid/top1 \S+  objective valid/loss=\S+;",
        line[2],
    )
    definitions = requests_in(text)[0][1]["TrainingJobDefinition"]["AlgorithmSpecification"][
        "MetricDefinitions"
    ]
    assert definitions[0] == {"Name": "valid/loss", "Regex": regex[1]}
    found = [each["Name"] for each in definitions if re.search(each["Regex"], line[2])]
    assert found == ["valid/loss", "train/loss", "valid/top1"]
    ends = [re.findall(each["Regex"], "valid/loss 0.61 (95% 0.5 to 0.72)") for each in definitions]
    assert ends == [[], [], [], ["0.5"], ["0.72"]]


def test_the_source_archive_is_listed(planned: Planned) -> None:
    listed = re.findall(r"^  (\S+?)/?  ", planned().partition("source archive:")[2], re.MULTILINE)
    assert {"config.yaml", "requirements.txt", "src", "conf", "entry"} <= set(listed)
    assert "setup.py" not in listed and "tests" not in listed


def test_the_largest_bill_of_both_ways(planned: Planned) -> None:
    text = planned("backend.region=us-east-1", "backend.max_run_hours=2.0")
    each = re.search(r"backend.trials=job_each +\$([\d.]+) \(21 jobs, 42.0 instance hours\)", text)
    one = re.search(r"backend.trials=one_job +\$([\d.]+) \(1 job, 2.0 instance hours\)", text)
    assert each and one
    assert float(each[1]) == pytest.approx(42 * 1.408, abs=0.01)
    assert float(one[1]) == pytest.approx(2 * 1.408, abs=0.01)
    assert "$1.408 an hour for ml.g5.xlarge in us-east-1 on 2026-" in text


def test_a_frozen_backbone_is_searched_in_one_job_unless_told(planned: Planned) -> None:
    """The images pass it once then, and not once a trial: 6 USD at most instead of 118."""
    text = planned("backend.trials=auto")
    assert [operation for operation, _ in requests_in(text)] == ["CreateTrainingJob"]
    assert re.search(r"\* backend.trials=one_job +\$5.63 \(1 job, 4.0 instance hours\)", text)
    assert re.search(r"  backend.trials=job_each +\$118.27 ", text)
    assert "a launch would refuse this" not in text
    for other in ("model.freeze=none", "tuner.warm_start=[an-old-search]"):
        assert (
            requests_in(planned("backend.trials=auto", other))[0][0]
            == "CreateHyperParameterTuningJob"
        )


def test_a_bill_that_a_launch_refuses_is_said_to_be_one(planned: Planned) -> None:
    assert "a launch would refuse this: backend.max_bill: the largest bill is $118.27" in planned()
    assert "a launch would refuse this" not in planned("backend.max_bill=200.0")


def test_without_a_region_the_bill_is_that_of_one_that_is_named(planned: Planned) -> None:
    text = planned()
    assert re.search(r"backend.trials=job_each +\$118.27 \(21 jobs, 84.0 instance hours\)", text)
    assert "in us-east-1 on 2026-11-29, as no region is set; other regions may cost more" in text


@pytest.mark.parametrize(
    ("instance_type", "price"),
    [("ml.g6e.xlarge", 2.61), ("ml.g6.xlarge", 1.127), ("ml.g5.48xlarge", 20.36)],
)
def test_a_price_is_that_of_training_not_that_of_the_bare_machine(
    instance_type: str, price: float
) -> None:
    """EC2 lists a g6e.xlarge at 1.861, SageMaker's training at 2.61 (AWS's price list, as three
    public repositories quote it)."""
    assert listed_price(instance_type, "us-east-1") == price


@pytest.mark.parametrize("orchestrate", ["laptop", "pipeline"])
def test_quotas_that_an_account_has_to_raise_are_told_once(
    planned: Planned, orchestrate: str
) -> None:
    needs = planned(
        f"backend.orchestrate={orchestrate}",
        "backend.max_run_hours=200",
        "backend.price_per_hour=0.1",
        "backend.max_bill=null",
    ).partition("a launch will need")[2]
    assert needs.count("'Longest run time for a training job'") == 1
    assert "backend.max_run_hours: 200 hours" in needs


def test_instances_and_warm_minutes_are_billed(planned: Planned) -> None:
    text = planned(
        "tuner=none",
        "backend.price_per_hour=2.0",
        "backend.instance_count=3",
        "backend.keep_alive_minutes=30",
    )
    assert "$27.00 (1 job, 13.5 instance hours)" in text


@pytest.mark.parametrize(
    "words", [["backend.region=eu-south-1"], ["backend.instance_type=ml.p5.48xlarge"]]
)
def test_an_unknown_price_is_said_to_be_unknown(words: list[str], planned: Planned) -> None:
    text = planned("backend.region=us-east-1", *words)
    assert "unknown (21 jobs, 84.0 instance hours)" in text
    assert "is unknown; look it up and set backend.price_per_hour" in text
    assert not re.search(r"\$\d", text)


def test_one_job_is_one_training_job(planned: Planned) -> None:
    text = planned("backend.trials=one_job")
    ((operation, _),) = requests_in(text)
    assert operation == "CreateTrainingJob"
    assert "all 20 trials of 20 epochs over one activation cache" in text
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    assert ["optim.lr", "continuous", "numbers from 0.0001 to 0.01, log scale"] in rows
    assert "optim__lr" not in text


def test_images_in_s3_are_neither_listed_nor_uploaded(planned: Planned) -> None:
    text = planned("data=image_folder", "data.root=s3://theirs/dogs")
    assert "s3://theirs/dogs: in S3, used where it lies" in text
    channel = requests_in(text)[0][1]["TrainingJobDefinition"]["InputDataConfig"][0]
    assert channel["DataSource"]["S3DataSource"]["S3Uri"] == "s3://theirs/dogs/"


def test_a_dry_run_imports_nothing_heavy(no_account: None, tmp_path: Path) -> None:
    probe = """
import sys
from breedlab.cli import run
try:
    run("launch")
except SystemExit:
    heavy = {"torch", "lightning", "optuna", "smdebug", "sagemaker.train", "sagemaker.serve"}
    print("heavy:", sorted(heavy & sys.modules.keys()))
"""
    words = ["experiment=resnet34_hpo", "backend=sagemaker", "dry_run=true"]
    done = subprocess.run(
        [sys.executable, "-c", probe, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert done.stdout.splitlines()[-1] == "heavy: []", done.stderr


def test_requests_name_their_job() -> None:
    assert Request("CreateTrainingJob", {"TrainingJobName": "a"}).name == "a"


def test_a_pipeline_registers_nothing_where_aws_has_no_image_that_serves(planned: Planned) -> None:
    words = ["backend.orchestrate=pipeline", "backend.region=eusc-de-east-1"]
    assert "StartPipelineExecution" in planned(*words)
    with raises_code("BL400", names=("backend.register_in", "eusc-de-east-1")):
        planned(*words, "backend.register_in=dogs")
