"""`breedlab batch`: a model answers every image under an address in S3."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from breedlab.cli import deploy as deploying
from breedlab.cli import deploy_flags
from breedlab.commands import command
from breedlab.console import console, note, stage, warn
from breedlab.errors import BackendError

if TYPE_CHECKING:
    import boto3

    from breedlab.backends.sagemaker.endpoints.transform import Batch
    from breedlab.backends.sagemaker.preflight import Need

_ADDRESS = r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[^/].*"
_LONGEST = 40
_SET_BY = {
    **deploying._SET_BY,
    "S3Uri": "IN",
    "S3OutputPath": "OUT",
    "InstanceCount": "--instances",
    "MaxConcurrentTransforms": "--at-once",
    "MaxPayloadInMB": "--max-image-mb",
    "TransformJobName": "--name",
    "ModelName": "--name",
}


def main(argv: list[str]) -> int:
    """Start a batch job and follow it, or follow or stop one.

    Raises:
        BreedlabError: With one message for the user.
    """
    from breedlab.backends.sagemaker import session
    from breedlab.backends.sagemaker.endpoints import transform

    args = _parse(argv)
    session.require_extra()
    if args.follow is None and args.stop is None:
        return _start(args)
    with deploying._flags_named():
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


def _start(args: argparse.Namespace) -> int:
    from breedlab.backends.sagemaker import checks, preflight, session
    from breedlab.backends.sagemaker.endpoints import archive_check, transform
    from breedlab.backends.sagemaker.prices import Instance, price_per_hour, quoted

    photo = deploying._photo(args)
    with deploying._model(args.model, None if args.dry_run else args) as (folder, archive):
        archive_check.lint(folder, imports=False)
        account, place, found = (
            (None, None, []) if args.dry_run else session.inspect(deploy_flags.account_of(args))
        )
        place = place or session.planned(deploy_flags.account_of(args))
        deployment = deploying._described(args, place, folder, archive)
        own = tuple(tag for tag in deployment.own_tags if tag[0] != "breedlab:endpoint")
        batch = transform.Batch(
            replace(deployment, own_tags=own),
            args.source,
            args.target,
            args.instances,
            args.at_once,
            args.max_image_mb,
        )
        machine = Instance(deployment.instance_type, args.price_per_hour)
        price, source = (
            quoted(account, machine, "Batch Transform")
            if account
            else price_per_hour(machine, place.region)
        )
        sent = transform.requests(batch)
        found += [
            p for n, r in enumerate(sent) for p in checks.model_problems(r, _SET_BY, sent[:n])
        ]
        asked = preflight.Findings()
        if account is not None:
            asked = preflight.look(account, place.role, [_need(batch)], "--role")
            bucket = session.bucket_problems(account, "IN", session.split_uri(args.source)[0])
            found += [*asked.problems, *(bucket or transform.input_problems(account, batch))]
        deploying._refuse(found)
        cost = "unknown" if price is None else f"${price * args.instances:,.3f}"
        costs = f"{cost} an hour until every image is answered ({deploying._as_flags(source)})"
        if account is None:
            print(f"batch job {batch.name} (dry run: nothing is sent)\n")
            print(f"costs    {costs}\n")
            for number, request in enumerate(sent, 1):
                deploying._print_request(number, request)
            return 0
        if price is None:
            raise BackendError(
                f"--price-per-hour: has no value, and {deploying._as_flags(source)}; nothing was"
                " sent"
            )
        asked.tell_unchecked()
        deploying._answer_here(folder, photo, args)
        stage("Batch job")
        note(f"{batch.name} costs {costs}")
        from breedlab.backends.sagemaker.upload import upload_archive

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


def _parse(argv: list[str]) -> argparse.Namespace:
    """Return the args, with those of a deployment that a batch job has no use for at their
    defaults."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=command("batch"),
        usage=(
            f"{command('batch')} MODEL|RUN s3://BUCKET/IN s3://BUCKET/OUT [flags]\n"
            f"       {command('batch')} --follow NAME [--region REGION]\n"
            f"       {command('batch')} --stop NAME [--region REGION]"
        ),
        description=(
            "Have a model answer every image under IN, by a batch transform job of Amazon"
            " SageMaker."
        ),
        epilog=(
            f"example: {command('batch')} runs/latest s3://my-bucket/new s3://my-bucket/answers"
            " --role MyRole"
        ),
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
    add("--instances", type=deploy_flags._count, default=1, metavar="N", help="default: 1")
    add(
        "--at-once",
        type=deploy_flags._count,
        default=1,
        metavar="N",
        help="requests at a time to a machine (1)",
    )
    add(
        "--max-image-mb",
        type=int,
        choices=range(1, 101),
        default=6,
        metavar="MB",
        help="1 to 100 (default: 6)",
    )
    add(
        "--price-per-hour",
        type=deploy_flags._usd,
        metavar="USD",
        help="of one instance, where it is not known",
    )
    for name in ("region", "role", "bucket", "prefix", "kms-key"):
        add(f"--{name}", help=f"as for {command('deploy')}")
    add(
        "--tag",
        action="append",
        default=[],
        type=deploy_flags._pair,
        metavar="KEY=VALUE",
        help="more than once",
    )
    add(
        "--env",
        action="append",
        default=[],
        type=deploy_flags._pair,
        metavar="KEY=VALUE",
        help="more than once",
    )
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
        type=deploy_flags._count,
        default=1,
        help="processes that answer, on each machine (default: 1)",
    )
    add(
        "--inference-env",
        metavar="DIR",
        help="AWS's inference stack on this machine (default: .venv-inference)",
    )
    args = parser.parse_args(argv)
    if args.follow is not None or args.stop is not None:
        if args.model is not None:
            parser.error("--follow and --stop take no MODEL|RUN")
        return args
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
    return _as_deployment(parser, args)


def _as_deployment(parser: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.Namespace:
    """Return the args as `deploy` parses them, for what both have in common."""
    rest = deploy_flags._parser().parse_args([args.model])
    merged = argparse.Namespace(
        **{**vars(rest), **{k: v for k, v in vars(args).items() if k != "model"}}
    )
    if args.name is None:
        stem = deploy_flags._name_of(merged.model)[:_LONGEST].strip("-")
        merged.name = f"{stem}-{datetime.now():%y%m%d-%H%M%S}"
    deploy_flags._check_name(parser, "--name", merged.name)
    if found := deploy_flags.problems(merged):
        parser.error("\n  ".join(found))
    return merged
