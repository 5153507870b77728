"""The jobs of an account that breedlab launched, from any machine: found by their tags."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from breedlab.backends.base import ListedJob
from breedlab.backends.sagemaker import tags
from breedlab.backends.sagemaker.jobs.pipeline import token
from breedlab.backends.sagemaker.jobs.pipeline_status import described_pipeline, newest_execution
from breedlab.backends.sagemaker.jobs.status import described, tags_of
from breedlab.backends.sagemaker.prices import listed_price
from breedlab.backends.sagemaker.sending import is_denied
from breedlab.backends.sagemaker.session import aws_errors, client
from breedlab.backends.submission import user_name
from breedlab.commands import command
from breedlab.console import warn
from breedlab.errors import BackendError, NotFound, NotOurs

if TYPE_CHECKING:
    import boto3

_RUNNING = ("InProgress", "Stopping")


def find_ours(account: boto3.Session) -> list[ListedJob]:
    """Return our searches, training jobs and pipelines in the session's region, the newest first;
    a search is listed without its trials.

    Raises:
        BackendError: If AWS refuses the search.
    """
    region = str(account.region_name)
    jobs = [
        *(_search_job(entity, region) for entity in _tagged(account, "HyperParameterTuningJob")),
        *(
            _training_job(entity, region)
            for entity in _tagged(account, "TrainingJob")
            if "TuningJobArn" not in entity
        ),
        *(_pipeline(account, entity) for entity in _tagged(account, "Pipeline")),
    ]
    return sorted(jobs, key=lambda job: job.created, reverse=True)


def stop(account: boto3.Session, name: str) -> str:
    """Stop a job of the account, even one whose record is lost, or a trial, and return the outcome
    as text.

    Raises:
        BackendError: If there is no such job, or it is not ours.
    """
    for training in (False, True):
        job = described(account, name, training=training)
        if job is None:
            continue
        arn = job["TrainingJobArn" if training else "HyperParameterTuningJobArn"]
        if not tags_of(account, arn).keys() & {tags.RUN, tags.OLD}:
            raise NotOurs(
                f"{name}: breedlab did not launch this job of the account, so it is left alone"
            )
        state = job["TrainingJobStatus" if training else "HyperParameterTuningJobStatus"]
        if state != "InProgress":
            return f"nothing to stop: {name}: {state}"
        stop_job(account, name, arn, training=training)
        return f"{name}: stopping"
    if (pipeline := described_pipeline(account, name)) is None:
        raise NotFound(
            f"{name}: no job of this name in {account.region_name};"
            f" list breedlab's with `{command('jobs', 'list --all')}`"
        )
    if not tags_of(account, pipeline["PipelineArn"]).keys() & {tags.RUN}:
        raise NotOurs(
            f"{name}: breedlab did not launch this pipeline of the account, so it is left alone"
        )
    arn, state = _newest(account, name)
    if arn is None or state != "Executing":
        return f"nothing to stop: {name}: {state}"
    stop_pipeline(account, name, arn)
    return f"{name}: stopping"


def stop_job(account: boto3.Session, name: str, arn: str, *, training: bool) -> None:
    """Stop a running job, and tag it with who did."""
    sagemaker = client(account, "sagemaker")
    with aws_errors(name):
        if training:
            sagemaker.stop_training_job(TrainingJobName=name)
        else:
            sagemaker.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    _sign(account, name, arn)


def stop_pipeline(account: boto3.Session, name: str, execution: str) -> None:
    """Stop an execution and its current job, and tag its pipeline with who did."""
    with aws_errors(name):
        client(account, "sagemaker").stop_pipeline_execution(
            PipelineExecutionArn=execution,
            ClientRequestToken=token("stop", execution, str(time.time())),
        )
    _sign(account, name, execution.partition("/execution/")[0])


def _sign(account: boto3.Session, name: str, arn: str) -> None:
    sagemaker = client(account, "sagemaker")
    mark = {"Key": tags.STOPPED_BY, "Value": tags.tag_value(user_name())}
    try:
        with aws_errors(name):
            sagemaker.add_tags(ResourceArn=arn, Tags=[mark])
    except BackendError as error:
        warn(f"{name}: could not record who stopped it: {error}")


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


def _pipeline(account: boto3.Session, entity: Mapping[str, Any]) -> ListedJob:
    """Return a pipeline's row; its cost is in the rows of its jobs."""
    name = entity["PipelineName"]
    _, state = _newest(account, name)
    return ListedJob(name, "pipeline", *_launch(entity), entity["CreationTime"], state, 0.0)


def _newest(account: boto3.Session, pipeline: str) -> tuple[str | None, str]:
    """Return the newest execution of a pipeline, and its status."""
    from botocore.exceptions import ClientError

    with aws_errors(pipeline):
        try:
            execution = newest_execution(account, pipeline)
        except ClientError as error:
            if not is_denied(error):
                raise
            return None, "?"  # for a user who may see pipelines but not their executions
    if execution is None:
        return None, "never started"
    return str(execution["PipelineExecutionArn"]), str(execution["PipelineExecutionStatus"])


def _launch(entity: Mapping[str, Any]) -> tuple[str, str]:
    own_tags = {tag["Key"]: tag["Value"] for tag in entity.get("Tags", [])}
    return own_tags.get(tags.EXPERIMENT, ""), own_tags.get(tags.USER, "")


def _price(job: Mapping[str, Any], region: str) -> float | None:
    resources = job.get("ResourceConfig", {})
    price = listed_price(resources.get("InstanceType", ""), region)
    return None if price is None else price * resources.get("InstanceCount", 1)
