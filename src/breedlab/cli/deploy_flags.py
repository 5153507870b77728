"""The flags of `breedlab deploy`, and which of them go together."""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breedlab.backends.sagemaker.endpoints.endpoint import LONGEST, NAME, default_name
from breedlab.backends.sagemaker.tags import PREFIX, own_tags
from breedlab.commands import command

if TYPE_CHECKING:
    from breedlab.backends.sagemaker.endpoints.endpoint import Deployment
    from breedlab.backends.sagemaker.session import Place

_KINDS = ("realtime", "serverless", "async")
_MACHINES = (
    "instance_type",
    "min_instances",
    "max_instances",
    "scale_target",
    "scale_out_cooldown",
    "scale_in_cooldown",
    "volume_gb",
    "startup_timeout",
)
_ONLY = {
    **dict.fromkeys(_MACHINES, ("realtime", "async")),
    **dict.fromkeys(("memory_mb", "max_concurrency", "provisioned_concurrency"), ("serverless",)),
    **dict.fromkeys(
        ("async_output", "async_concurrency", "success_topic", "error_topic"), ("async",)
    ),
    **dict.fromkeys(
        ("traffic", "step_percent", "step_wait", "keep_old", "alarm"), ("realtime", "async")
    ),
    **dict.fromkeys(
        ("capture", "capture_to", "subnet", "security_group", "network_isolation"),
        ("realtime", "async"),
    ),
}
"""Which kinds of endpoint a flag is for, as AWS has it."""

_STEP_PERCENT, _STEP_WAIT = 10, 300
_ECR = re.compile(
    r"\d{12}\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/(?P<name>[^:@]+)"
)


@dataclass(frozen=True)
class Account:
    """What was said of the account; None is to be found out."""

    region: str | None
    role: str | None
    bucket: str | None
    prefix: str


def parse(argv: list[str]) -> argparse.Namespace:
    """The flags, those that do not go together refused."""
    parser = _parser()
    words = parser.parse_args(argv)
    if words.delete is not None:
        if words.model is not None:
            parser.error("--delete NAME takes no MODEL|RUN")
        if words.dry_run:
            parser.error("--delete NAME takes no --dry-run; it says what it deleted")
        _check_name(parser, "--delete", words.delete)
        return words
    if words.list:
        if words.model is not None:
            parser.error("--list takes no MODEL|RUN; it shows every endpoint that breedlab made")
        return words
    if (words.model is None) == (words.from_registry is None):
        parser.error(
            "MODEL|RUN is missing; expected a model.tar.gz or a run directory, or --from-registry"
            " GROUP"
            if words.model is None
            else "--from-registry takes no MODEL|RUN: it deploys what the registry has"
        )
    words.name = words.name or (
        _name_of(words.model) if words.model else _name_in_registry(words.from_registry)
    )
    _check_name(parser, "--name", words.name)
    if words.replace is not None and words.replace != words.name:
        parser.error(
            f"--replace {words.replace}: names another endpoint than --name, {words.name}; name the"
            " one to be replaced"
        )
    if found := problems(words):
        parser.error("\n  ".join(found))
    return words


def problems(words: argparse.Namespace) -> list[str]:
    """What does not go together."""
    found = []
    for name, kinds in _ONLY.items():
        if getattr(words, name) not in (None, [], False) and words.kind not in kinds:
            found.append(
                f"--{name.replace('_', '-')} is not for --kind {words.kind}; it is for"
                f" {' and '.join(kinds)}"
            )
    if words.role and not re.fullmatch(
        r"(arn:aws[\w-]*:iam::\d{12}:role/)?[\w+=,.@/-]+", words.role
    ):
        found.append(f"--role: got {words.role!r}; expected a role's name or its ARN")
    own = sorted(key for key, _ in words.tag if key.startswith(PREFIX))
    if own:
        found.append(
            f"--tag: got {', '.join(own)}; keys that begin with {PREFIX} are breedlab's own"
        )
    if words.bucket and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", words.bucket):
        found.append(
            f"--bucket: got {words.bucket!r}; expected the name of an S3 bucket, without s3://"
        )
    least, most = _instances(words)
    floor = 0 if words.kind == "async" else 1
    if least < floor:
        found.append(
            f"--min-instances: got {least}; expected at least {floor} (0 is for --kind async)"
        )
    if most < max(least, 1):
        found.append(f"--max-instances: got {most}; expected at least {max(least, 1)}")
    if (words.provisioned_concurrency or 0) > (words.max_concurrency or 5):
        found.append(
            f"--provisioned-concurrency: got {words.provisioned_concurrency};"
            f" expected at most --max-concurrency, which is {words.max_concurrency or 5}"
        )
    if bool(words.subnet) != bool(words.security_group):
        found.append("--subnet and --security-group go together; give both or neither")
    if words.capture_to and not words.capture:
        found.append("--capture-to needs --capture PERCENT")
    if words.kind in _ONLY["scale_target"] and least == most:
        scaling = ("scale_target", "scale_out_cooldown", "scale_in_cooldown")
        found += _idle(words, scaling, "--max-instances above --min-instances")
    limits = {"canary": (1, 50), "linear": (10, 50)}
    if words.traffic in limits:
        low, high = limits[words.traffic]
        if words.step_percent is not None and not low <= words.step_percent <= high:
            found.append(
                f"--step-percent: got {words.step_percent}; with --traffic {words.traffic} {low} to"
                f" {high}"
            )
    else:
        found += _idle(words, ("step_percent", "step_wait"), "--traffic canary or linear")
    if words.kind == "serverless" and not words.provisioned_concurrency:
        found += _idle(
            words, ("price_per_hour",), "--provisioned-concurrency, where the kind is serverless"
        )
    if words.network_isolation and words.image == "aws" and not words.vendor:
        found.append(
            "--network-isolation: AWS's image installs code/requirements.txt when it starts, and"
            " could not; send the packages along with --vendor, or take an image of your own"
            " (docker/): --image URI"
        )
    if words.vendor and words.image != "aws":
        found.append(
            "--vendor: is for AWS's image; one of your own (docker/) holds its packages, and"
            " installs none"
        )
    return found + _image_problems(words) + _registry_problems(words)


def account_of(words: argparse.Namespace) -> Account:
    """What the flags say of the account, else the environment, else the run that trained there."""
    trained = _config_of(words.model).get("backend", {})
    trained = trained if trained.get("name") == "sagemaker" else {}
    return Account(
        words.region or trained.get("region"),
        words.role or os.environ.get("BREEDLAB_ROLE") or trained.get("role"),
        words.bucket or os.environ.get("BREEDLAB_BUCKET") or trained.get("bucket"),
        (words.prefix or trained.get("prefix") or "breedlab").strip("/"),
    )


def deployment_of(
    words: argparse.Namespace, place: Place, model: str, run: str | None
) -> Deployment:
    """What the flags ask for, without its version.

    Args:
        words: From `parse`.
        place: Where in AWS.
        model: The archive's address in S3.
        run: The run that the model comes from, if its archive names one.
    """
    from breedlab.backends.sagemaker.endpoints.endpoint import (
        Deployment,
        Scaling,
        Update,
        inference_image,
    )

    own = words.image != "aws"
    machine = words.instance_type or "ml.m5.large"
    least, most = _instances(words)
    scaling = Scaling(
        least,
        most,
        words.scale_target or (5.0 if words.kind == "async" else 300.0),
        60 if words.scale_out_cooldown is None else words.scale_out_cooldown,
        300 if words.scale_in_cooldown is None else words.scale_in_cooldown,
    )
    return Deployment(
        name=words.name,
        version="",
        place=place,
        image=words.image if own else inference_image(machine, place.region),
        own_image=own,
        model=model,
        kind=words.kind,
        instance_type=machine,
        scaling=scaling,
        workers=words.workers,
        memory_mb=words.memory_mb or 4096,
        concurrency=words.max_concurrency or 5,
        provisioned=words.provisioned_concurrency or 0,
        capture_percent=words.capture or 0,
        capture_uri=words.capture_to,
        async_output=words.async_output,
        async_concurrency=words.async_concurrency or 4,
        topics=(words.success_topic, words.error_topic),
        update=Update(
            words.traffic or "all-at-once",
            words.step_percent or _STEP_PERCENT,
            _STEP_WAIT if words.step_wait is None else words.step_wait,
            words.keep_old,
            tuple(words.alarm),
        ),
        kms_key=words.kms_key,
        volume_gb=words.volume_gb,
        startup_timeout=words.startup_timeout or 600,
        subnets=tuple(words.subnet),
        security_groups=tuple(words.security_group),
        network_isolation=words.network_isolation,
        environment=tuple(words.env),
        tags=tuple(words.tag),
        own_tags=own_tags(
            endpoint=words.name, run=run, experiment=_config_of(words.model).get("name")
        ),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=command("deploy"),
        description=(
            "Puts a model behind an endpoint on Amazon SageMaker, or brings one that is there to a"
            " new model."
        ),
        usage=(
            f"{command('deploy')} MODEL|RUN [--name NAME] [--kind realtime|serverless|async]"
            f" [flags]\n       {command('deploy')} MODEL|RUN --dry-run [flags]\n      "
            f" {command('deploy')} MODEL|RUN --register GROUP [--approval WHAT] [--dry-run]"
            f" [flags]\n       {command('deploy')} --from-registry GROUP[:VERSION] [flags]\n      "
            f" {command('deploy')} --list [--region REGION]\n       {command('deploy')} --delete"
            " NAME [--region REGION]"
        ),
        epilog=(
            f"example: {command('deploy')} runs/latest --role MyRole --bucket my-bucket"
            " --max-instances 4"
        ),
    )
    add = parser.add_argument
    add(
        "model",
        nargs="?",
        type=Path,
        metavar="MODEL|RUN",
        help="a model.tar.gz, or a run directory",
    )
    add("--name", help="the endpoint's (default: the experiment's)")
    add("--kind", choices=_KINDS, default="realtime", help="default: realtime")
    add(
        "--dry-run",
        action="store_true",
        help="print the requests; needs no credentials and no network",
    )
    add(
        "--list",
        action="store_true",
        help="the endpoints that breedlab made, with age and price, from any machine",
    )
    add(
        "--delete",
        metavar="NAME",
        help="delete an endpoint, its configs and its models; files in S3 stay",
    )
    add(
        "--replace",
        metavar="NAME",
        help="update this endpoint though somebody else made it, or not breedlab",
    )
    add(
        "--photo",
        metavar="FILE",
        help="the photo that decides (default: one that the run was tested with)",
    )
    add(
        "--inference-env",
        metavar="DIR",
        help="AWS's inference stack on this machine (default: .venv-inference)",
    )

    add = parser.add_argument_group("model registry").add_argument
    add(
        "--register",
        metavar="GROUP",
        help="register a version in this group, with metrics and origin; no endpoint",
    )
    add(
        "--approval",
        choices=("pending", "approved", "rejected"),
        help="of the new version (default: pending)",
    )
    add(
        "--from-registry",
        metavar="GROUP[:VERSION]",
        help="deploy the group's newest approved version, or this one",
    )

    add = parser.add_argument_group("account").add_argument
    add("--region", help="default: that of the AWS profile")
    add(
        "--role",
        help=(
            "execution role, by name or ARN (default: $BREEDLAB_ROLE, else the run's backend.role)"
        ),
    )
    add(
        "--bucket",
        help=(
            "an S3 bucket in the region (default: $BREEDLAB_BUCKET, else the run's backend.bucket)"
        ),
    )
    add("--prefix", help="how keys in the bucket begin (default: breedlab)")
    add("--kms-key", metavar="KEY", help="encrypts what is stored")
    add(
        "--tag",
        action="append",
        default=[],
        type=_pair,
        metavar="KEY=VALUE",
        help="may be given more than once",
    )
    add(
        "--subnet",
        action="append",
        default=[],
        metavar="ID",
        help="a private network; may be given more than once",
    )
    add(
        "--security-group",
        action="append",
        default=[],
        metavar="ID",
        help="may be given more than once",
    )
    add(
        "--network-isolation",
        action="store_true",
        help="no way out of the container: --vendor, or your own image",
    )

    add = parser.add_argument_group("container").add_argument
    add(
        "--image",
        default="aws",
        metavar="aws|URI",
        help="AWS's PyTorch image, or one made from docker/Dockerfile",
    )
    add(
        "--vendor",
        action="store_true",
        help="packages travel as wheels: nothing is installed from a package index",
    )
    add(
        "--env",
        action="append",
        default=[],
        type=_pair,
        metavar="KEY=VALUE",
        help="an environment variable",
    )
    add(
        "--workers",
        type=_count,
        default=1,
        help="processes that answer, in AWS's image (default: 1)",
    )

    add = parser.add_argument_group("instances (realtime, async)").add_argument
    add("--instance-type", metavar="TYPE", help="default: ml.m5.large")
    add("--min-instances", type=int, metavar="N", help="default: 1; 0 lets an async endpoint sleep")
    add(
        "--max-instances",
        type=int,
        metavar="N",
        help="more than the least: scales with the load (default: the least)",
    )
    add(
        "--scale-target",
        type=float,
        metavar="X",
        help="invocations a minute and instance (300); async: backlog (5)",
    )
    add(
        "--scale-out-cooldown",
        type=_seconds,
        metavar="S",
        help="between two steps up (default: 60)",
    )
    add(
        "--scale-in-cooldown",
        type=_seconds,
        metavar="S",
        help="between two steps down (default: 300)",
    )
    add("--volume-gb", type=_count, metavar="GB", help="default: SageMaker's")
    add(
        "--startup-timeout",
        type=_count,
        metavar="S",
        help="for the container to become healthy (default: 600)",
    )
    add(
        "--capture",
        type=_percent,
        metavar="PERCENT",
        help="records this share of requests and answers in S3",
    )
    add("--capture-to", metavar="S3", help="where to (default: under the prefix)")

    add(
        "--price-per-hour",
        type=_usd,
        metavar="USD",
        help="of one instance, where breedlab does not know it",
    )

    add = parser.add_argument_group("serverless").add_argument
    add("--memory-mb", type=int, choices=range(1024, 7168, 1024), help="default: 4096")
    add("--max-concurrency", type=_count, metavar="N", help="requests at once (default: 5)")
    add(
        "--provisioned-concurrency",
        type=_count,
        metavar="N",
        help="kept warm, and billed (default: none)",
    )

    add = parser.add_argument_group("asynchronous").add_argument
    add("--async-output", metavar="S3", help="where answers go (default: under the prefix)")
    add(
        "--async-concurrency",
        type=_count,
        metavar="N",
        help="requests at once to an instance (default: 4)",
    )
    add("--success-topic", metavar="ARN", help="an SNS topic")
    add("--error-topic", metavar="ARN", help="an SNS topic")

    add = parser.add_argument_group("update in place").add_argument
    add("--traffic", choices=("all-at-once", "canary", "linear"), help="default: all-at-once")
    add(
        "--step-percent",
        type=_percent,
        metavar="PERCENT",
        help=f"of the canary or a step (default: {_STEP_PERCENT})",
    )
    add(
        "--step-wait", type=_seconds, metavar="S", help=f"between the steps (default: {_STEP_WAIT})"
    )
    add(
        "--keep-old",
        type=_seconds,
        default=0,
        metavar="S",
        help="keep the old instances for a while (default: 0)",
    )
    add(
        "--alarm",
        action="append",
        default=[],
        metavar="NAME",
        help="a CloudWatch alarm that makes AWS go back",
    )
    return parser


def _instances(words: argparse.Namespace) -> tuple[int, int]:
    least = 1 if words.min_instances is None else words.min_instances
    return least, max(least, 1) if words.max_instances is None else words.max_instances


def _idle(words: argparse.Namespace, names: tuple[str, ...], needed: str) -> list[str]:
    """The flags among these that were given and would do nothing."""
    return [
        f"--{n.replace('_', '-')} needs {needed}" for n in names if getattr(words, n) is not None
    ]


def _image_problems(words: argparse.Namespace) -> list[str]:
    if words.image == "aws":
        return []
    found = _ECR.match(words.image)
    if not found:
        return [
            f"--image: got {words.image!r}; expected aws, or"
            " ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG"
        ]
    if words.region and found["region"] != words.region:
        return [
            f"--image: is in {found['region']}; SageMaker takes one of the endpoint's own region,"
            f" {words.region}"
        ]
    if "training" in found["name"]:
        return [
            f"--image: {words.image} trains and cannot serve; take --image aws, or one made from"
            " docker/Dockerfile"
        ]
    return []


def _registry_problems(words: argparse.Namespace) -> list[str]:
    from breedlab.backends.sagemaker.endpoints.registry import is_group, is_reference

    found = []
    if words.register is not None and not is_group(words.register):
        found.append(
            f"--register: got {words.register!r}; expected up to 63 letters, digits and '-'"
        )
    if words.approval is not None and words.register is None:
        found.append("--approval needs --register GROUP")
    if words.from_registry is None:
        return found
    if not is_reference(words.from_registry):
        found.append(
            f"--from-registry: got {words.from_registry!r}; expected GROUP, GROUP:VERSION or the"
            " ARN of a model package"
        )
    if words.register is not None:
        found.append("--from-registry and --register do not go together")
    if words.dry_run:
        found.append(
            "--dry-run asks nobody, and so does not know what the registry has; give it MODEL|RUN"
        )
    if words.image != "aws" or words.vendor:
        found.append(
            "--image and --vendor are those with which the version was registered; leave them out"
        )
    return found


def _name_in_registry(reference: str) -> str:
    """The group's name of `GROUP[:VERSION]` or of a model package's ARN."""
    return default_name((reference.split("/")[1:2] or [reference])[0].partition(":")[0])


def _check_name(parser: argparse.ArgumentParser, flag: str, name: str) -> None:
    if not re.fullmatch(NAME, name) or len(name) > LONGEST:
        parser.error(
            f"{flag}: got {name!r}; expected up to {LONGEST} letters, digits and '-', no '-' at the"
            " ends"
        )


def _name_of(model: Path) -> str:
    """The experiment's name of a run, as an endpoint may be called."""
    return default_name(str(_config_of(model).get("name", "breedlab")))


def _config_of(model: Path | None) -> dict[str, Any]:
    """The config of a run; nothing where a bare archive is given, or one of the registry."""
    if model is None:
        return {}
    config = model / "config.yaml"
    if not config.is_file():
        return {}
    import yaml

    try:
        tree = yaml.safe_load(config.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}  # it only proposes what flags say, too; the archive is whole without it
    return tree if isinstance(tree, dict) else {}


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"got {text!r}; expected KEY=VALUE")
    return key, value


def _number(text: str, low: int, high: int | None, words: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if number < low or (high is not None and number > high):
        raise argparse.ArgumentTypeError(f"got {text!r}; expected {words}")
    return number


def _count(text: str) -> Any:
    return _number(text, 1, None, "a whole number of at least 1")


def _usd(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < 10_000:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected USD an hour, such as 0.23")
    return price


def _seconds(text: str) -> Any:
    return _number(text, 0, None, "a whole number of seconds")


def _percent(text: str) -> Any:
    return _number(text, 1, 100, "1 to 100")
