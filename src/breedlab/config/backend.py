"""The config of the backend: where an experiment runs, and as what on SageMaker.

A backend's own settings are in its class, at `backend.NAME`.
"""

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from breedlab.config.components import choice
from breedlab.config.section import JobName, PositiveInt, Section, matching, not_a_number
from breedlab.registry import BACKENDS

_MAX_5, _MAX_16 = Field(max_length=5), Field(max_length=16)

S3_BUCKET = r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
"""How an address in S3 begins, as a regular expression."""

S3_EXAMPLE = "s3://my-bucket/dog_breeds, the bucket's name of 3 to 63 small letters, digits and '-'"
"""An address of images in S3, as messages show it."""

ECR_IMAGE = re.compile(
    r"\d{12}\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)"
    r"\.(?:amazonaws\.(?:com|com\.cn|eu)|c2s\.ic\.gov|sc2s\.sgov\.gov|cloud\.adc-e\.uk"
    r"|csp\.hci\.ic\.gov)/(?P<name>[^:@]+)"
)
"""The address of an image in Amazon ECR, whose host ends as those of its part of AWS do."""


class Vpc(Section):
    """The private network (VPC) that jobs run in; leave both lists empty for none."""

    subnets: Annotated[
        list[Annotated[str, matching(r"subnet-[0-9a-f]+", "a subnet such as subnet-0abc")]], _MAX_16
    ] = Field(default_factory=list)
    """Its subnets."""
    security_groups: Annotated[
        list[Annotated[str, matching(r"sg-[0-9a-f]+", "a group such as sg-0abc")]], _MAX_5
    ] = Field(default_factory=list)
    """Its security groups."""


KmsKey = Annotated[
    str,
    matching(
        r"arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:(key|alias)/[a-zA-Z0-9/_-]+|alias/[a-zA-Z0-9/_-]+"
        r"|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32}",
        "the ID of a KMS key, its ARN, or its alias, such as alias/dogs",
    ),
]


class Kms(Section):
    """Your KMS keys for what is stored; null uses AWS's keys."""

    output: KmsKey | None = None
    """The key for what a job writes to S3."""
    volume: KmsKey | None = None
    """The key for a job's disk, by its ID or ARN; AWS takes no alias here."""


class Limits(Section):
    """Your account's quotas for one search."""

    trials: PositiveInt = 750
    """The most trials per search."""
    parallel: PositiveInt = 10
    """The most trials at the same time."""


Hours = Annotated[float, Field(gt=0, le=28 * 24)]
Region = Annotated[
    str, matching(r"[a-z]{2,4}(-[a-z]+)+-[0-9]", "an AWS region such as eu-central-1")
]
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
Bucket = Annotated[
    str,
    matching(
        r"(?!xn--|sthree-|amzn-s3-demo-)(?![0-9]+(\.[0-9]+){3}$)(?!.*\.\.)"
        r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
        r"(?<!-s3alias)(?<!--ol-s3)(?<!\.mrap)(?<!--x-s3)(?<!--table-s3)",
        "a bucket's name without s3://: small letters, digits, '-', and no ending or beginning that"
        " S3 keeps for itself, such as -s3alias",
    ),
]
Prefix = Annotated[
    str,
    matching(
        r"(?!.*(^|/)\.{1,2}(/|$))[A-Za-z0-9]([A-Za-z0-9_./-]*[A-Za-z0-9])?",
        "letters, digits, '_', '.', '-' and '/' inside, and no folder '..'",
    ),
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
    BeforeValidator(
        not_a_number(
            "all three parts of a version, such as 2.13.0, since 2.10 would be read as 2.1"
        )
    ),
]
ModelGroup = Annotated[
    str,
    matching(
        r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}",
        "up to 63 letters, digits and '-', the first and last no '-'",
    ),
]
Variable = Annotated[str, matching(r"[a-zA-Z_][a-zA-Z0-9_]*", "a name of letters, digits and '_'")]


class Backend(Section):
    """Where the experiment runs. `wait`, `job_name`, and `environment` are for all that send jobs,
    a section such as `ray` is for that backend, and the rest is for SageMaker."""

    name: Annotated[str, choice(BACKENDS)] = "local"
    """Where the experiment runs: on this machine (`local`), on a Ray cluster, or on SageMaker."""
    wait: bool = True
    """Whether to follow the job to its end and fetch the run."""
    trials: Literal["auto", "job_each", "one_job"] = "auto"
    """Whether each trial runs in a separate job or one job runs them all; `auto` is `one_job` for a
    frozen backbone."""
    orchestrate: Literal["laptop", "pipeline"] = "laptop"
    """What starts the final training after a search: the `laptop` that follows it, or a SageMaker
    `pipeline`, so that nothing has to stay connected."""
    register_in: ModelGroup | None = None
    """The model registry group in which a pipeline registers the model."""
    region: Region | None = None
    """The AWS region; null is the one in your AWS configuration."""
    role: Role | None = None
    """The execution role of the jobs, by name or ARN."""
    bucket: Bucket | None = None
    """The S3 bucket for images, source code, and results."""
    prefix: Prefix = "breedlab"
    """The folder in the bucket."""
    job_name: JobName | None = None
    """The prefix of job names; null is the experiment's name."""
    image: Image = "auto"
    """The training image: `auto`, which is the newest that the region has, a version of PyTorch, or
    a URI."""
    instance_type: InstanceType = "ml.g5.xlarge"
    """The instance type of a job."""
    instance_count: Annotated[int, Field(ge=1, le=100)] = 1
    """Instances per job."""
    processes: Literal["auto"] | PositiveInt = "auto"
    """Training processes per instance; `auto` is one per GPU."""
    volume_gb: Annotated[int, Field(ge=1, le=16_384)] = 50
    """A job's disk, in gigabytes."""
    max_run_hours: Hours = 4.0
    """Hours after which AWS stops a job."""
    spot: bool = False
    """Whether to use spot capacity, which costs less and can be interrupted."""
    max_wait_hours: Hours | None = None
    """Hours that a spot job may take, waiting included; null is twice `max_run_hours`."""
    keep_alive_minutes: Annotated[int, Field(ge=0, le=360)] = 0
    """Minutes that an instance stays warm, and billed, for the next job."""
    retries: Annotated[int, Field(ge=0, le=30)] = 0
    """How often AWS restarts a job after an internal error."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Additional tags for everything that is created."""
    environment: dict[Variable, str] = Field(default_factory=dict)
    """Environment variables of the jobs."""
    input_mode: Literal["file", "fastfile"] = "file"
    """Whether jobs copy all images before they start (`file`), or stream them from S3 as needed
    (`fastfile`)."""
    network_isolation: bool = False
    """Whether jobs run without network access."""
    vendor: bool = False
    """Whether to ship packages with the job as wheels, for jobs without access to a package
    index."""
    encrypt_traffic: bool = False
    """Whether to encrypt traffic between a job's instances."""
    vpc: Vpc = Field(default_factory=Vpc)
    kms: Kms = Field(default_factory=Kms)
    tensorboard: bool = False
    """Whether to send TensorBoard files to S3 while a job runs."""
    limits: Limits = Field(default_factory=Limits)
    price_per_hour: Annotated[float, Field(gt=0)] | None = None
    """The price of an instance in USD per hour, if breedlab does not know it."""
    max_bill: Annotated[float, Field(gt=0)] | None = 100.0
    """The largest possible bill, in USD, that a launch may have; null sets no limit."""
