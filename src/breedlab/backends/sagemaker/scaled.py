"""How an endpoint scales as it stands in an account: read, set, removed and restored."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from breedlab.backends.sagemaker.live import send
from breedlab.backends.sagemaker.scaling import alarm_name, scaling_requests, wake_alarm
from breedlab.backends.sagemaker.session import aws_errors, client

if TYPE_CHECKING:
    import boto3

    from breedlab.backends.sagemaker.endpoint import Deployment

_WHERE = ("ServiceNamespace", "ResourceId", "ScalableDimension")
_CONTENTS = ("TargetTrackingScalingPolicyConfiguration", "StepScalingPolicyConfiguration")


@dataclass(frozen=True)
class Scaled:
    """How an endpoint scales in an account.

    Attributes:
        name: The endpoint's.
        targets: What scales, and between which numbers, as AWS describes it; empty where nothing does.
        policies: By what, likewise.
    """

    name: str
    targets: list[dict[str, Any]]
    policies: list[dict[str, Any]]

    @classmethod
    def of(cls, account: boto3.Session, deployment: Deployment) -> Scaled:
        """Of a deployment's endpoint, in its variant."""
        scaling = client(account, "application-autoscaling")
        where = {"ServiceNamespace": "sagemaker"}
        targets = scaling.describe_scalable_targets(**where, ResourceIds=[deployment.resource])["ScalableTargets"]
        found = scaling.describe_scaling_policies(**where, ResourceId=deployment.resource)
        return cls(deployment.name, targets, found["ScalingPolicies"])

    def remove(self, account: boto3.Session) -> None:
        """Has it scale no more. Policies go with their targets; the alarm does not, and would call upon nothing."""
        from botocore.exceptions import ClientError

        scaling = client(account, "application-autoscaling")
        for target in self.targets:
            with aws_errors("autoscaling"), suppress(ClientError):
                scaling.deregister_scalable_target(**{key: target[key] for key in _WHERE})
        if any(policy["PolicyName"] == alarm_name(self.name) for policy in self.policies):
            with aws_errors("alarms"), suppress(ClientError):
                client(account, "cloudwatch").delete_alarms(AlarmNames=[alarm_name(self.name)])

    def restore(self, account: boto3.Session) -> None:
        """Makes it as it was."""
        scaling = client(account, "application-autoscaling")
        for target in self.targets:
            scaling.register_scalable_target(**{key: target[key] for key in (*_WHERE, "MinCapacity", "MaxCapacity")})
        for policy in self.policies:
            told = ("PolicyName", "PolicyType", *_WHERE, *_CONTENTS)
            answer = scaling.put_scaling_policy(**{key: policy[key] for key in told if key in policy})
            if policy["PolicyName"] == alarm_name(self.name):  # a new one, by its ARN
                send(account, wake_alarm(self.name, answer["PolicyARN"]))


def scale(account: boto3.Session, deployment: Deployment) -> bool:
    """Sends what makes it scale, and whether it is to."""
    wanted = scaling_requests(deployment)
    with aws_errors("autoscaling"):
        for request in wanted:
            answer = send(account, request)
            if request.parameters.get("PolicyType") == "StepScaling":
                send(account, wake_alarm(deployment.name, answer["PolicyARN"]))
    return bool(wanted)
