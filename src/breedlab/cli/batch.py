"""`breedlab batch`: a model answers every image under an address."""

from __future__ import annotations

import argparse
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from breedlab.backends.offers import offered
from breedlab.backends.operations import BatchJobs, BatchRequest
from breedlab.cli.parser import Parser
from breedlab.cli.plugins import without_plugins
from breedlab.commands import command
from breedlab.config.endpoint import Endpoint
from breedlab.config.endpoint_compose import validated
from breedlab.config.plugins import load_plugins_of
from breedlab.console import console, warn
from breedlab.errors import BackendError, BreedlabError, ConfigError, DataError

_LONGEST = 40

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
"""The settings that a batch job and an endpoint have in common, besides tags and environment."""


def main(argv: list[str]) -> int:
    """Start a batch job and follow it, or follow or stop one.

    Raises:
        BreedlabError: With one message for the user.
    """
    try:
        return _main(argv)
    except (BackendError, ConfigError, DataError) as error:
        raise error.reworded(_as_flags(str(error))) from error


def _main(argv: list[str]) -> int:
    parser = command_parser()
    args = parser.parse_args(without_plugins(argv))
    if args.model is not None:
        load_plugins_of(Path(args.model))
    jobs = offered("batch jobs", lambda backend: backend.batch_jobs(), args.backend)
    if args.follow is not None or args.stop is not None:
        if args.model is not None:
            parser.error("--follow and --stop take no MODEL|RUN")
        return _follow_or_stop(args, jobs)
    return _start(args, jobs, _request(parser, args, jobs))


def _follow_or_stop(args: argparse.Namespace, jobs: BatchJobs) -> int:
    if args.stop is None:
        return _follow(jobs, args.follow, args.region)
    where = jobs.stop(args.stop, args.region)
    print(
        f"{args.stop}: is being stopped; {_to('follow', args.stop, where, args)} then removes its"
        " model"
    )
    return 0


def _start(args: argparse.Namespace, jobs: BatchJobs, request: BatchRequest) -> int:
    if args.dry_run:
        jobs.plan(request)
        return 0
    where, name = jobs.start(request), str(request.endpoint.name)
    if args.no_wait:
        print(f"started: {name}; follow it to its end: {_to('follow', name, where, args)}")
        return 0
    try:
        return _follow(jobs, name, request.endpoint.region)
    except KeyboardInterrupt:
        warn(
            f"{name} keeps running; {_to('follow', name, where, args)} follows it,"
            f" --stop {name} ends it"
        )
        return 130


def _follow(jobs: BatchJobs, name: str, where: str | None) -> int:
    target = jobs.follow(name, where)
    console.print(
        f"\nanswers are in {target}/: NAME.jpg is answered in NAME.jpg.out, JSON", markup=False
    )
    return 0


def _to(verb: str, name: str, where: str, args: argparse.Namespace) -> str:
    """Return the command that follows or stops a job."""
    backend = f" --backend {args.backend}" if args.backend else ""
    return f"{command('batch')} --{verb} {name}{where}{backend}"


def _request(parser: Parser, args: argparse.Namespace, jobs: BatchJobs) -> BatchRequest:
    if args.target is None:
        parser.error("expected MODEL|RUN, and two addresses: s3://BUCKET/IN s3://BUCKET/OUT")
    for problem in jobs.problems(args.source, args.target):
        parser.error(problem)
    source, target = (f"{address.rstrip('/')}/" for address in (args.source, args.target))
    if target.startswith(source) or source.startswith(target):
        parser.error(
            "IN and OUT are inside one another; the next job would read the answers as images"
        )
    args.model = Path(args.model)
    return BatchRequest(
        _endpoint(parser, args, jobs),
        args.model,
        args.source,
        args.target,
        args.instances,
        args.at_once,
        args.max_image_mb,
        _as_flags,
    )


def _endpoint(parser: Parser, args: argparse.Namespace, jobs: BatchJobs) -> Endpoint:
    """Return what a batch job and an endpoint have in common, checked."""
    for flag, pairs in (("tag", args.tag), ("env", args.env)):
        if wrong := [pair for pair in pairs if not re.match(r"[^=]+=", pair)]:
            parser.error(f"--{flag}: got {wrong[0]!r}; expected KEY=VALUE")
    section: dict[str, Any] = {name: getattr(args, name) for name in _SHARED}
    section["tags"] = dict(pair.split("=", 1) for pair in args.tag)
    section["environment"] = dict(pair.split("=", 1) for pair in args.env)
    if args.name is None:
        stem = jobs.name_of(args.model)[:_LONGEST].strip("-")
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
        description="Classify every image under IN with a SageMaker batch transform job.",
        examples=(
            "runs/latest s3://my-bucket/new s3://my-bucket/answers --role MyRole --dry-run",
            "--follow dogs-261129-031500",
        ),
        notes=f"{command('help', 'endpoint')} explains the flags that are settings of an endpoint.",
        plugins=True,
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
    add("--stop", metavar="NAME", help="stop a job; the answers so far are kept")
    add("--no-wait", action="store_true", help="start the job and print how to follow it later")
    add(
        "--dry-run",
        action="store_true",
        help="print the requests; needs no credentials and no network",
    )
    add("--backend", metavar="NAME", help="the backend that runs the job (default: sagemaker)")
    add("--name", help="the job's name (default: the experiment's, with the time)")
    add("--instance-type", metavar="TYPE", default="ml.m5.large", help="(default: ml.m5.large)")
    add("--instances", type=_count, default=1, metavar="N", help="(default: 1)")
    add("--at-once", type=_count, default=1, metavar="N", help="concurrent requests per instance")
    add(
        "--max-image-mb",
        type=int,
        choices=range(1, 101),
        default=6,
        metavar="MB",
        help="the largest image, 1 to 100 MB (default: 6)",
    )
    add("--price-per-hour", type=_usd, metavar="USD", help="an instance's price, if unknown")
    for name in ("region", "role", "bucket", "prefix", "kms-key"):
        add(f"--{name}", help=f"as endpoint.{name.replace('-', '_')} of {command('deploy')}")
    for name in ("tag", "env"):
        add(f"--{name}", action="append", default=[], metavar="KEY=VALUE", help="can be repeated")
    add(
        "--image",
        default="aws",
        metavar="aws|URI",
        help="AWS's PyTorch image (the default), or one built from docker/Dockerfile",
    )
    add(
        "--vendor",
        action="store_true",
        help="send packages along as wheels, so that none come from a package index",
    )
    add(
        "--workers",
        type=_count,
        default=1,
        help="worker processes per instance (default: 1)",
    )
    add(
        "--inference-env",
        metavar="DIR",
        help="AWS's inference stack on this machine (default: .venv-inference)",
    )
    return parser
