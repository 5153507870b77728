"""The requests that make an endpoint scale with its load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from breedlab.backends.sagemaker.request import Request
from breedlab.backends.sagemaker.tags import as_request as tags_as_request

if TYPE_CHECKING:
    from breedlab.backends.sagemaker.endpoint import Deployment


def scaling_requests(deployment: Deployment) -> list[Request]:
    """What makes it scale; sent once it is in service."""
    scaling = deployment.scaling
    if deployment.kind == "serverless" or not scaling.active:
        return []
    target = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": deployment.resource,
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    policy: dict[str, Any] = {
        "TargetValue": scaling.target,
        "ScaleOutCooldown": scaling.out_cooldown,
        "ScaleInCooldown": scaling.in_cooldown,
    }
    if deployment.kind == "realtime":
        policy["PredefinedMetricSpecification"] = {
            "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"
        }
    else:
        policy["CustomizedMetricSpecification"] = {
            **_queue(deployment.name, "ApproximateBacklogSizePerInstance"),
            "Statistic": "Average",
        }
    service = "application-autoscaling"
    tags = dict((*deployment.tags, *deployment.own_tags))
    bounds = {"MinCapacity": scaling.least, "MaxCapacity": scaling.most}
    return [
        Request(
            "RegisterScalableTarget",
            {**target, **bounds, **({"Tags": tags} if tags else {})},
            service,
        ),
        Request(
            "PutScalingPolicy",
            {
                "PolicyName": f"{deployment.name}-target",
                **target,
                "PolicyType": "TargetTrackingScaling",
                "TargetTrackingScalingPolicyConfiguration": policy,
            },
            service,
        ),
        *([_wake(deployment, target)] if scaling.least == 0 else []),
    ]


def alarm_name(endpoint: str) -> str:
    """Of what wakes it, and of the policy that this calls."""
    return f"{endpoint}-wake"


def wake_alarm(name: str, policy_arn: str, tags: tuple[tuple[str, str], ...] = ()) -> Request:
    """What calls an endpoint's first instance: without one there is no backlog an instance, the
    target's metric."""
    return Request(
        "PutMetricAlarm",
        {
            "AlarmName": alarm_name(name),
            **_queue(name, "HasBacklogWithoutCapacity"),
            "Statistic": "Average",
            "Period": 60,
            "EvaluationPeriods": 1,
            "Threshold": 1.0,
            "ComparisonOperator": "GreaterThanOrEqualToThreshold",
            "TreatMissingData": "missing",
            "AlarmActions": [policy_arn],
            **({"Tags": tags_as_request(tags)} if tags else {}),
        },
        "cloudwatch",
    )


def calls_first_instance(alarm: dict[str, Any], endpoint: str) -> bool:
    """Return whether an alarm of the account is the one that `wake_alarm` makes for an endpoint."""
    watched = _queue(endpoint, "HasBacklogWithoutCapacity")
    return all(alarm.get(key) == value for key, value in watched.items())


def _wake(deployment: Deployment, target: dict[str, Any]) -> Request:
    return Request(
        "PutScalingPolicy",
        {
            "PolicyName": alarm_name(deployment.name),
            **target,
            "PolicyType": "StepScaling",
            "StepScalingPolicyConfiguration": {
                "AdjustmentType": "ChangeInCapacity",
                "MetricAggregationType": "Average",
                "Cooldown": deployment.scaling.out_cooldown,
                "StepAdjustments": [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}],
            },
        },
        "application-autoscaling",
    )


def _queue(name: str, metric: str) -> dict[str, Any]:
    return {
        "MetricName": metric,
        "Namespace": "AWS/SageMaker",
        "Dimensions": [{"Name": "EndpointName", "Value": name}],
    }
