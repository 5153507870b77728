"""The requests that leave: every setting of the config is in them, and the API's own model takes them."""

from __future__ import annotations

from typing import Any

from sagemaker_account import Account

from breedlab.launch import main


def test_a_search_leaves_as_a_tuning_job(cloud: Any, account: Account, here: Any) -> None:
    assert main(cloud("tuner=random", "tuner.trials=3", "backend.wait=false")) == 0
    assert account.created() == ["CreateHyperParameterTuningJob"]
