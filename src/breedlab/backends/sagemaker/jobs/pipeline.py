"""`backend.orchestrate=pipeline`: search, training of the best, and registering, as one SageMaker
Pipeline, which continues by itself.

Its steps are the same requests that a launch without it sends, except for the jobs' names, which
AWS gives: `pipelines-<execution>-<step>-<token>`. What a step needs of one before it is a
reference, resolved by AWS when it gets there. Of trials that tie, AWS takes the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from breedlab.backends.sagemaker.jobs.hyperparameters import sagemaker_name
from breedlab.backends.sagemaker.jobs.requests import (
    Experiment,
    each_trial_is_a_job,
    run_tags,
    training_request,
    tuning_request,
)
from breedlab.backends.sagemaker.pipeline_definition import KINDS, VERSION
from breedlab.backends.sagemaker.request import Request
from breedlab.config import Config, search_space
from breedlab.errors import BackendError

SEARCH, TRAIN, REGISTER = "search", "train", "register"
"""The names of the steps."""

Change = Callable[[Request], Request]


def is_pipeline(config: Config) -> bool:
    """Return whether a pipeline in the account, not the laptop, starts what follows the search."""
    return config.backend.orchestrate == "pipeline"


def requests(
    experiment: Experiment,
    git: Mapping[str, Any] | None,
    change: Change = lambda request: request,
    started: str = "",
) -> list[Request]:
    """Return what makes and starts an experiment's pipeline, in the order in which it is sent.

    Args:
        experiment: What its jobs are made of.
        git: The commit that it is launched from.
        change: What is done to a job's request before it becomes a step.
        started: When it was launched, which distinguishes this launch from others of its name.
    """
    config, name = experiment.config, experiment.name
    steps = [_step(name, change(request)) for name, request in _jobs(experiment).items()]
    first: list[Request] = []
    if group := config.backend.register_in:
        registration, version = registering(experiment, group, git)
        first.append(registration)
        steps.append(_step(REGISTER, version))
    definition = {"Version": VERSION, "Metadata": {}, "Parameters": [], "Steps": steps}
    parameters = {
        "PipelineName": name,
        "PipelineDefinition": json.dumps(definition),
        "PipelineDescription": f"breedlab: {config.name}",
        "ClientRequestToken": token("create", name, started),
        "RoleArn": experiment.place.role,
        "Tags": run_tags(experiment),
    }
    start = {"PipelineName": name, "ClientRequestToken": token("start", name, started)}
    return [
        *first,
        Request("CreatePipeline", parameters),
        Request("StartPipelineExecution", start),
    ]


def token(*parts: str) -> str:
    """Return what makes AWS take a call that it gets twice, as after a lost answer, for one."""
    return hashlib.sha256(" ".join(("breedlab", *parts)).encode()).hexdigest()


def registering(
    experiment: Experiment, group: str, git: Mapping[str, Any] | None
) -> tuple[Request, Request]:
    """Return what `deploy --register` sends, for a model that is not trained yet: its group, and
    the version, which refers to the training.

    Raises:
        BackendError: If AWS has no image in the region that serves it.
    """
    from breedlab.backends.sagemaker.endpoints import registry
    from breedlab.backends.sagemaker.endpoints.deployment import MACHINE
    from breedlab.backends.sagemaker.endpoints.endpoint import Deployment
    from breedlab.backends.sagemaker.endpoints.inference_image import inference_image

    place = experiment.place
    try:
        image = inference_image(MACHINE, place.region)
    except BackendError as error:
        raise BackendError(
            f"backend.register_in: got {group!r}; expected null in {place.region}, where AWS has no"
            " image that serves the model; register it later, with your own image: `deploy RUN"
            " --register GROUP endpoint.image=URI`"
        ) from error
    own = dict.fromkeys(["breedlab:experiment"], experiment.config.name)
    deployment = Deployment(
        name=group,
        version="",
        place=place,
        image=image,
        own_image=False,
        model=experiment.uri("model.tar.gz"),
        instance_type=MACHINE,
        tags=tuple(experiment.config.backend.tags.items()),
        own_tags=tuple(own.items()),
    )
    lineage = {"experiment": experiment.config.name, "run": experiment.name, "git": git}
    group_request, version = registry.requests(deployment, group, "pending", lineage, {})
    parameters = dict(version.parameters)
    inference = dict(parameters["InferenceSpecification"])
    (container,) = inference["Containers"]
    model = _property(TRAIN, "ModelArtifacts.S3ModelArtifacts")
    inference["Containers"] = [{**container, "ModelDataUrl": model}]
    folder = experiment.uri("final" if experiment.searches else "checkpoints")
    metrics = _joined("/", folder, _property(TRAIN, "TrainingJobName"), "metrics.json")
    statistics = {"ContentType": "application/json", "S3Uri": metrics}
    parameters["InferenceSpecification"] = inference
    parameters["ModelMetrics"] = {"ModelQuality": {"Statistics": statistics}}
    return group_request, Request(version.operation, parameters)


def _jobs(experiment: Experiment) -> dict[str, Request]:
    if not each_trial_is_a_job(experiment.config):
        return {TRAIN: training_request(experiment, {})}
    best = {}
    for path in search_space(experiment.config):
        name = sagemaker_name(path)
        # Joined, as the SDK does it: a hyperparameter has to be a text.
        value = _property(SEARCH, f"BestTrainingJob.TunedHyperParameters['{name}']")
        best[name] = _joined("", value)
    return {SEARCH: tuning_request(experiment), TRAIN: training_request(experiment, best)}


def _step(name: str, request: Request) -> dict[str, Any]:
    kind, described = next(
        (kind, each) for kind, each in KINDS.items() if each.operation == request.operation
    )
    arguments = {key: item for key, item in request.parameters.items() if key != described.named}
    return {"Name": name, "Type": kind, "Arguments": arguments}


def _property(step: str, path: str) -> dict[str, str]:
    return {"Get": f"Steps.{step}.{path}"}


def _joined(on: str, *values: Any) -> dict[str, Any]:
    return {"Std:Join": {"On": on, "Values": list(values)}}
