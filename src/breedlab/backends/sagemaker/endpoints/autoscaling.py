"""How an endpoint scales with its load: the requests for it, and its status in an account."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from breedlab.backends.sagemaker.request import Request
from breedlab.backends.sagemaker.sending import send
from breedlab.backends.sagemaker.session import aws_errors, client
from breedlab.backends.sagemaker.tags import as_request as tags_as_request
from breedlab.errors import BackendError

if TYPE_CHECKING:
    import boto3

    from breedlab.backends.sagemaker.endpoints.endpoint import Deployment

_WHERE = ("ServiceNamespace", "ResourceId", "ScalableDimension")
_CONTENTS = ("TargetTrackingScalingPolicyConfiguration", "StepScalingPolicyConfiguration")


def scaling_requests(deployment: Deployment) -> list[Request]:
    """Return the requests that set up autoscaling; they are sent once the endpoint is in
    service."""
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
    """Return the name of the alarm that wakes an endpoint, and of the scaling policy that the alarm
    triggers."""
    return f"{endpoint}-wake"


def wake_alarm(name: str, policy_arn: str, tags: tuple[tuple[str, str], ...] = ()) -> Request:
    """Return the alarm that starts an endpoint's first instance: without an instance there is no
    backlog per instance, the target's metric."""
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


@dataclass(frozen=True)
class Scaled:
    """How an endpoint scales in an account.

    Attributes:
        name: The endpoint's.
        targets: What scales, and between which numbers, as AWS describes it; empty where nothing
            does.
        policies: Its scaling policies, as AWS describes them.
        tags: Of the targets, by their resource.
    """

    name: str
    targets: list[dict[str, Any]]
    policies: list[dict[str, Any]]
    tags: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, account: boto3.Session, deployment: Deployment) -> Scaled:
        """Return the autoscaling of a deployment's endpoint, as it is in the account."""
        scaling = client(account, "application-autoscaling")
        where = {"ServiceNamespace": "sagemaker"}
        targets = scaling.describe_scalable_targets(**where, ResourceIds=[deployment.resource])[
            "ScalableTargets"
        ]
        policies = scaling.describe_scaling_policies(**where, ResourceId=deployment.resource)
        tags = {target["ResourceId"]: _tags_of(scaling, target) for target in targets}
        return cls(deployment.name, targets, policies["ScalingPolicies"], tags)

    def remove(self, account: boto3.Session) -> None:
        """Turn autoscaling off. Policies are deleted with their targets; the alarm is not, and
        would trigger nothing."""
        from botocore.exceptions import ClientError

        scaling = client(account, "application-autoscaling")
        for target in self.targets:
            with aws_errors("autoscaling"), suppress(ClientError):
                scaling.deregister_scalable_target(**{key: target[key] for key in _WHERE})
        if any(policy["PolicyName"] == alarm_name(self.name) for policy in self.policies):
            with aws_errors("alarms"), suppress(ClientError):
                remove_alarm(account, self.name)

    def restore(self, account: boto3.Session) -> None:
        """Restore the previous settings."""
        scaling = client(account, "application-autoscaling")
        for target in self.targets:
            parameters = {key: target[key] for key in (*_WHERE, "MinCapacity", "MaxCapacity")}
            if tags := self.tags.get(target["ResourceId"]):
                parameters["Tags"] = tags
            _send(account, Request("RegisterScalableTarget", parameters, "application-autoscaling"))
        for policy in self.policies:
            fields = ("PolicyName", "PolicyType", *_WHERE, *_CONTENTS)
            answer = scaling.put_scaling_policy(
                **{key: policy[key] for key in fields if key in policy}
            )
            if policy["PolicyName"] == alarm_name(self.name):  # a new one, by its ARN
                pairs = tuple(self.tags.get(policy["ResourceId"], {}).items())
                send(account, wake_alarm(self.name, answer["PolicyARN"], pairs))


def _tags_of(scaling: Any, target: dict[str, Any]) -> dict[str, str]:
    """Return a target's tags, none where the credentials may not read them or an older AWS gave it
    no ARN."""
    from botocore.exceptions import ClientError

    if "ScalableTargetARN" not in target:
        return {}
    try:
        tags: dict[str, str] = scaling.list_tags_for_resource(
            ResourceARN=target["ScalableTargetARN"]
        )["Tags"]
    except ClientError:
        return {}
    return tags


def scale(account: boto3.Session, deployment: Deployment) -> bool:
    """Send the autoscaling requests, if the endpoint scales; return whether it does."""
    requests = scaling_requests(deployment)
    with aws_errors("autoscaling"):
        for request in requests:
            answer = _send(account, request)
            if request.parameters.get("PolicyType") == "StepScaling":
                _refuse_other_alarm(account, deployment.name)
                send(account, wake_alarm(deployment.name, answer["PolicyARN"], deployment.own_tags))
    return bool(requests)


def remove_alarm(account: boto3.Session, endpoint: str) -> bool:
    """Delete the alarm that wakes an endpoint, and return whether there was one; another's of that
    name stays."""
    cloudwatch = client(account, "cloudwatch")
    alarms = cloudwatch.describe_alarms(AlarmNames=[alarm_name(endpoint)])["MetricAlarms"]
    if not any(calls_first_instance(alarm, endpoint) for alarm in alarms):
        return False
    cloudwatch.delete_alarms(AlarmNames=[alarm_name(endpoint)])
    return True


def _send(account: boto3.Session, request: Request) -> dict[str, Any]:
    """Send it; a target that already exists is changed, and takes no tags then."""
    from botocore.exceptions import ClientError

    try:
        return send(account, request)
    except ClientError as error:
        if (
            "Tags" not in request.parameters
            or error.response["Error"].get("Code") != "ValidationException"
        ):
            raise
    return send(
        account,
        replace(request, parameters={k: v for k, v in request.parameters.items() if k != "Tags"}),
    )


def _refuse_other_alarm(account: boto3.Session, endpoint: str) -> None:
    """Raise if an alarm of this name watches something else: what is put under a name replaces what
    was there."""
    name = alarm_name(endpoint)
    alarms = client(account, "cloudwatch").describe_alarms(AlarmNames=[name])["MetricAlarms"]
    if any(not calls_first_instance(alarm, endpoint) for alarm in alarms):
        raise BackendError(
            f"the alarm {name} watches something else, so it is left alone; rename it, or give the"
            " endpoint another endpoint.name, so that requests can wake it"
        )
