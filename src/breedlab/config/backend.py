"""The config of the backend: where an experiment runs, and as what on SageMaker."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from breedlab.config.section import JobName, PositiveInt, Section, matching, not_a_number

_MAX_5, _MAX_16 = Field(max_length=5), Field(max_length=16)


class Vpc(Section):
    """The private network that jobs run in; both lists empty for none."""

    subnets: Annotated[list[Annotated[str, matching(r"subnet-[0-9a-f]+", "a subnet such as subnet-0abc")]], _MAX_16] = (
        Field(default_factory=list)
    )
    security_groups: Annotated[list[Annotated[str, matching(r"sg-[0-9a-f]+", "a group such as sg-0abc")]], _MAX_5] = (
        Field(default_factory=list)
    )


KmsKey = Annotated[str, matching(r"[a-zA-Z0-9:/_-]+", "the ID, alias or ARN of a KMS key")]


class Kms(Section):
    """Keys of the account's own for what is stored; null is AWS's."""

    output: KmsKey | None = None
    volume: KmsKey | None = None


class Limits(Section):
    """The account's limits of one search."""

    trials: PositiveInt = 750
    parallel: PositiveInt = 10


Hours = Annotated[float, Field(gt=0, le=28 * 24)]
Region = Annotated[str, matching(r"[a-z]{2,4}(-[a-z]+)+-[0-9]", "an AWS region such as eu-central-1")]
Bucket = Annotated[
    str, matching(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "a bucket's name without s3://: small letters, digits, '-'")
]
Prefix = Annotated[
    str, matching(r"[A-Za-z0-9]([A-Za-z0-9_./-]*[A-Za-z0-9])?", "letters, digits, '_', '.', '-' and '/' inside")
]
Role = Annotated[
    str,
    matching(
        r"(arn:aws[a-z-]*:iam::[0-9]{12}:role/)?[a-zA-Z0-9_+=,.@/-]+",
        "a role's name, or its ARN such as arn:aws:iam::123456789012:role/SageMakerRole",
    ),
]
InstanceType = Annotated[str, matching(r"ml\.[a-z0-9-]+\.[a-z0-9]+", "a type such as ml.g5.xlarge")]
Image = Annotated[
    str,
    StringConstraints(min_length=1),
    BeforeValidator(not_a_number("all three parts of a version, such as 2.13.0, since 2.10 would be read as 2.1")),
]
Variable = Annotated[str, matching(r"[a-zA-Z_][a-zA-Z0-9_]*", "a name of letters, digits and '_'")]


class Backend(Section):
    """Where the experiment runs; all but the first two are SageMaker's."""

    name: Literal["local", "sagemaker"] = "local"
    wait: bool = True
    trials: Literal["auto", "job_each", "one_job"] = "auto"
    region: Region | None = None
    role: Role | None = None
    bucket: Bucket | None = None
    prefix: Prefix = "breedlab"
    job_name: JobName | None = None
    image: Image = "auto"
    instance_type: InstanceType = "ml.g5.xlarge"
    instance_count: Annotated[int, Field(ge=1, le=100)] = 1
    processes: Literal["auto"] | PositiveInt = "auto"
    volume_gb: Annotated[int, Field(ge=1, le=16_384)] = 50
    max_run_hours: Hours = 4.0
    spot: bool = False
    max_wait_hours: Hours | None = None
    keep_alive_minutes: Annotated[int, Field(ge=0, le=360)] = 0
    retries: Annotated[int, Field(ge=0, le=30)] = 0
    tags: dict[str, str] = Field(default_factory=dict)
    environment: dict[Variable, str] = Field(default_factory=dict)
    network_isolation: bool = False
    vendor: bool = False
    encrypt_traffic: bool = False
    vpc: Vpc = Field(default_factory=Vpc)
    kms: Kms = Field(default_factory=Kms)
    tensorboard: bool = False
    limits: Limits = Field(default_factory=Limits)
    price_per_hour: Annotated[float, Field(gt=0)] | None = None
    max_bill: Annotated[float, Field(gt=0)] | None = 100.0
