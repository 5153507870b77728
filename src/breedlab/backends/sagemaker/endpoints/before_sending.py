"""What is checked, refused and shown before anything of a deployment is sent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from breedlab.backends.sagemaker import checks
from breedlab.backends.sagemaker.endpoints import archive_check, hidden_home
from breedlab.backends.sagemaker.endpoints.endpoint import Deployment
from breedlab.backends.sagemaker.jobs.job_secrets import is_secret
from breedlab.backends.sagemaker.request import Request
from breedlab.config.problems import Problem
from breedlab.console import note, stage, warn
from breedlab.errors import BackendError

SET_BY = {
    "InstanceType": "endpoint.instance_type",
    "InitialInstanceCount": "endpoint.min_instances",
    "MinCapacity": "endpoint.min_instances",
    "MaxCapacity": "endpoint.max_instances",
    "ExecutionRoleArn": "endpoint.role",
    "Image": "endpoint.image",
    "Tags": "endpoint.tags",
    "Environment": "endpoint.environment",
    "KmsKeyId": "endpoint.kms_key",
    "VpcConfig": "endpoint.subnets and endpoint.security_groups",
    "ModelDataUrl": "endpoint.bucket",
    "S3OutputPath": "endpoint.async_output",
    "DestinationS3Uri": "endpoint.capture_to",
    "InitialSamplingPercentage": "endpoint.capture",
    "MemorySizeInMB": "endpoint.memory_mb",
    "MaxConcurrency": "endpoint.max_concurrency",
    "ProvisionedConcurrency": "endpoint.provisioned_concurrency",
    "MaxConcurrentInvocationsPerInstance": "endpoint.async_concurrency",
    "SuccessTopic": "endpoint.success_topic",
    "ErrorTopic": "endpoint.error_topic",
    "VolumeSizeInGB": "endpoint.volume_gb",
    "ContainerStartupHealthCheckTimeoutInSeconds": "endpoint.startup_timeout",
    "WaitIntervalInSeconds": "endpoint.step_wait",
    "TerminationWaitInSeconds": "endpoint.keep_old",
    "AlarmName": "endpoint.alarms",
    "Alarms": "endpoint.alarms",
    "TargetValue": "endpoint.scale_target",
    "ScaleInCooldown": "endpoint.scale_in_cooldown",
    "ScaleOutCooldown": "endpoint.scale_out_cooldown",
    "EndpointName": "endpoint.name",
}
"""Which setting a field of a request comes from."""


def request_problems(
    requests: Sequence[Request], set_by: Mapping[str, str] = SET_BY
) -> list[Problem]:
    """Return what AWS would refuse of requests that are sent in this order."""
    return [
        problem
        for number, request in enumerate(requests)
        for problem in checks.model_problems(request, set_by, requests[:number])
    ]


def arn_problems(deployment: Deployment) -> list[Problem]:
    """Return which of a deployment's ARNs belong to another part of AWS, or another region."""
    success, error = deployment.topics
    arns = {
        "endpoint.role": deployment.place.role,
        "endpoint.kms_key": deployment.kms_key,
        "endpoint.success_topic": success,
        "endpoint.error_topic": error,
    }
    return checks.arn_problems(arns, deployment.place.region)


def refuse(problems: list[Problem], command: str = "deploy") -> None:
    """Raise if there is a problem.

    Raises:
        BackendError: Naming all of them.
    """
    if problems:
        lines = dict.fromkeys(
            f"  {of_endpoint(p.path)}: {of_endpoint(p.message)}" for p in problems
        )
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        raise BackendError("\n".join([f"{command}: {count}; nothing was sent", *lines]))


def of_endpoint(text: str) -> str:
    """Return what is said of the config's `backend`, said of `endpoint`, which has settings of the
    same names."""
    return text.replace("backend.", "endpoint.")


@contextmanager
def settings_of_endpoint() -> Iterator[None]:
    """Have errors name the settings of `endpoint` instead of those of `backend`."""
    try:
        yield
    except BackendError as error:
        raise error.reworded(of_endpoint(str(error))) from error


def answer_here(folder: Path, image: bytes, inference_env: str | None) -> None:
    """Have an archive answer an image on this machine before anything is sent, and say what it
    answered."""
    stage("Archive")
    if text := hidden_home.exposed():
        warn(text)
    answer = archive_check.probe(folder, image, inference_env)
    note(f"classifies the test image as {answer.label} ({answer.score:.1%}): {answer.where}")


def print_request(number: int, request: Request, aside: str = "") -> None:
    """Print one request of a dry run; what looks like a secret among its variables is not shown."""
    print(f"request {number}: {request.service} {request.operation}{aside}")
    print(json.dumps(_without_secrets(request.parameters), indent=2) + "\n")


def _without_secrets(value: Any, name: str = "") -> Any:
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if name == "Environment":
        return {key: "***" if is_secret(key, item) else item for key, item in value.items()}
    return {key: _without_secrets(item, key) for key, item in value.items()}
