"""The least IAM policies with which breedlab works: for users who launch, for the jobs' role, for a
Lambda in front."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from breedlab.backends.sagemaker.permissions import (
    actions,
    by_command,
    recorded,
    sagemaker_resources,
    without_pipelines,
)
from breedlab.backends.sagemaker.tags import USER
from breedlab.config.backend import Backend
from breedlab.config.logger import TRACKING_VARIABLE

Statement = dict[str, Any]
Policy = dict[str, Any]

_SAGEMAKER = "sagemaker.amazonaws.com"
_ONLY_OURS = re.compile(r"sagemaker:(Delete|Stop)(?!PipelineExecution)\w+")
"""Executions of pipelines have no tags."""

_STEPS = {
    "training-job": ("CreateTrainingJob", "DescribeTrainingJob", "StopTrainingJob"),
    "hyper-parameter-tuning-job": (
        "CreateHyperParameterTuningJob",
        "DescribeHyperParameterTuningJob",
        "ListTrainingJobsForHyperParameterTuningJob",
        "StopHyperParameterTuningJob",
    ),
    "model-package": ("DescribeModelPackage",),
}
"""What a pipeline's role has to be allowed, by what its steps create: "Create and Describe
permissions for each of the job types in the pipeline" (build-and-manage-access.html)."""
_S3_BUCKET = {"s3:ListBucket", "s3:GetBucketLocation"}
_LINKED_ROLE = "sagemaker.application-autoscaling.amazonaws.com"
_VPC = (
    "CreateNetworkInterface",
    "CreateNetworkInterfacePermission",
    "DeleteNetworkInterface",
    "DeleteNetworkInterfacePermission",
    "DescribeNetworkInterfaces",
    "DescribeVpcs",
    "DescribeDhcpOptions",
    "DescribeSubnets",
    "DescribeSecurityGroups",
)
_MLFLOW = (
    "CreateExperiment",
    "CreateRun",
    "GetExperiment",
    "GetExperimentByName",
    "GetRun",
    "LogBatch",
    "LogMetric",
    "LogParam",
    "SetTag",
    "UpdateRun",
)
"""What Lightning's logger calls of a tracking server."""
_CODE_ARTIFACT = re.compile(r"(arn:[^:]+:codeartifact:[^:]+:\d+:)repository/([^/]+)/(.+)")
_SECRET = re.compile(r"(arn:[^:]+:secretsmanager:[^:]+:\d+:secret:[^:]+)(:.*)?")


@dataclass(frozen=True)
class Account:
    """What policies name; `*` is for what is not known.

    Attributes:
        role: The execution role's ARN.
        bucket: The bucket's name.
        reads: Bucket and key of what is read elsewhere in S3: images of trainings and batch jobs.
        writes: Bucket and key of what is written elsewhere: answers of batch jobs.
        images: Addresses of container images.
        endpoint: The endpoint's name.
    """

    partition: str
    region: str
    number: str
    role: str
    bucket: str
    prefix: str
    endpoint: str
    backend: Backend
    reads: tuple[tuple[str, str], ...] = ()
    writes: tuple[tuple[str, str], ...] = ()
    images: tuple[str, ...] = ()

    def arn(self, service: str, resource: str) -> str:
        """Return an ARN in the account and region."""
        return f"arn:{self.partition}:{service}:{self.region}:{self.number}:{resource}"

    def s3(self, path: str) -> str:
        """Return the ARN of a bucket, or of what is in it."""
        return f"arn:{self.partition}:s3:::{path}"

    @property
    def buckets(self) -> list[str]:
        """Every bucket's ARN."""
        buckets = (self.bucket, *(bucket for bucket, _ in (*self.reads, *self.writes)))
        return [self.s3(bucket) for bucket in dict.fromkeys(buckets)]

    @property
    def inside(self) -> str:
        """The ARN of everything under the prefix."""
        return self.s3(f"{self.bucket}/{self.prefix}/*")

    def objects(self, places: Iterable[tuple[str, str]]) -> list[str]:
        """Return the ARNs of everything at some places."""
        folders = ["/".join(filter(None, place)) for place in places]
        return [self.s3(f"{folder}/*" if folder else "*") for folder in folders]


def user(account: Account, commands: Iterable[str]) -> Policy:
    """Return the policy of a user who runs some of our commands."""
    calls = recorded()
    if account.backend.orchestrate != "pipeline":
        calls = without_pipelines(calls)
    needed = actions(by_command(calls, commands))
    resources = {action: tuple(_resources(account, action, needed)) for action in sorted(needed)}
    grouped: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for action, on in resources.items():
        grouped.setdefault((on, _condition_name(action)), []).append(action)
    statements = [
        _allow(names, on, _CONDITIONS.get(condition))
        for (on, condition), names in grouped.items()
        if on != ()
    ]
    return _policy([*statements, *_keys_of_user(account, "s3:PutObject" in needed)])


def pipeline_role(account: Account) -> Policy | None:
    """Return what a pipeline needs of the role besides `execution_role`; None without one."""
    statements = list(_of_pipeline(account))
    return _policy(statements) if statements else None


def execution_role(account: Account, pipeline: bool = True) -> Policy:
    """Return what SageMaker, and our code in its containers, need of the role.

    Args:
        account: What it names.
        pipeline: Whether to say what a pipeline needs of it, too.
    """
    logs = account.arn("logs", "log-group:/aws/sagemaker/*")
    statements = [
        _allow(["s3:ListBucket"], account.buckets),
        _allow(["s3:GetObject"], [account.inside, *account.objects(account.reads)]),
        _allow(
            ["s3:AbortMultipartUpload", "s3:PutObject"],
            [account.inside, *account.objects(account.writes)],
        ),
        _allow(
            [
                "logs:CreateLogGroup",
                "logs:CreateLogStream",
                "logs:DescribeLogStreams",
                "logs:PutLogEvents",
            ],
            [logs],
        ),
        _allow(
            ["cloudwatch:PutMetricData"],
            ["*"],
            {"StringLike": {"cloudwatch:namespace": "/aws/sagemaker/*"}},
        ),
        _allow(["ecr:GetAuthorizationToken"], ["*"]),
        _allow(
            ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            [_repository(account, image) for image in account.images],
        ),
        *_of_environment(account.backend.environment),
        *(_of_pipeline(account) if pipeline else ()),
        *_keys_of_role(account),
    ]
    if account.backend.vpc.subnets:
        statements.append(_allow([f"ec2:{name}" for name in _VPC], ["*"]))
    return _policy(statements)


def lambda_function(account: Account) -> Policy:
    """Return what a Lambda needs that asks the endpoint: entry/lambda_policy.json, filled in."""
    return _policy(
        [
            _allow(
                ["sagemaker:InvokeEndpoint"],
                [account.arn("sagemaker", f"endpoint/{account.endpoint}")],
            ),
            _allow(
                ["logs:CreateLogStream", "logs:PutLogEvents"],
                [account.arn("logs", "log-group:/aws/lambda/*:*")],
            ),
        ]
    )


def trust(service: str) -> Policy:
    """Return the trust policy of a role that a service takes on, such as `sagemaker`."""
    principal = {"Service": f"{service}.amazonaws.com"}
    return _policy([{"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}])


def _resources(account: Account, action: str, needed: set[str]) -> Iterator[str]:
    """Yield the ARNs that the user may use an action on."""
    service = action.partition(":")[0]
    if service == "sagemaker":
        kinds = sagemaker_resources(action, needed)
        yield from (_all_of(account, kind) for kind in kinds) if kinds else ("*",)
    elif service == "s3":
        if action in _S3_BUCKET:
            yield from account.buckets
        else:
            yield from (account.inside, *account.objects(account.reads))
    elif service == "logs":
        yield account.arn(service, "log-group:/aws/sagemaker/*")
    elif action == "iam:PassRole":
        yield account.role
    elif action == "iam:CreateServiceLinkedRole":
        name = "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
        role = f"role/aws-service-role/{_LINKED_ROLE}/{name}"
        yield f"arn:{account.partition}:iam::{account.number}:{role}"
    elif service == "iam":  # of the execution role and of the caller
        kinds = ["role", "user"] if action == "iam:SimulatePrincipalPolicy" else ["role"]
        yield from (f"arn:{account.partition}:iam::{account.number}:{kind}/*" for kind in kinds)
    elif service == "application-autoscaling" and not action.partition(":")[2].startswith(
        "Describe"
    ):
        yield account.arn(service, "scalable-target/*")
    elif service == "cloudwatch":
        yield account.arn(service, "alarm:*")
    else:
        yield "*"


def _all_of(account: Account, kind: str) -> str:
    """Return the ARN of everything of a kind in SageMaker."""
    pattern = "pipeline/*/execution/*" if kind == "pipeline-execution" else f"{kind}/*"
    return account.arn("sagemaker", pattern)


def _of_pipeline(account: Account) -> Iterator[Statement]:
    """Yield what the role needs to carry out a pipeline: it creates the jobs, and passes itself on
    to them."""
    if account.backend.orchestrate != "pipeline":
        return
    for kind, names in _STEPS.items():
        yield _allow([f"sagemaker:{name}" for name in names], [_all_of(account, kind)])
    group = _all_of(account, "model-package-group")
    yield _allow(["sagemaker:CreateModelPackage"], [_all_of(account, "model-package"), group])
    yield _allow(["sagemaker:AddTags"], [_all_of(account, kind) for kind in _STEPS])
    yield _allow(["iam:PassRole"], [account.role], _CONDITIONS["pass"])


_CONDITIONS: dict[str, Mapping[str, Any]] = {
    "pass": {"StringEquals": {"iam:PassedToService": _SAGEMAKER}},
    "linked": {"StringLike": {"iam:AWSServiceName": _LINKED_ROLE}},
    "ours": {"Null": {f"aws:ResourceTag/{USER}": "false"}},
}


def _condition_name(action: str) -> str:
    """Return which condition an action is allowed under: what breedlab deletes and stops has its
    tag."""
    if action == "iam:PassRole":
        return "pass"
    if action == "iam:CreateServiceLinkedRole":
        return "linked"
    return "ours" if _ONLY_OURS.fullmatch(action) else ""


def _of_environment(environment: Mapping[str, str]) -> Iterator[Statement]:
    """Yield what the variables of a job make its code ask of AWS."""
    secrets = sorted(
        {match[1] for value in environment.values() if (match := _SECRET.fullmatch(value))}
    )
    if secrets:
        yield _allow(["secretsmanager:GetSecretValue"], secrets)
    if match := _CODE_ARTIFACT.fullmatch(environment.get("CA_REPOSITORY_ARN", "")):
        start, domain, repository = match.groups()
        yield _allow(["codeartifact:GetAuthorizationToken"], [f"{start}domain/{domain}"])
        actions = ["codeartifact:GetRepositoryEndpoint", "codeartifact:ReadFromRepository"]
        yield _allow(actions, [f"{start}repository/{domain}/{repository}"])
        codeartifact = {"StringEquals": {"sts:AWSServiceName": "codeartifact.amazonaws.com"}}
        yield _allow(["sts:GetServiceBearerToken"], ["*"], codeartifact)
    yield from _of_mlflow(environment.get(TRACKING_VARIABLE, ""))


def _of_mlflow(address: str) -> Iterator[Statement]:
    """Yield what logging to a tracking server or an app of SageMaker's needs, by its ARN."""
    if ":mlflow-app/" in address:
        yield _allow(["sagemaker:CallMlflowAppApi"], [address])
    elif ":mlflow-tracking-server/" in address:
        yield _allow([f"sagemaker-mlflow:{name}" for name in _MLFLOW], [address])


def _keys_of_user(account: Account, uploads: bool) -> Iterator[Statement]:
    kms = account.backend.kms
    if kms.output and uploads:
        yield _key(account, kms.output, "Decrypt", "GenerateDataKey")
    if kms.volume:
        yield _key(account, kms.volume, "CreateGrant", "DescribeKey")


def _keys_of_role(account: Account) -> Iterator[Statement]:
    kms = account.backend.kms
    if kms.output:
        yield _key(account, kms.output, "Decrypt", "GenerateDataKey")
    if kms.volume:
        yield _key(account, kms.volume, "CreateGrant", "Decrypt", "DescribeKey", "GenerateDataKey")


def _key(account: Account, key: str, *names: str) -> Statement:
    allowed = [f"kms:{name}" for name in names]
    if alias := re.fullmatch(r"(?:arn:.*:)?(alias/.+)", key):  # IAM takes no alias for a key
        condition = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": alias[1]}}
        return _allow(allowed, [account.arn("kms", "key/*")], condition)
    return _allow(allowed, [key if key.startswith("arn:") else account.arn("kms", f"key/{key}")])


def _repository(account: Account, image: str) -> str:
    """Return the ARN of an image's repository, which is often another account's."""
    # each part of AWS has a domain of its own
    match = re.match(r"([^.]+)\.dkr\.ecr(?:-fips)?\.([^./]+)\.[^/]+/([^:@]+)", image)
    if match is None:
        return f"arn:{account.partition}:ecr:*:*:repository/*"
    number, region, name = (re.sub(r"<.*>", "*", part) for part in match.groups())
    return f"arn:{account.partition}:ecr:{region}:{number}:repository/{name}"


def _allow(
    names: Iterable[str], on: Iterable[str], condition: Mapping[str, Any] | None = None
) -> Statement:
    statement: Statement = {
        "Effect": "Allow",
        "Action": sorted(names),
        "Resource": list(dict.fromkeys(on)),
    }
    return {**statement, "Condition": dict(condition)} if condition else statement


def _policy(statements: Iterable[Statement]) -> Policy:
    return {"Version": "2012-10-17", "Statement": list(statements)}
