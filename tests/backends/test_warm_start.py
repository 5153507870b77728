"""`tuner.warm_start`: a search learns from finished ones that AWS takes for its parents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from codes import raises_code
from sagemaker_account import Account

from breedlab.cli.launch import main

pytestmark = pytest.mark.usefixtures("slight_source")

Launch = Callable[..., dict[str, Any]]


@pytest.fixture
def launch(cloud: Callable[..., list[str]], account: Account, here: Path) -> Launch:
    """Launches a search, and gives its request."""

    def make(*more: str) -> dict[str, Any]:
        words = cloud("tuner=random", "tuner.trials=3", "backend.wait=false", *more)
        assert main(words) == 0
        return account.sent("CreateHyperParameterTuningJob")[-1]

    return make


@pytest.fixture
def parent(launch: Launch, account: Account) -> str:
    """A search that has ended, of the learning rate and the batch size."""
    launch("backend.job_name=old")
    account.tuning["old"]["HyperParameterTuningJobStatus"] = "Completed"
    return "tuner.warm_start=[old]"


@pytest.mark.parametrize(
    "other",
    ["tuner.space.optim.lr={low: 0.1, high: 0.2}", "tuner=bayesian", "model.head_type=linear"],
)
def test_ranges_and_fixed_values_may_differ(launch: Launch, parent: str, other: str) -> None:
    assert launch(other, "tuner.trials=3", parent)["WarmStartConfig"] == {
        "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": "old"}],
        "WarmStartType": "TransferLearning",
    }


@pytest.mark.parametrize(
    ("others", "named"),
    [
        (["tuner.space.optim.weight_decay=[0.0,0.1]"], "optim__weight_decay"),
        (["tuner.space.data.batch_size=null"], "data__batch_size"),
        (["tuner.space.optim.lr=[0.1,0.2,0.3]"], "ContinuousParameterRanges"),
        (["monitor.metric=valid/loss", "monitor.mode=min"], "valid/top1"),
        # which adds what the toolkit asks for, to start several processes
        (["backend.instance_count=2"], "sagemaker_torch_distributed_enabled"),
        (["backend.orchestrate=pipeline", "tuner.space.data.batch_size=null"], "data__batch_size"),
    ],
)
def test_a_search_of_other_hyperparameters_is_refused_before_anything_is_sent(
    launch: Launch, parent: str, account: Account, others: list[str], named: str
) -> None:
    before = len(account.created())
    with raises_code("BL411", names=("tuner.warm_start", "old", named)):
        launch(parent, *others)
    assert len(account.created()) == before


def test_a_search_that_runs_or_is_not_there_teaches_nothing(
    launch: Launch, parent: str, account: Account
) -> None:
    account.tuning["old"]["HyperParameterTuningJobStatus"] = "InProgress"
    with raises_code("BL411", names=("old is InProgress", "'gone'")):
        launch("tuner.warm_start=[old,gone]")


def test_the_trials_of_its_parents_count(
    launch: Launch, parent: str, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = [{"TrainingJobStatus": "Completed", "TrainingJobName": f"t{n}"} for n in range(3)]
    monkeypatch.setattr(account, "trials", lambda name: ran)
    assert launch(parent, "backend.limits.trials=6")
    with raises_code("BL411", names=("tuner.trials", "at most 5")):
        launch(parent, "backend.limits.trials=5")


def test_what_may_not_be_looked_at_is_said_and_aws_decides(
    launch: Launch, parent: str, account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    account.refuse["DescribeHyperParameterTuningJob"] = ("AccessDeniedException", "no")
    with raises_code("BL400", names="data__batch_size"):
        launch(parent, "tuner.space.data.batch_size=null")
    assert "not checked: tuner.warm_start" in capsys.readouterr().out
