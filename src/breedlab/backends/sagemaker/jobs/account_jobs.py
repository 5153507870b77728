"""The jobs of an account that breedlab launched, from whatever machine: found by their tags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from breedlab.backends.base import ListedJob
from breedlab.backends.sagemaker import tags
from breedlab.backends.sagemaker.jobs.status import described, tags_of
from breedlab.backends.sagemaker.prices import listed_price
from breedlab.backends.sagemaker.session import aws_errors, client
from breedlab.commands import command
from breedlab.console import warn
from breedlab.errors import BackendError

if TYPE_CHECKING:
    import boto3

_RUNNING = ("InProgress", "Stopping")


def find_ours(account: boto3.Session) -> list[ListedJob]:
    """Return our searches and training jobs in the session's region, the newest first; a search
    stands for its trials.

    Raises:
        BackendError: If AWS refuses the search.
    """
    region = str(account.region_name)
    found = [
        *(_search_job(entity, region) for entity in _tagged(account, "HyperParameterTuningJob")),
        *(
            _training_job(entity, region)
            for entity in _tagged(account, "TrainingJob")
            if "TuningJobArn" not in entity
        ),
    ]
    return sorted(found, key=lambda job: job.created, reverse=True)


def stop(account: boto3.Session, name: str) -> str:
    """Stop a job of the account, be it one whose record is lost, or a trial, and say what became
    of it.

    Raises:
        BackendError: If there is no such job, or it is not ours.
    """
    for training in (False, True):
        found = described(account, name, training=training)
        if found is None:
            continue
        arn = found["TrainingJobArn" if training else "HyperParameterTuningJobArn"]
        if not tags_of(account, arn).keys() & {tags.RUN, tags.OLD}:
            raise BackendError(
                f"{name}: is a job of the account, but not one that breedlab launched; it is left"
                " alone"
            )
        state = found["TrainingJobStatus" if training else "HyperParameterTuningJobStatus"]
        if state != "InProgress":
            return f"nothing to stop: {name}: {state}"
        stop_job(account, name, arn, training=training)
        return f"{name}: told to stop"
    raise BackendError(
        f"{name}: there is no such job in {account.region_name}; `{command('jobs', 'list --all')}`"
        " lists ours"
    )


def stop_job(account: boto3.Session, name: str, arn: str, *, training: bool) -> None:
    """Stop a running job, and leave word on it of who did."""
    sagemaker = client(account, "sagemaker")
    with aws_errors(name):
        if training:
            sagemaker.stop_training_job(TrainingJobName=name)
        else:
            sagemaker.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    mark = {"Key": tags.STOPPED_BY, "Value": tags.tag_value(tags.user_name())}
    try:
        with aws_errors(name):
            sagemaker.add_tags(ResourceArn=arn, Tags=[mark])
    except BackendError as error:
        warn(f"{name}: who stopped it could not be left on it: {error}")


def _tagged(account: boto3.Session, resource: str) -> Iterator[Mapping[str, Any]]:
    """Yield what AWS knows of every resource of a kind that has our tag."""
    ours = {"Filters": [{"Name": f"Tags.{tags.RUN}", "Operator": "Exists"}]}
    with aws_errors(f"jobs with the tag {tags.RUN}"):
        pages = (
            client(account, "sagemaker")
            .get_paginator("search")
            .paginate(Resource=resource, SearchExpression=ours)
        )
        for page in pages:
            for result in page["Results"]:
                yield result[resource]


def _search_job(entity: Mapping[str, Any], region: str) -> ListedJob:
    definition = entity.get("TrainingJobDefinition", {})
    state = entity["HyperParameterTuningJobStatus"]
    at_once = entity.get("TrainingJobStatusCounters", {}).get("InProgress", 0)
    price = _price(definition, region) if state in _RUNNING else 0.0
    return ListedJob(
        entity["HyperParameterTuningJobName"],
        "search",
        *_launch(entity),
        entity["CreationTime"],
        state,
        None if price is None else price * at_once,
    )


def _training_job(entity: Mapping[str, Any], region: str) -> ListedJob:
    state = entity["TrainingJobStatus"]
    price = _price(entity, region) if state in _RUNNING else 0.0
    return ListedJob(
        entity["TrainingJobName"],
        "training",
        *_launch(entity),
        entity["CreationTime"],
        state,
        price,
    )


def _launch(entity: Mapping[str, Any]) -> tuple[str, str]:
    found = {tag["Key"]: tag["Value"] for tag in entity.get("Tags", [])}
    return found.get(tags.EXPERIMENT, ""), found.get(tags.USER, "")


def _price(job: Mapping[str, Any], region: str) -> float | None:
    resources = job.get("ResourceConfig", {})
    price = listed_price(resources.get("InstanceType", ""), region)
    return None if price is None else price * resources.get("InstanceCount", 1)
