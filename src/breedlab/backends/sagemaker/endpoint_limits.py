"""Limits of endpoints and their containers that only AWS's documentation states;
`documented_limits` has their sources."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from breedlab.backends.sagemaker.limits import Call, Found

_LONGEST_ROLLOUT_S = 28_800
_ENVIRONMENT_BYTES = 32 * 1024
_VARIABLE_BYTES = 1024
_PACKAGE_VARIABLES = 16
_TRANSFORM_INSTANCES = 100
_TRANSFORM_MB = 100
_STEPS = {"CanarySize": (1, 50), "LinearStepSize": (10, 50)}
"""How many percent of the instances the canary may be, and one of the steps."""
_BURSTABLE = re.compile(r"ml\.t\d")


def guardrails_suit_endpoint(call: Call, before: Sequence[Call]) -> Found:
    """Yield a way to go over that a serverless endpoint does not have."""
    operation, parameters = call
    if operation not in ("UpdateEndpoint", "CreateEndpoint") or not parameters.get(
        "DeploymentConfig"
    ):
        return
    configs = [config for earlier, config in before if earlier == "CreateEndpointConfig"]
    mine = [
        each
        for each in configs
        if each["EndpointConfigName"] == parameters.get("EndpointConfigName")
    ]
    if any(
        "ServerlessConfig" in variant
        for config in mine
        for variant in config.get("ProductionVariants", [])
    ):
        yield (
            "DeploymentConfig",
            "expected none for a serverless endpoint, which has no deployment guardrails",
        )


def update_ends_in_time(call: Call, before: Sequence[Call]) -> Found:
    """Yield waits that are together longer than an update may take."""
    policy = call[1].get("DeploymentConfig", {}).get("BlueGreenUpdatePolicy", {})
    routing = policy.get("TrafficRoutingConfiguration", {})
    kind, step = routing.get("Type"), routing.get("LinearStepSize", {})
    waits = 1 if kind == "CANARY" else 0
    if kind == "LINEAR" and step.get("Type") == "CAPACITY_PERCENT":
        waits = math.ceil(100 / step["Value"]) - 1
    pause = routing.get("WaitIntervalInSeconds", 0)
    total = waits * pause + policy.get("TerminationWaitInSeconds", 0)
    most = policy.get("MaximumExecutionTimeoutInSeconds", _LONGEST_ROLLOUT_S)
    if total >= most:
        yield (
            "DeploymentConfig.BlueGreenUpdatePolicy.TrafficRoutingConfiguration"
            ".WaitIntervalInSeconds",
            f"got {pause}; {waits} waits and TerminationWaitInSeconds take {total} seconds, and a"
            f" deployment has less than {most}",
        )


def steps_are_part_of_the_fleet(call: Call, before: Sequence[Call]) -> Found:
    """Yield a canary, or a step, that is too large or too small a part of the instances."""
    where = "DeploymentConfig.BlueGreenUpdatePolicy.TrafficRoutingConfiguration"
    policy = call[1].get("DeploymentConfig", {}).get("BlueGreenUpdatePolicy", {})
    routing = policy.get("TrafficRoutingConfiguration", {})
    for name, (least, most) in _STEPS.items():
        size = routing.get(name, {})
        if size.get("Type") == "CAPACITY_PERCENT" and not least <= size["Value"] <= most:
            message = f"got {size['Value']}; expected {least} to {most} percent"
            yield f"{where}.{name}.Value", message


def provisioned_is_part_of_all(call: Call, before: Sequence[Call]) -> Found:
    """Yield that a serverless endpoint keeps more warm than it may run."""
    if call[0] != "CreateEndpointConfig":
        return
    for index, variant in enumerate(call[1].get("ProductionVariants", [])):
        serverless = variant.get("ServerlessConfig", {})
        warm, most = serverless.get("ProvisionedConcurrency", 0), serverless.get("MaxConcurrency")
        if most is not None and warm > most:
            where = f"ProductionVariants[{index}].ServerlessConfig.ProvisionedConcurrency"
            yield where, f"got {warm}; expected at most MaxConcurrency ({most})"


def transform_job_is_not_too_large(call: Call, before: Sequence[Call]) -> Found:
    """Yield too many instances of a transform job, or more megabytes at a time than it takes."""
    operation, parameters = call
    if operation != "CreateTransformJob":
        return
    count = parameters.get("TransformResources", {}).get("InstanceCount", 1)
    if count > _TRANSFORM_INSTANCES:
        expected = f"expected at most {_TRANSFORM_INSTANCES}"
        yield "TransformResources.InstanceCount", f"got {count}; {expected}"
    megabytes = parameters.get("MaxPayloadInMB", 6)
    at_once = max(parameters.get("MaxConcurrentTransforms", 1), 1)
    if megabytes * at_once > _TRANSFORM_MB:
        yield (
            "MaxPayloadInMB",
            f"got {megabytes} MB and {at_once} requests at a time; together they may have"
            f" {_TRANSFORM_MB} MB",
        )


def burstable_instances_do_not_scale(call: Call, before: Sequence[Call]) -> Found:
    """Yield a variant to be scaled whose instances are burstable."""
    if call[0] != "RegisterScalableTarget":
        return
    variants = []
    for operation, parameters in before:
        if operation == "CreateEndpointConfig":
            variants += parameters.get("ProductionVariants", [])
    for kind in {str(variant.get("InstanceType", "")) for variant in variants}:
        if _BURSTABLE.match(kind):
            yield (
                "InstanceType",
                f"got {kind}, whose number AWS does not scale; expected another type, such as"
                " ml.m5.large, or endpoint.max_instances as many as endpoint.min_instances",
            )


def environment_fits(call: Call, before: Sequence[Call]) -> Found:
    """Yield a model's environment that is too large."""
    operation, parameters = call
    if operation != "CreateModel":
        return
    where = "PrimaryContainer.Environment"
    environment = parameters.get("PrimaryContainer", {}).get("Environment", {})
    total = 0
    for name, value in environment.items():
        for what, size in (("name", len(name.encode())), ("value", len(value.encode()))):
            total += size
            if size > _VARIABLE_BYTES:
                yield (
                    f"{where}.{name}",
                    f"its {what} has {size:,} bytes; expected at most {_VARIABLE_BYTES:,}",
                )
    if total > _ENVIRONMENT_BYTES:
        yield (
            where,
            f"has {total:,} bytes, names and values together; expected at most"
            f" {_ENVIRONMENT_BYTES:,}",
        )


def package_environment_fits(call: Call, before: Sequence[Call]) -> Found:
    """Yield that a version in the model registry has too many variables."""
    operation, parameters = call
    if operation != "CreateModelPackage":
        return
    containers = parameters.get("InferenceSpecification", {}).get("Containers", [])
    for index, container in enumerate(containers):
        count = len(container.get("Environment", {}))
        if count > _PACKAGE_VARIABLES:
            yield (
                f"InferenceSpecification.Containers[{index}].Environment",
                f"has {count} variables, breedlab's own among them; expected at most"
                f" {_PACKAGE_VARIABLES}",
            )
