"""The IAM actions behind the calls that breedlab makes, and what in an account each has to be
allowed on.

`operations.json` holds the calls themselves, by command. The suite records them while it runs every
command against its account, and compares: `python -m pytest tests/backends/test_permissions.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

OPERATIONS = Path(__file__).with_name("operations.json")

_PREFIXES = {"monitoring": "cloudwatch"}
"""Services that sign calls by another name than IAM has for them."""

_S3 = {
    "HeadBucket": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "HeadObject": "GetObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
}
"""Operations that have no action of their own."""

_NEEDS_NOTHING = {"sts:GetCallerIdentity"}

_PASSES_ROLE = (
    "CreateTrainingJob",
    "CreateHyperParameterTuningJob",
    "CreateModel",
    "CreatePipeline",
)

_SCALING = (
    "iam:CreateServiceLinkedRole",
    "sagemaker:DescribeEndpoint",
    "sagemaker:DescribeEndpointConfig",
    "sagemaker:UpdateEndpointWeightsAndCapacities",
)
_ALARMS = ("cloudwatch:PutMetricAlarm", "cloudwatch:DescribeAlarms", "cloudwatch:DeleteAlarms")
_BESIDE = {
    "s3:PutObject": ("s3:AbortMultipartUpload",),
    "application-autoscaling:RegisterScalableTarget": (
        *_SCALING,
        "application-autoscaling:TagResource",
    ),
    "application-autoscaling:PutScalingPolicy": _ALARMS,
    "cloudwatch:PutMetricAlarm": ("cloudwatch:TagResource",),
    "application-autoscaling:DeregisterScalableTarget": _ALARMS,
}
"""What calls need besides the action that they are named after.

A large upload that breaks off is aborted. Autoscaling acts in the caller's name ("prerequisites" in
SageMaker's guide), and a caller that creates something with tags must be allowed to tag it.
"""

SAGEMAKER_KINDS = {
    "TrainingJob": "training-job",
    "HyperParameterTuningJob": "hyper-parameter-tuning-job",
    "TrainingJobsForHyperParameterTuningJob": "hyper-parameter-tuning-job",
    "EndpointConfig": "endpoint-config",
    "EndpointWeightsAndCapacities": "endpoint",
    "EndpointAsync": "endpoint",
    "Endpoint": "endpoint",
    "Model": "model",
    "TransformJob": "transform-job",
    "ModelPackageGroup": "model-package-group",
    "ModelPackage": "model-package",
    "Pipeline": "pipeline",
    "PipelineExecutions": "pipeline",
    "PipelineExecution": "pipeline-execution",
    "PipelineExecutionSteps": "pipeline-execution",
}
"""How ARNs name what an action's name ends with."""

_ALSO = {
    "sagemaker:CreateEndpoint": ("endpoint-config",),
    "sagemaker:UpdateEndpoint": ("endpoint-config",),
    "sagemaker:CreateModelPackage": ("model-package-group",),
}

_AGAINST = {"sagemaker:StartPipelineExecution": "pipeline"}
"""What actions are checked against that are not what they are named after."""
"""What else an action is checked against besides what it is named after."""


def recorded() -> dict[str, list[str]]:
    """Return every call that breedlab makes, such as `sagemaker:CreateModel`, by command."""
    calls: dict[str, list[str]] = json.loads(OPERATIONS.read_text("utf-8"))
    return calls


def actions(calls: Iterable[str]) -> set[str]:
    """Return the IAM actions that calls need."""
    needed: set[str] = set()
    for call in set(calls) - _NEEDS_NOTHING:
        service, _, operation = call.partition(":")
        operation = _S3.get(operation, operation) if service == "s3" else operation
        action = f"{_PREFIXES.get(service, service)}:{operation.removesuffix('Async')}"
        needed |= {action, *_BESIDE.get(action, ())}
        if operation in _PASSES_ROLE:
            needed.add("iam:PassRole")
        if action.startswith("sagemaker:Create"):  # with our tags
            needed.add("sagemaker:AddTags")
    return needed


def sagemaker_resources(action: str, needed: Iterable[str]) -> list[str]:
    """Return the kinds of things in SageMaker that an action is checked against; none where IAM
    knows only `*`.

    Args:
        action: Such as `sagemaker:CreateModel`.
        needed: All actions: tags are read and set on the resources of these.
    """
    if action in ("sagemaker:AddTags", "sagemaker:ListTags"):
        kinds = {kind for other in needed if (kind := _kind_of(other)) is not None}
        return sorted(kinds - {"pipeline-execution"})  # which takes no tags
    kind = _kind_of(action)
    return [] if kind is None else [kind, *_ALSO.get(action, ())]


def by_command(commands: Mapping[str, Iterable[str]], names: Iterable[str]) -> set[str]:
    """Return the calls of some commands."""
    return {call for command in names for call in commands[command]}


def without_pipelines(commands: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Return the calls by command of a user who does not search in a pipeline."""
    return {
        name: [call for call in calls if not _is_for_pipelines(name, call)]
        for name, calls in commands.items()
    }


def _is_for_pipelines(command: str, call: str) -> bool:
    registers = command in ("launch", "jobs") and "ModelPackage" in call
    return registers or "Pipeline" in call


def _kind_of(action: str) -> str | None:
    service, _, name = action.partition(":")
    if action in _AGAINST:
        return _AGAINST[action]
    noun = re.sub(r"^(Create|Update|Describe|Delete|Start|Stop|Retry|Invoke|List)", "", name)
    return SAGEMAKER_KINDS.get(noun) if service == "sagemaker" else None
