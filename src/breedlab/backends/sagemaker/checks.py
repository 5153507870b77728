"""What AWS would refuse, found before anything is uploaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from breedlab.backends.sagemaker import images
from breedlab.backends.sagemaker.jobs.hyperparameters import config_path, decode
from breedlab.backends.sagemaker.jobs.requests import (
    Experiment,
    metric_definitions,
    parameter_ranges,
)
from breedlab.backends.sagemaker.judge import refusals
from breedlab.backends.sagemaker.limits import with_stand_ins
from breedlab.backends.sagemaker.request import Request
from breedlab.backends.sagemaker.session import partition_of
from breedlab.config import Config
from breedlab.config.backend import Backend
from breedlab.config.problems import Problem
from breedlab.errors import BreedlabError
from breedlab.training.objective import objective_line

LONGEST = 2500
"""Characters of a hyperparameter's value."""

_SET_BY = {
    "InstanceType": "backend.instance_type",
    "RoleArn": "backend.role",
    "TrainingImage": "backend.image",
    "Tags": "backend.tags",
    "Environment": "backend.environment",
    "VolumeKmsKeyId": "backend.kms.volume",
    "VolumeSizeInGB": "backend.volume_gb",
    "KmsKeyId": "backend.kms.output",
    "VpcConfig": "backend.vpc",
    "S3Uri": "backend.prefix",
    "S3OutputPath": "backend.prefix",
    "ResourceLimits": "tuner.trials",
    "ParameterRanges": "tuner.space",
    "WarmStartConfig": "tuner.warm_start",
    "TrainingJobName": "backend.job_name",
    "HyperParameterTuningJobName": "backend.job_name",
    "PipelineName": "backend.job_name",
    "PipelineDefinition": "backend.orchestrate",
    "ModelPackageGroupName": "backend.register_in",
    "KeepAlivePeriodInSeconds": "backend.keep_alive_minutes",
    "MaxResource": "tuner.max_epochs",
    "MaxRuntimeInSeconds": "backend.max_run_hours",
    "MaxWaitTimeInSeconds": "backend.max_wait_hours",
}
"""Which config path a field of a request comes from."""


def offline_problems(config: Config, region: str) -> list[Problem]:
    """Return the problems that need no AWS call, in addition to the rules of the config."""
    backend = config.backend
    return (
        images.problems(backend, region)
        + partition_problems(backend, region)
        + objective_problems(config)
    )


def partition_problems(backend: Backend, region: str) -> list[Problem]:
    """Return which ARNs belong to another part of AWS, or another region, than the jobs."""
    arns = {
        "backend.role": backend.role,
        "backend.kms.output": backend.kms.output,
        "backend.kms.volume": backend.kms.volume,
    }
    return arn_problems(arns, region)


def arn_problems(arns: Mapping[str, str | None], region: str) -> list[Problem]:
    """Return which ARNs belong to another part of AWS, or another region.

    Args:
        arns: By the setting that holds them; other values, such as a role's name, are left out.
        region: Where they are used; a placeholder is not checked.
    """
    if region.startswith("<"):
        return []
    problems = []
    expected = partition_of(region)
    for path, arn in arns.items():
        if not arn or not arn.startswith("arn:"):
            continue
        partition, kind, where = (arn.split(":") + [""] * 3)[1:4]
        if partition != expected:
            message = f"{arn} is of {partition}; expected {expected}, as {region} is"
            problems.append(Problem(path, message))
        elif where not in ("", region):
            what = {"kms": "a key", "sns": "a topic"}.get(kind, f"of {kind}")
            message = f"{arn} is {what} of {where}; expected one of {region}"
            problems.append(Problem(path, message))
    return problems


def objective_problems(config: Config) -> list[Problem]:
    """Return a problem if SageMaker would not find the objective in what the trainer prints."""
    metric = config.monitor.metric
    regex = next((d["Regex"] for d in metric_definitions(config) if d["Name"] == metric), None)
    match = regex and re.search(regex, objective_line(metric, -1.25e-7))
    if not match or float(match[1]) != -1.25e-7:
        return [
            Problem(
                "monitor.metric",
                f"{metric} is not what the trainer prints, so no search could follow it",
            )
        ]
    return []


def request_problems(
    requests: list[Request], experiment: Experiment, parents: Sequence[Request] = ()
) -> list[Problem]:
    """Return what is wrong with requests: by the API's own model, and in hyperparameters.

    Args:
        requests: In the order in which they are sent.
        experiment: What they are made of.
        parents: The requests of the searches that it learns from, as far as they are known.
    """
    problems: list[Problem] = []
    for number, request in enumerate(requests):
        problems += model_problems(request, before=[*parents, *requests[:number]])
        if experiment.config.data.root.startswith("s3://"):
            problems = list(map(_of_images, problems))
        parameters = request.parameters
        values = parameters.get("HyperParameters") or parameters.get(
            "TrainingJobDefinition", {}
        ).get("StaticHyperParameters", {})
        problems += hyperparameter_problems(values)
    if experiment.searches:
        problems += range_problems(experiment.config)
    # What two requests have in common is wrong once.
    once = {
        (problem.path, re.sub(r" \(Create\w+: .*\)$", "", problem.message)): problem
        for problem in reversed(problems)
    }
    return list(reversed(once.values()))


def _of_images(problem: Problem) -> Problem:
    """Return a problem at `data.root` if it is one of the first channel, which the images use."""
    if "InputDataConfig[0]." in problem.message:
        return Problem("data.root", problem.message)
    return problem


def hyperparameter_problems(values: dict[str, str]) -> list[Problem]:
    """Return the problems of names and values that would break a job at its start: they end up in a
    shell's variables, between quotes."""
    problems = []
    for name, value in values.items():
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            problems.append(
                Problem(
                    name,
                    "is not a valid hyperparameter name; expected letters, digits and '_', no dot",
                )
            )
        if "'" in value:
            problems.append(
                Problem(
                    name,
                    f"{value[:80]!r} has a single quote, which ends the shell's quotes around it",
                )
            )
        if len(value) > LONGEST:
            problems.append(
                Problem(name, f"is {len(value)} characters long; expected at most {LONGEST}")
            )
    return problems


def range_problems(config: Config) -> list[Problem]:
    """Return the problems of names and values that SageMaker may propose and the job would refuse,
    and of ranges that a grid cannot have."""
    problems: list[Problem] = []
    for kind, ranges in parameter_ranges(config).items():
        for described in ranges:
            name = described["Name"]
            where = f"tuner.space.{config_path(name)}"
            values = described.get("Values") or [described["MinValue"], described["MaxValue"]]
            if config.tuner.strategy == "grid" and kind != "CategoricalParameterRanges":
                problems.append(
                    Problem(
                        where, "is a continuous range; a grid takes a list, such as [0.001,0.01]"
                    )
                )
            for value in values:
                of_value = hyperparameter_problems({name: value})
                problems += [Problem(where, problem.message) for problem in of_value]
                try:
                    decode({name: value})
                except BreedlabError as error:
                    problems.append(Problem(where, str(error).splitlines()[-1].strip()))
    return problems


def source_problems(folder: Path) -> list[Problem]:
    """Return the problems of files that must not be in the source archive."""
    return [
        Problem(
            str(path.relative_to(folder)),
            "in the source makes SageMaker's toolkit install it instead of running it",
        )
        for path in (folder / "setup.py",)
        if path.exists()
    ]


def model_problems(
    request: Request, set_by: Mapping[str, str] = _SET_BY, before: Sequence[Request] = ()
) -> list[Problem]:
    """Return what AWS would refuse of a request, by the API's own model and by the limits of the
    documentation.

    Args:
        request: The request to send.
        set_by: What a user sets a field by.
        before: The requests that are sent before it.
    """
    parameters = with_stand_ins(request.parameters)
    earlier = [(r.operation, with_stand_ins(r.parameters)) for r in before]
    problems = refusals(request.service, request.operation, parameters, earlier)
    return [
        Problem(_set_by(path, set_by), f"{message} ({request.operation}: {path})")
        for path, message in problems
    ]


def _set_by(path: str, set_by: Mapping[str, str]) -> str:
    names = re.findall(r"[A-Za-z0-9]+", path)
    return next((set_by[name] for name in reversed(names) if name in set_by), path)
