"""The typed `endpoint` section of `breedlab deploy`, and which of its settings go together."""

from collections.abc import Callable, Iterator
from typing import Annotated, Literal, cast

from pydantic import Field

from breedlab.config.backend import (
    ECR_IMAGE,
    S3_BUCKET,
    Bucket,
    KmsKey,
    Prefix,
    Region,
    Role,
    Variable,
)
from breedlab.config.components import with_endpoint_sections
from breedlab.config.problems import Problem
from breedlab.config.section import Location, PositiveInt, Section, matching

LONGEST_NAME = 52
"""Characters: AWS takes 63, and the names of an endpoint's models and configs add a version."""
OWN_TAGS = "breedlab:"
"""How the keys of the tags begin that breedlab sets itself."""

NAME = rf"(?=.{{1,{LONGEST_NAME}}}$)[a-zA-Z0-9](-*[a-zA-Z0-9])*"

EndpointName = Annotated[
    str,
    matching(
        NAME,
        f"up to {LONGEST_NAME} letters, digits and '-', no '-' at the ends",
    ),
]
S3Folder = Annotated[
    str,
    matching(
        rf"{S3_BUCKET}(/.*)?",
        "an address such as s3://my-bucket/answers",
    ),
]
Seconds = Annotated[int, Field(ge=0)]
Percentage = Annotated[int, Field(ge=1, le=100)]


class Endpoint(Section):
    """The SageMaker endpoint that `breedlab deploy` creates or updates."""

    kind: Literal["realtime", "serverless", "async"] = "realtime"
    """The kind of endpoint: `realtime` on instances, `serverless`, or `async` (instances behind a
    queue)."""
    name: EndpointName | None = None
    """The endpoint's name; null is the experiment's."""
    replace: str | None = None
    """The endpoint's name again, to confirm that one created by someone else is replaced."""
    photo: Location | None = None
    """The image that the new endpoint is tested with; null is one of the run's test images."""
    inference_env: Location | None = None
    """Where AWS's inference stack is on this machine; null is `.venv-inference`."""

    region: Region | None = None
    """The AWS region; null is the run's, else that of your AWS configuration."""
    role: Role | None = None
    """The execution role, by name or ARN; null is $BREEDLAB_ROLE, else the run's `backend.role`."""
    bucket: Bucket | None = None
    """An S3 bucket in the region; null is $BREEDLAB_BUCKET, else the run's `backend.bucket`."""
    prefix: Prefix | None = None
    """The key prefix in the bucket; null is the run's `backend.prefix`, else `breedlab`."""
    kms_key: KmsKey | None = None
    """The KMS key that encrypts what is stored."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Additional tags for everything that is created."""
    subnets: list[str] = Field(default_factory=list)
    """Subnets of a private network."""
    security_groups: list[str] = Field(default_factory=list)
    """Security groups of a private network."""
    network_isolation: bool = False
    """Whether the container runs without a network; needs `vendor` or a custom image."""

    image: str = "aws"
    """The container image: `aws` for AWS's PyTorch image, or the URI of one built from
    docker/Dockerfile."""
    vendor: bool = False
    """Whether to ship packages with the model as wheels, so that none are installed from a package
    index."""
    environment: dict[Variable, str] = Field(default_factory=dict)
    """Environment variables of the container."""
    workers: PositiveInt = 1
    """Worker processes in AWS's image."""

    instance_type: str | None = None
    """The instance type; null is ml.m5.large."""
    min_instances: Annotated[int, Field(ge=0)] | None = None
    """The minimum number of instances; null is 1. 0 lets an async endpoint scale to zero."""
    max_instances: Annotated[int, Field(ge=0)] | None = None
    """The maximum number of instances; null is `min_instances`."""
    scale_target: Annotated[float, Field(gt=0)] | None = None
    """The autoscaling target: invocations per minute and instance (null is 300), or for `async`
    waiting requests per instance (null is 5)."""
    scale_out_cooldown: Seconds | None = None
    """Seconds between scale-out steps; null is 60."""
    scale_in_cooldown: Seconds | None = None
    """Seconds between scale-in steps; null is 300."""
    volume_gb: PositiveInt | None = None
    """The size of the instance's disk; null is SageMaker's default."""
    startup_timeout: PositiveInt | None = None
    """Seconds for the container to become healthy; null is 600."""
    capture: Percentage | None = None
    """The percentage of requests and answers to record in S3; null records none."""
    capture_to: S3Folder | None = None
    """Where in S3 they are recorded; null is under the prefix."""
    price_per_hour: Annotated[float, Field(ge=0, lt=10_000)] | None = None
    """The price of an instance, or of a unit of provisioned concurrency, in USD per hour, if
    breedlab does not know it."""

    memory_mb: Literal[1024, 2048, 3072, 4096, 5120, 6144] | None = None
    """A serverless endpoint's memory; null is 4096."""
    max_concurrency: PositiveInt | None = None
    """A serverless endpoint's concurrent requests; null is 5."""
    provisioned_concurrency: PositiveInt | None = None
    """How many of those a serverless endpoint keeps warm, which is billed; null is none."""

    async_output: S3Folder | None = None
    """The S3 location of an async endpoint's answers; null is under the prefix."""
    async_concurrency: PositiveInt | None = None
    """Concurrent requests per instance of an async endpoint; null is 4."""
    success_topic: str | None = None
    """The ARN of an SNS topic that is notified of answers."""
    error_topic: str | None = None
    """The ARN of an SNS topic that is notified of errors."""

    traffic: Literal["all-at-once", "canary", "linear"] | None = None
    """How an existing endpoint switches to the new model; null is `all-at-once`."""
    step_percent: Percentage | None = None
    """The percentage of traffic for the canary, or per step; null is 10."""
    step_wait: Seconds | None = None
    """Seconds between steps; null is 300."""
    keep_old: Seconds = 0
    """Seconds to keep the old instances after the last step."""
    alarms: list[str] = Field(default_factory=list)
    """CloudWatch alarms that make AWS roll back automatically."""

    @property
    def instances(self) -> tuple[int, int]:
        """How many instances there are at least and at most."""
        least = 1 if self.min_instances is None else self.min_instances
        return least, max(least, 1) if self.max_instances is None else self.max_instances

    @property
    def own_image(self) -> bool:
        """Whether the container's image is not AWS's."""
        return self.image != "aws"


class Deploying(Section):
    """What `breedlab deploy` composes: the `endpoint` section alone."""

    dry_run: bool = False
    """Whether to print the requests, without credentials or network, instead of sending them."""
    endpoint: Endpoint = Field(default_factory=Endpoint)


def deploy_schema() -> type[Deploying]:
    """Return the schema of `breedlab deploy`, with the settings that plugins' backends add."""
    return cast("type[Deploying]", with_endpoint_sections(Deploying))


_ON_INSTANCES = ("realtime", "async")
_KINDS = {
    **dict.fromkeys(
        ("instance_type", "min_instances", "max_instances", "volume_gb", "startup_timeout"),
        _ON_INSTANCES,
    ),
    **dict.fromkeys(("scale_target", "scale_out_cooldown", "scale_in_cooldown"), _ON_INSTANCES),
    **dict.fromkeys(("memory_mb", "max_concurrency", "provisioned_concurrency"), ("serverless",)),
    **dict.fromkeys(
        ("async_output", "async_concurrency", "success_topic", "error_topic"), ("async",)
    ),
    **dict.fromkeys(("traffic", "step_percent", "step_wait", "keep_old", "alarms"), _ON_INSTANCES),
    **dict.fromkeys(
        ("capture", "capture_to", "subnets", "security_groups", "network_isolation"), _ON_INSTANCES
    ),
}
"""Which kinds of endpoint a setting is for, as AWS has it."""

_STEP_PERCENT = {"canary": (1, 50), "linear": (10, 50)}


def endpoint_problems(endpoint: Endpoint) -> list[Problem]:
    """Return what does not go together."""
    return [problem for rule in _RULES for problem in rule(endpoint)]


def _settings_suit_the_kind(endpoint: Endpoint) -> Iterator[Problem]:
    for name, kinds in _KINDS.items():
        if getattr(endpoint, name) not in (None, [], False) and endpoint.kind not in kinds:
            message = f"is not for endpoint={endpoint.kind}; it is for {' and '.join(kinds)}"
            yield Problem(f"endpoint.{name}", message)


def _instances_make_a_range(endpoint: Endpoint) -> Iterator[Problem]:
    least, most = endpoint.instances
    if least < (0 if endpoint.kind == "async" else 1):
        yield Problem(
            "endpoint.min_instances",
            f"got {least}; expected at least 1 (0 is for endpoint=async)",
        )
    if most < max(least, 1):
        yield Problem("endpoint.max_instances", f"got {most}; expected at least {max(least, 1)}")


def _provisioned_is_part_of_all(endpoint: Endpoint) -> Iterator[Problem]:
    warm, most = endpoint.provisioned_concurrency or 0, endpoint.max_concurrency or 5
    if warm > most:
        expected = f"expected at most endpoint.max_concurrency, which is {most}"
        yield Problem("endpoint.provisioned_concurrency", f"got {warm}; {expected}")


def _network_is_whole(endpoint: Endpoint) -> Iterator[Problem]:
    if bool(endpoint.subnets) != bool(endpoint.security_groups):
        present, other = (
            ("subnets", "security_groups") if endpoint.subnets else ("security_groups", "subnets")
        )
        yield Problem(
            f"endpoint.{present}", f"and endpoint.{other} go together; give both or neither"
        )
    if endpoint.network_isolation and not endpoint.own_image and not endpoint.vendor:
        yield Problem(
            "endpoint.network_isolation",
            "AWS's image installs code/requirements.txt when it starts, and could not; send the"
            " packages along with endpoint.vendor=true, or use an image of your own (docker/):"
            " endpoint.image=URI",
        )
    if endpoint.vendor and endpoint.own_image:
        yield Problem(
            "endpoint.vendor",
            "is for AWS's image; one of your own (docker/) holds its packages, and installs none",
        )


def _tags_are_your_own(endpoint: Endpoint) -> Iterator[Problem]:
    if reserved := sorted(key for key in endpoint.tags if key.startswith(OWN_TAGS)):
        yield Problem(
            "endpoint.tags",
            f"got {', '.join(reserved)}; keys that begin with {OWN_TAGS} are breedlab's own",
        )


def _nothing_is_idle(endpoint: Endpoint) -> Iterator[Problem]:
    least, most = endpoint.instances
    if endpoint.capture_to and not endpoint.capture:
        yield Problem("endpoint.capture_to", "needs endpoint.capture=PERCENT")
    if endpoint.kind in _ON_INSTANCES and least == most:
        scaling = ("scale_target", "scale_out_cooldown", "scale_in_cooldown")
        yield from _idle(endpoint, scaling, "endpoint.max_instances above endpoint.min_instances")
    if endpoint.traffic not in _STEP_PERCENT:
        yield from _idle(
            endpoint, ("step_percent", "step_wait"), "endpoint.traffic=canary or linear"
        )
    if endpoint.kind == "serverless" and not endpoint.provisioned_concurrency:
        needed = "endpoint.provisioned_concurrency, where the kind is serverless"
        yield from _idle(endpoint, ("price_per_hour",), needed)


def _idle(endpoint: Endpoint, names: tuple[str, ...], needed: str) -> Iterator[Problem]:
    """Yield those settings that were given and would do nothing."""
    for name in names:
        if getattr(endpoint, name) is not None:
            yield Problem(f"endpoint.{name}", f"needs {needed}")


def _steps_suit_the_traffic(endpoint: Endpoint) -> Iterator[Problem]:
    if endpoint.traffic in _STEP_PERCENT and endpoint.step_percent is not None:
        low, high = _STEP_PERCENT[endpoint.traffic]
        if not low <= endpoint.step_percent <= high:
            expected = f"expected {low} to {high} with endpoint.traffic={endpoint.traffic}"
            yield Problem("endpoint.step_percent", f"got {endpoint.step_percent}; {expected}")


def _image_serves(endpoint: Endpoint) -> Iterator[Problem]:
    if not endpoint.own_image:
        return
    match = ECR_IMAGE.match(endpoint.image)
    if not match:
        expected = "expected aws, or ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG"
        yield Problem("endpoint.image", f"got {endpoint.image!r}; {expected}")
    elif endpoint.region and match["region"] != endpoint.region:
        expected = f"SageMaker takes one of the endpoint's own region, {endpoint.region}"
        yield Problem("endpoint.image", f"is in {match['region']}; {expected}")
    elif "training" in match["name"]:
        expected = "take endpoint.image=aws, or one made from docker/Dockerfile"
        yield Problem("endpoint.image", f"{endpoint.image} trains and cannot serve; {expected}")


_RULES: tuple[Callable[[Endpoint], Iterator[Problem]], ...] = (
    _settings_suit_the_kind,
    _instances_make_a_range,
    _provisioned_is_part_of_all,
    _network_is_whole,
    _tags_are_your_own,
    _nothing_is_idle,
    _steps_suit_the_traffic,
    _image_serves,
)
