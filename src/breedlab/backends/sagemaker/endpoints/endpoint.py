"""An endpoint's requests: one function makes them, for the dry run that prints and the rollout that
sends them.

Sent by boto3: SDK v3 makes serverless requests that AWS does not know (`MemorySizeInMb`), and has
no autoscaling.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from breedlab.backends.sagemaker.images import gpus
from breedlab.backends.sagemaker.request import Request
from breedlab.backends.sagemaker.session import AwsTarget
from breedlab.backends.sagemaker.tags import as_request as tags_as_request
from breedlab.config.endpoint import LONGEST_NAME

VARIANT = "AllTraffic"
"""The endpoint's one variant, named as the SDK does."""

GPU_AMI = "al2023-ami-sagemaker-inference-gpu-4-1"
"""The hosts whose driver runs docker/'s CUDA 13; the driver of those that AWS takes unasked is
older."""

Kind = Literal["realtime", "serverless", "async"]


@dataclass(frozen=True)
class Scaling:
    """How many instances there are.

    Attributes:
        least: Instances that are always there; 0 only for asynchronous endpoints.
        most: Instances at the highest load. Equal to `least`: no scaling.
        target: Invocations a minute and instance that are aimed at; asynchronous: waiting requests
            an instance.
        out_cooldown: Seconds between two steps up.
        in_cooldown: Seconds between two steps down.
    """

    least: int = 1
    most: int = 1
    target: float = 300.0
    out_cooldown: int = 60
    in_cooldown: int = 300

    @property
    def active(self) -> bool:
        return self.most > self.least


@dataclass(frozen=True)
class Update:
    """How an endpoint that is there goes over to the new model.

    Attributes:
        traffic: All at once, a canary first, or in steps.
        percent: Of the canary, or of one step.
        wait: Seconds between the steps, in which alarms may speak up.
        keep_old: Seconds for which the old instances stay after the last step.
        alarms: CloudWatch alarms that make AWS go back to the old model by itself.
    """

    traffic: Literal["all-at-once", "canary", "linear"] = "all-at-once"
    percent: int = 10
    wait: int = 300
    keep_old: int = 0
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Deployment:
    """Everything that defines an endpoint.

    Attributes:
        name: The endpoint's.
        version: Ends the names of its model and config. The same archive and settings have the
            same, so that a deployment that was interrupted is found again.
        place: Where in AWS.
        image: The address of the container image.
        own_image: Whether that is ours (docker/), which needs none of the toolkit's settings.
        model: The archive's address in S3.
        own_tags: Who made it, of which run, for which endpoint (`tags`).
        package: The ARN of the version in the model registry that it is made from, if it is.
    """

    name: str
    version: str
    place: AwsTarget
    image: str
    own_image: bool
    model: str
    kind: Kind = "realtime"
    instance_type: str = "ml.m5.large"
    scaling: Scaling = Scaling()
    workers: int = 1
    memory_mb: int = 4096
    concurrency: int = 5
    provisioned: int = 0
    capture_percent: int = 0
    capture_uri: str | None = None
    async_output: str | None = None
    async_concurrency: int = 4
    topics: tuple[str | None, str | None] = (None, None)
    update: Update = Update()
    kms_key: str | None = None
    volume_gb: int | None = None
    startup_timeout: int = 600
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    network_isolation: bool = False
    environment: tuple[tuple[str, str], ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    own_tags: tuple[tuple[str, str], ...] = ()
    variant: str = VARIANT
    package: str | None = None

    @property
    def versioned(self) -> str:
        """The name of its model and of its config."""
        return f"{self.name}-{self.version}"

    @property
    def output(self) -> str:
        """Where an asynchronous endpoint writes its answers."""
        answers = self.async_output or self.place.uri("endpoints", self.name, "answers")
        return answers.rstrip("/")  # AWS adds its own

    @property
    def resource(self) -> str:
        """Its name for Application Auto Scaling."""
        return f"endpoint/{self.name}/variant/{self.variant}"


def with_version(deployment: Deployment, content: str) -> Deployment:
    """Return the deployment with the version that its settings and the archive's content
    determine."""
    # Who deploys it makes no difference: a colleague's deployment of the same is the same.
    plain = replace(deployment, version="", model="", own_tags=())
    settings = ["tagged", *(request.parameters for request in (_model(plain), _config(plain)))]
    digest = hashlib.sha256(json.dumps([content, *settings], sort_keys=True).encode()).hexdigest()
    return replace(deployment, version=digest[:10])


def default_name(experiment: str) -> str:
    """Return what the endpoint of an experiment is called where no one says."""
    return (
        re.sub(r"[^a-zA-Z0-9]+", "-", experiment).strip("-")[:LONGEST_NAME].strip("-") or "breedlab"
    )


def is_version(name: str, endpoint: str) -> bool:
    """Return whether this is the name of an endpoint's model or config."""
    return re.fullmatch(rf"{re.escape(endpoint)}-[0-9a-f]{{10}}", name) is not None


def requests(deployment: Deployment, *, exists: bool, retain: bool = False) -> list[Request]:
    """Return the requests in the order in which they are sent, without those of autoscaling.

    Args:
        deployment: The endpoint's target state.
        exists: Whether the endpoint is there and is updated in place.
        retain: Whether it keeps the number of instances that its autoscaling has reached.
    """
    last = _update(deployment, retain) if exists else _create(deployment)
    return [_model(deployment), _config(deployment), last]


def container(deployment: Deployment) -> dict[str, Any]:
    """Return the container of a deployment's model: image, archive and environment."""
    environment = dict(deployment.environment)
    if not deployment.own_image:
        environment = {
            "SAGEMAKER_PROGRAM": "inference.py",
            "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
            "SAGEMAKER_REGION": deployment.place.region,
            "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
            "SAGEMAKER_MODEL_SERVER_WORKERS": str(deployment.workers),
            # The toolkit's own setting of it is ignored by the TorchServe that it starts.
            "TS_DEFAULT_RESPONSE_TIMEOUT": "60",
            **environment,
        }
    definition: dict[str, Any] = {"Image": deployment.image, "ModelDataUrl": deployment.model}
    return {**definition, "Environment": environment} if environment else definition


def _model(deployment: Deployment) -> Request:
    primary = container(deployment)
    if deployment.package:  # which has image and archive
        primary = {
            "ModelPackageName": deployment.package,
            "Environment": primary.get("Environment", {}),
        }
    parameters: dict[str, Any] = {
        "ModelName": deployment.versioned,
        "PrimaryContainer": primary,
        "ExecutionRoleArn": deployment.place.role,
    }
    if deployment.network_isolation:
        parameters["EnableNetworkIsolation"] = True
    if deployment.subnets:
        parameters["VpcConfig"] = {
            "Subnets": list(deployment.subnets),
            "SecurityGroupIds": list(deployment.security_groups),
        }
    return Request("CreateModel", {**parameters, **_tags(deployment)})


def _config(deployment: Deployment) -> Request:
    variant: dict[str, Any] = {
        "VariantName": deployment.variant,
        "ModelName": deployment.versioned,
        "InitialVariantWeight": 1.0,
    }
    if deployment.kind == "serverless":
        variant["ServerlessConfig"] = {
            "MemorySizeInMB": deployment.memory_mb,
            "MaxConcurrency": deployment.concurrency,
            **(
                {"ProvisionedConcurrency": deployment.provisioned} if deployment.provisioned else {}
            ),
        }
    else:
        variant |= {
            "InstanceType": deployment.instance_type,
            "InitialInstanceCount": max(deployment.scaling.least, 1),
            "ContainerStartupHealthCheckTimeoutInSeconds": deployment.startup_timeout,
            **({"VolumeSizeInGB": deployment.volume_gb} if deployment.volume_gb else {}),
        }
        if deployment.own_image and gpus(deployment.instance_type):
            variant["InferenceAmiVersion"] = GPU_AMI
    parameters: dict[str, Any] = {
        "EndpointConfigName": deployment.versioned,
        "ProductionVariants": [variant],
    }
    if deployment.kms_key and deployment.kind != "serverless":
        parameters["KmsKeyId"] = deployment.kms_key
    if deployment.kind == "async":
        parameters["AsyncInferenceConfig"] = _async(deployment)
    if deployment.capture_percent:
        parameters["DataCaptureConfig"] = {
            "EnableCapture": True,
            "InitialSamplingPercentage": deployment.capture_percent,
            "DestinationS3Uri": (
                deployment.capture_uri
                or deployment.place.uri("endpoints", deployment.name, "capture")
            ),
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
            **({"KmsKeyId": deployment.kms_key} if deployment.kms_key else {}),
        }
    return Request("CreateEndpointConfig", {**parameters, **_tags(deployment)})


def _async(deployment: Deployment) -> dict[str, Any]:
    success, error = deployment.topics
    topics = {
        name: topic
        for name, topic in (("SuccessTopic", success), ("ErrorTopic", error))
        if topic is not None
    }
    return {
        "ClientConfig": {"MaxConcurrentInvocationsPerInstance": deployment.async_concurrency},
        "OutputConfig": {
            "S3OutputPath": deployment.output,
            "S3FailurePath": f"{deployment.output}-failed",
            **({"NotificationConfig": topics} if topics else {}),
            **({"KmsKeyId": deployment.kms_key} if deployment.kms_key else {}),
        },
    }


def _create(deployment: Deployment) -> Request:
    return Request(
        "CreateEndpoint",
        {
            "EndpointName": deployment.name,
            "EndpointConfigName": deployment.versioned,
            **_tags(deployment),
        },
    )


def _update(deployment: Deployment, retain: bool) -> Request:
    parameters: dict[str, Any] = {
        "EndpointName": deployment.name,
        "EndpointConfigName": deployment.versioned,
    }
    if retain:
        parameters["RetainAllVariantProperties"] = True
        parameters["ExcludeRetainedVariantProperties"] = [
            {"VariantPropertyType": "DataCaptureConfig"}
        ]
    if policy := dict(_policy(deployment)):
        parameters["DeploymentConfig"] = policy
    return Request("UpdateEndpoint", parameters)


def _policy(deployment: Deployment) -> Iterator[tuple[str, Any]]:
    update = deployment.update
    if update.traffic == "all-at-once" and not update.keep_old and not update.alarms:
        return  # what AWS does unasked
    routing: dict[str, Any] = {
        "Type": update.traffic.replace("-", "_").upper(),
        "WaitIntervalInSeconds": update.wait,
    }
    size = {"Type": "CAPACITY_PERCENT", "Value": update.percent}
    if update.traffic != "all-at-once":
        routing["CanarySize" if update.traffic == "canary" else "LinearStepSize"] = size
    yield (
        "BlueGreenUpdatePolicy",
        {"TrafficRoutingConfiguration": routing, "TerminationWaitInSeconds": update.keep_old},
    )
    if update.alarms:
        yield (
            "AutoRollbackConfiguration",
            {"Alarms": [{"AlarmName": name} for name in update.alarms]},
        )


def waits(update: Update) -> int:
    """Return how often an update waits between two steps."""
    if update.traffic == "linear":
        return math.ceil(100 / update.percent) - 1
    return 1 if update.traffic == "canary" else 0


def _tags(deployment: Deployment) -> dict[str, Any]:
    tags = (*deployment.tags, *deployment.own_tags)
    return {"Tags": tags_as_request(tags)} if tags else {}
