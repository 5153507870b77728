"""`breedlab account`: what an AWS account has to allow and hold for an experiment."""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import TYPE_CHECKING, Any

from breedlab.cli.parser import Parser
from breedlab.commands import command
from breedlab.errors import ConfigError

if TYPE_CHECKING:
    from breedlab.backends.sagemaker.policies import Account
    from breedlab.config import Config

_DOCUMENTS = ("user", "execution_role", "execution_role_trust", "lambda", "lambda_trust")
_ACCOUNT = re.compile(r"arn:(aws[\w-]*):iam::(\d{12}):role/.+")


def main(argv: list[str]) -> int:
    """Print policies or a template for a config.

    Raises:
        BreedlabError: With one message for the user.
    """
    parser = command_parser()
    args, overrides = parser.parse_known_args(argv)
    if flags := [word for word in overrides if word.startswith("-")]:
        parser.error(f"unrecognized arguments: {' '.join(flags)}")
    if unknown := [word for word in overrides if "=" not in word]:
        parser.error(
            f"{unknown[0]!r} is not a valid argument; expected PATH=VALUE, as in"
            f" {command('launch')}"
        )
    from breedlab.backends.sagemaker.permissions import recorded
    from breedlab.backends.sagemaker.session import require_extra

    require_extra()
    known = list(recorded())
    commands = args.commands.split(",") if args.commands else known
    if wrong := sorted(set(commands) - set(known)):
        raise ConfigError(
            f"--commands: got {', '.join(map(repr, wrong))}; expected some of {', '.join(known)}"
        )
    if args.account and not re.fullmatch(r"\d{12}", args.account):
        raise ConfigError(
            f"--account: got {args.account!r}; expected the 12 digits of an AWS account"
        )
    if args.what == "bootstrap" and not args.dry_run:
        raise ConfigError(
            "account bootstrap: breedlab creates no roles; print the template with --dry-run, read"
            f" it, and create it:\n  {command('account', 'bootstrap --dry-run')} > breedlab.json\n "
            " aws cloudformation deploy --stack-name breedlab --template-file breedlab.json"
            " --capabilities CAPABILITY_NAMED_IAM"
        )
    config = _config(overrides)
    account = _account(config, args)
    tree = (
        _template(config, account, commands)
        if args.what == "bootstrap"
        else _policies(account, commands)
    )
    if args.only:
        tree = tree[args.only]
    print(json.dumps(tree, indent=2))
    return 0


def command_parser() -> Parser:
    """Return what reads the command's args."""
    parser = Parser(
        "account",
        "policies [flags] [PATH=VALUE ...]",
        "bootstrap --dry-run [flags] [PATH=VALUE ...]",
        description=(
            "Print the least IAM policies for a config, or a CloudFormation template with the role,"
            " the bucket and the policies. Nothing is sent."
        ),
        examples=(
            "policies experiment=resnet34_hpo backend.bucket=my-bucket backend.role=MyRole",
            "bootstrap --dry-run > breedlab.json",
        ),
    )
    add = parser.add_argument
    add("what", choices=("policies", "bootstrap"))
    add(
        "--dry-run",
        action="store_true",
        help="bootstrap: print the template; breedlab itself creates no roles",
    )
    add(
        "--account", metavar="ID", help="12 digits (default: that of backend.role, if it is an ARN)"
    )
    add(
        "--endpoint",
        metavar="NAME",
        help="the endpoint that the Lambda asks (default: the experiment's)",
    )
    for name, what in (("read", "has images for batch jobs"), ("write", "gets their answers")):
        add(
            f"--{name}",
            action="append",
            default=[],
            metavar="S3",
            type=_address,
            help=f"an address that {what}",
        )
    add(
        "--commands",
        metavar="LIST",
        help="what the user runs, such as launch,jobs (default: every command)",
    )
    add(
        "--only",
        choices=_DOCUMENTS,
        help="policies: print one document alone, for aws iam create-policy",
    )
    return parser


def _address(text: str) -> str:
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?", text):
        raise argparse.ArgumentTypeError(
            f"got {text!r}; expected an address such as s3://my-bucket/images"
        )
    return text


def _config(overrides: list[str]) -> Config:
    from breedlab.config import validate
    from breedlab.config.compose import load

    given = [word for word in overrides if word.partition("=")[0] != "backend"]
    named = any(word.startswith("experiment=") for word in given)
    # As a dry run: neither images nor an account are needed to tell what would have to be allowed.
    return validate(
        load(
            [
                *([] if named else ["experiment=resnet34"]),
                *given,
                "backend=sagemaker",
                "dry_run=true",
            ]
        )
    )


def _account(config: Config, args: argparse.Namespace) -> Account:
    from breedlab.backends.sagemaker.endpoints.endpoint import default_name, inference_image
    from breedlab.backends.sagemaker.images import training_image
    from breedlab.backends.sagemaker.jobs.job_logging import tracked
    from breedlab.backends.sagemaker.policies import Account
    from breedlab.backends.sagemaker.session import BUCKET, REGION, planned, split_uri

    config = tracked(config)
    backend, place = config.backend, planned(config.backend)
    region = "*" if place.region == REGION else place.region
    partition, its_account = "aws", None
    if match := _ACCOUNT.fullmatch(place.role):
        partition, its_account = match.groups()
    elif region.startswith(("cn-", "us-gov-")):
        partition = "aws-cn" if region.startswith("cn-") else "aws-us-gov"
    owner = args.account or its_account or "*"
    name = (backend.role or "*").rpartition("/")[2]
    role = place.role if its_account else f"arn:{partition}:iam::{owner}:role/{name}"
    if place.bucket == BUCKET:
        _note("backend.bucket has no value, so that <bucket> stands in its place")
    for what, value in (
        ("the account (--account ID)", owner),
        ("the region (backend.region)", region),
        ("the role", name),
    ):
        if value == "*":
            _note(f"{what} is not known, so that * stands in its place")
    root = config.data.root
    return Account(
        partition=partition,
        region=region,
        number=owner,
        role=role,
        bucket=place.bucket,
        prefix=place.prefix,
        endpoint=args.endpoint or default_name(config.name),
        backend=backend,
        reads=tuple(map(split_uri, [*([root] if root.startswith("s3://") else []), *args.read])),
        writes=tuple(map(split_uri, args.write)),
        images=(
            training_image(backend, place.region),
            inference_image("ml.m5.large", place.region),
        ),
    )


def _policies(account: Account, commands: list[str]) -> dict[str, Any]:
    from breedlab.backends.sagemaker import policies

    return {
        "user": policies.user(account, commands),
        "execution_role": policies.execution_role(account),
        "execution_role_trust": policies.trust("sagemaker"),
        "lambda": policies.lambda_function(account),
        "lambda_trust": policies.trust("lambda"),
    }


def _template(config: Config, account: Account, commands: list[str]) -> dict[str, Any]:
    from breedlab.backends.sagemaker import bootstrap

    role = config.backend.role
    return bootstrap.template(
        account, commands, role and role.rpartition("/")[2], config.backend.bucket
    )


def _note(text: str) -> None:
    print(f"account: {text}", file=sys.stderr)
