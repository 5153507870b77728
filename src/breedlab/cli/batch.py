"""`breedlab batch`: a model answers every image under an address in S3."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breedlab.cli.parser import Parser
from breedlab.commands import command
from breedlab.config.endpoint import Endpoint
from breedlab.config.endpoint_compose import validated
from breedlab.console import console, note, stage, warn
from breedlab.errors import BackendError, BreedlabError, ConfigError, DataError

if TYPE_CHECKING:
    import boto3

    from breedlab.backends.sagemaker.endpoints.transform import Batch
    from breedlab.backends.sagemaker.preflight import Need

_ADDRESS = r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[^/].*"
_LONGEST = 40
_FLAGS = {
    "S3Uri": "IN",
    "S3OutputPath": "OUT",
    "InstanceCount": "--instances",
    "MaxConcurrentTransforms": "--at-once",
    "MaxPayloadInMB": "--max-image-mb",
    "TransformJobName": "--name",
    "ModelName": "--name",
}
"""Which word a field of a batch job's request comes from, beside those of an endpoint's."""

_SHARED = (
    "name",
    "instance_type",
    "price_per_hour",
    "region",
    "role",
    "bucket",
    "prefix",
    "kms_key",
    "image",
    "vendor",
    "workers",
    "inference_env",
)
"""The settings that a batch job and an endpoint have in common, beside tags and environment."""


def main(argv: list[str]) -> int:
    """Start a batch job and follow it, or follow or stop one.

    Raises:
        BreedlabError: With one message for the user.
    """
    try:
        return _main(argv)
    except (BackendError, ConfigError, DataError) as error:
        raise type(error)(_as_flags(str(error))) from error


def _main(argv: list[str]) -> int:
    args, endpoint = _parse(argv)
    from breedlab.backends.sagemaker import session
    from breedlab.backends.sagemaker.endpoints import transform

    session.require_extra()
    if endpoint is not None:
        return _start(args, endpoint)
    account = session.connect(args.region, "--region")
    if args.stop is not None:
        transform.stop(account, args.stop)
        region = session.region_flag(account.region_name)
        print(
            f"{args.stop}: is being stopped; {command('batch')} --follow {args.stop}{region} then"
            " removes its model"
        )
        return 0
    return _follow(account, args.follow)


def _start(args: argparse.Namespace, endpoint: Endpoint) -> int:
    from breedlab.backends.sagemaker import preflight, session
    from breedlab.backends.sagemaker.endpoints import archive_check, transform
    from breedlab.backends.sagemaker.endpoints.before_sending import (
        SET_BY,
        answer_here,
        print_request,
        refuse,
        request_problems,
    )
    from breedlab.backends.sagemaker.endpoints.deployment import (
        account_of,
        deciding_image,
        described,
        opened_model,
        vendored_for,
    )
    from breedlab.backends.sagemaker.prices import Instance, price_per_hour, quoted
    from breedlab.backends.sagemaker.upload import upload_archive

    image = deciding_image(endpoint, args.model)
    vendored = None if args.dry_run else vendored_for(endpoint)
    with opened_model(args.model, vendored) as (folder, archive):
        archive_check.lint(folder, imports=False)
        wanted = account_of(endpoint, args.model)
        account, place, found = (None, None, []) if args.dry_run else session.inspect(wanted)
        place = place or session.planned(wanted)
        deployment = described(endpoint, args.model, place, folder, archive)
        own = tuple(tag for tag in deployment.own_tags if tag[0] != "breedlab:endpoint")
        batch = transform.Batch(
            replace(deployment, own_tags=own),
            args.source,
            args.target,
            args.instances,
            args.at_once,
            args.max_image_mb,
        )
        machine = Instance(deployment.instance_type, endpoint.price_per_hour)
        price, source = (
            quoted(account, machine, "Batch Transform")
            if account
            else price_per_hour(machine, place.region)
        )
        sent = transform.requests(batch)
        found += request_problems(sent, {**SET_BY, **_FLAGS})
        asked = preflight.Findings()
        if account is not None:
            asked = preflight.look(account, place.role, [_need(batch)], "--role")
            bucket = session.bucket_problems(account, "IN", session.split_uri(args.source)[0])
            found += [*asked.problems, *(bucket or transform.input_problems(account, batch))]
        refuse(found, "batch")
        cost = "unknown" if price is None else f"${price * args.instances:,.3f}"
        costs = f"{cost} an hour until every image is answered ({_as_flags(source)})"
        if account is None:
            print(f"batch job {batch.name} (dry run: nothing is sent)\n")
            print(f"costs    {costs}\n")
            for number, request in enumerate(sent, 1):
                print_request(number, request)
            return 0
        if price is None:
            raise BackendError(f"--price-per-hour: has no value, and {source}; nothing was sent")
        asked.tell_unchecked()
        answer_here(folder, image, endpoint.inference_env)
        stage("Batch job")
        note(f"{batch.name} costs {costs}")
        upload_archive(account, archive, deployment.model, deployment.kms_key)
        transform.start(account, batch)
    region = session.region_flag(account.region_name)
    if args.no_wait:
        print(
            f"started: {batch.name}; follow it to its end: {command('batch')} --follow"
            f" {batch.name}{region}"
        )
        return 0
    try:
        return _follow(account, batch.name)
    except KeyboardInterrupt:
        warn(
            f"AWS goes on with {batch.name}; {command('batch')} --follow {batch.name}{region} comes"
            f" back to it, --stop {batch.name} ends it"
        )
        return 130


def _follow(account: boto3.Session, name: str) -> int:
    from breedlab.backends.sagemaker.endpoints import transform

    described = transform.follow(account, name)
    target = described["TransformOutput"]["S3OutputPath"].rstrip("/")
    console.print(
        f"\nanswers are in {target}/: NAME.jpg is answered in NAME.jpg.out, JSON", markup=False
    )
    return 0


def _need(batch: Batch) -> Need:
    from breedlab.backends.sagemaker.preflight import Need

    machine = batch.deployment.instance_type
    wanted = f"{batch.instances} x {machine}"
    return Need(f"{machine} for transform job usage", batch.instances, "--instance-type", wanted)


def _parse(argv: list[str]) -> tuple[argparse.Namespace, Endpoint | None]:
    """Return the args, and of a job that is to be started what it has in common with an
    endpoint."""
    parser = command_parser()
    args = parser.parse_args(argv)
    if args.follow is not None or args.stop is not None:
        if args.model is not None:
            parser.error("--follow and --stop take no MODEL|RUN")
        return args, None
    if args.target is None:
        parser.error("expected MODEL|RUN, and two addresses: s3://BUCKET/IN s3://BUCKET/OUT")
    for name, address in (("IN", args.source), ("OUT", args.target)):
        if not re.fullmatch(_ADDRESS, address):
            parser.error(
                f"{name}: got {address!r}; expected an address such as s3://my-bucket/images"
            )
    source, target = (f"{address.rstrip('/')}/" for address in (args.source, args.target))
    if target.startswith(source) or source.startswith(target):
        parser.error(
            "IN and OUT lie in one another; the next job would take the answers for images"
        )
    args.model = Path(args.model)
    return args, _endpoint(parser, args)


def _endpoint(parser: Parser, args: argparse.Namespace) -> Endpoint:
    """Return what a batch job and an endpoint have in common, checked."""
    from breedlab.backends.sagemaker.endpoints.deployment import name_of

    for flag, pairs in (("tag", args.tag), ("env", args.env)):
        if wrong := [pair for pair in pairs if not re.match(r"[^=]+=", pair)]:
            parser.error(f"--{flag}: got {wrong[0]!r}; expected KEY=VALUE")
    section: dict[str, Any] = {name: getattr(args, name) for name in _SHARED}
    section["tags"] = dict(pair.split("=", 1) for pair in args.tag)
    section["environment"] = dict(pair.split("=", 1) for pair in args.env)
    if args.name is None:
        stem = name_of(Endpoint(), args.model)[:_LONGEST].strip("-")
        section["name"] = f"{stem}-{datetime.now():%y%m%d-%H%M%S}"
    try:
        return validated({"endpoint": section}).endpoint
    except BreedlabError as error:
        parser.error("\n  ".join(_as_flags(str(error)).splitlines()[1:]).strip())


def _as_flags(text: str) -> str:
    """Return what is said of settings, said of this command's flags."""
    text = text.replace("endpoint.environment", "--env").replace("endpoint.tags", "--tag")
    flag = r"\b(?:backend|endpoint)\.(\w+)"
    text = re.sub(f"{flag}=true", lambda m: f"--{m[1].replace('_', '-')}", text)
    text = re.sub(f"{flag}=", lambda m: f"--{m[1].replace('_', '-')} ", text)
    return re.sub(flag, lambda m: f"--{m[1].replace('_', '-')}", text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a whole number of at least 1")
    return int(text)


def _usd(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"got {text!r}; expected USD an hour, such as 0.23"
        ) from None


def command_parser() -> Parser:
    """Return what reads the command's args."""
    parser = Parser(
        "batch",
        "MODEL|RUN s3://BUCKET/IN s3://BUCKET/OUT [flags]",
        "--follow NAME [--region REGION]",
        "--stop NAME [--region REGION]",
        description="Have a model answer every image under IN, by a batch job of Amazon SageMaker.",
        examples=(
            "runs/latest s3://my-bucket/new s3://my-bucket/answers --role MyRole --dry-run",
            "--follow dogs-261129-031500",
        ),
        notes=f"{command('help', 'endpoint')} explains the flags that are settings of an endpoint.",
    )
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL|RUN", help="a model.tar.gz, or a run directory")
    add("source", nargs="?", metavar="IN", help="where the images are")
    add(
        "target",
        nargs="?",
        metavar="OUT",
        help="where the answers go: IN/a.jpg is answered in OUT/a.jpg.out",
    )
    add("--follow", metavar="NAME", help="wait for a job's end, and remove its model")
    add("--stop", metavar="NAME", help="stop a job; what is answered stays")
    add("--no-wait", action="store_true", help="start it and say how to come back to it")
    add(
        "--dry-run",
        action="store_true",
        help="print the requests; needs no credentials and no network",
    )
    add("--name", help="the job's (default: the experiment's, with the time)")
    add("--instance-type", metavar="TYPE", default="ml.m5.large", help="default: ml.m5.large")
    add("--instances", type=_count, default=1, metavar="N", help="default: 1")
    add(
        "--at-once", type=_count, default=1, metavar="N", help="requests at a time to a machine (1)"
    )
    add(
        "--max-image-mb",
        type=int,
        choices=range(1, 101),
        default=6,
        metavar="MB",
        help="1 to 100 (default: 6)",
    )
    add("--price-per-hour", type=_usd, metavar="USD", help="of one instance, where it is not known")
    for name in ("region", "role", "bucket", "prefix", "kms-key"):
        add(f"--{name}", help=f"as endpoint.{name.replace('-', '_')} of {command('deploy')}")
    for name in ("tag", "env"):
        add(f"--{name}", action="append", default=[], metavar="KEY=VALUE", help="more than once")
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
        "--workers",
        type=_count,
        default=1,
        help="processes that answer, on each machine (default: 1)",
    )
    add(
        "--inference-env",
        metavar="DIR",
        help="AWS's inference stack on this machine (default: .venv-inference)",
    )
    return parser
