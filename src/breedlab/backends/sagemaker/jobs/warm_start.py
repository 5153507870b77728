"""The tuning jobs that a search learns from (`tuner.warm_start`), as the account has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from breedlab.backends.sagemaker import preflight
from breedlab.backends.sagemaker.jobs.requests import each_trial_is_a_job
from breedlab.backends.sagemaker.request import Request
from breedlab.backends.sagemaker.sending import is_missing
from breedlab.backends.sagemaker.session import client
from breedlab.config import Config, trial_count
from breedlab.config.problems import Problem

if TYPE_CHECKING:
    import boto3

_ENDED = ("Completed", "Failed", "Stopped")
_PARTS = ("HyperParameterTuningJobName", "HyperParameterTuningJobConfig", "TrainingJobDefinition")


def parents(
    account: boto3.Session, config: Config, findings: preflight.Findings
) -> tuple[Request, ...]:
    """Return the requests that the parents were made by, for the search to be compared with.

    Args:
        account: The session.
        config: The experiment.
        findings: Where the reasons are added for which AWS would refuse a parent.
    """
    requests: list[Request] = []
    if config.tuner.warm_start and each_trial_is_a_job(config):
        preflight.look_at(
            findings, "tuner.warm_start's jobs", lambda: _unfit(account, config, requests)
        )
    return tuple(requests)


def _unfit(account: boto3.Session, config: Config, requests: list[Request]) -> Iterator[Problem]:
    from botocore.exceptions import ClientError

    path, launched = "tuner.warm_start", 0
    for name in config.tuner.warm_start:
        try:
            described = client(account, "sagemaker").describe_hyper_parameter_tuning_job(
                HyperParameterTuningJobName=name
            )
        except ClientError as error:
            if not is_missing(error):
                raise
            yield Problem(path, f"no tuning job {name!r} in {account.region_name}")
            continue
        state = described["HyperParameterTuningJobStatus"]
        if state not in _ENDED:
            yield Problem(path, f"{name} is {state}; AWS takes only jobs that have ended")
        launched += sum(described.get("TrainingJobStatusCounters", {}).values())
        parameters = {part: described[part] for part in _PARTS if part in described}
        requests.append(Request("CreateHyperParameterTuningJob", parameters))
    trials, most = trial_count(config), config.backend.limits.trials
    if launched and launched + trials > most:
        yield Problem(
            "tuner.trials",
            f"got {trials}; with the {launched} of its parents, which AWS counts, too, at most"
            f" {most} (backend.limits.trials, if yours was raised)",
        )
