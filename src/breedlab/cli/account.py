"""`breedlab account`: what a backend's account has to allow and hold for an experiment."""

from __future__ import annotations

import argparse
import json

from breedlab.backends.offers import not_offered, offering
from breedlab.backends.operations import PolicyRequest
from breedlab.cli.parser import Parser
from breedlab.commands import command
from breedlab.config import Config
from breedlab.config.yaml_folders import with_search_path
from breedlab.errors import UsageError
from breedlab.registry import BACKENDS

_OPERATION = "policies of an account"


def main(argv: list[str]) -> int:
    """Print policies or a template for a config.

    Raises:
        BreedlabError: With one message for the user.
    """
    parser = command_parser()
    args, overrides = parser.parse_known_args(with_search_path(argv))
    if flags := [word for word in overrides if word.startswith("-")]:
        parser.error(f"unrecognized arguments: {' '.join(flags)}")
    if unknown := [word for word in overrides if "=" not in word]:
        parser.error(
            f"{unknown[0]!r} is not a valid argument; expected PATH=VALUE, as in"
            f" {command('launch')}"
        )
    config = _config(overrides)
    account = BACKENDS.chosen(config.backend).build().account()
    if account is None:
        raise not_offered(config.backend.name, _OPERATION, lambda each: each.account())
    if args.what == "bootstrap" and not args.dry_run:
        raise UsageError(
            "account bootstrap: breedlab creates no roles; print the template with --dry-run, read"
            f" it, and create it:\n  {account.how_to_create()}"
        )
    request = _request(config, args)
    tree = account.template(request) if args.what == "bootstrap" else account.policies(request)
    if args.only and args.only not in tree:
        raise UsageError(f"--only: got {args.only!r}; expected one of {', '.join(tree)}")
    print(json.dumps(tree[args.only] if args.only else tree, indent=2))
    return 0


def command_parser() -> Parser:
    """Return what reads the command's args."""
    parser = Parser(
        "account",
        "policies [flags] [backend=NAME] [PATH=VALUE ...]",
        "bootstrap --dry-run [flags] [backend=NAME] [PATH=VALUE ...]",
        description=(
            "Print least-privilege IAM policies for a config, or a CloudFormation template with the"
            " role, the bucket, and the policies. Nothing is sent."
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
        help="the endpoint that the Lambda function calls (default: the experiment's)",
    )
    purposes = {"read": "holds the images of batch jobs", "write": "receives their answers"}
    for name, what in purposes.items():
        add(
            f"--{name}",
            action="append",
            default=[],
            metavar="S3",
            help=f"an address that {what}",
        )
    add(
        "--commands",
        metavar="LIST",
        help="what the user runs, such as launch,jobs (default: every command)",
    )
    add(
        "--only",
        metavar="DOCUMENT",
        help="policies: print only this document, for aws iam create-policy",
    )
    return parser


def _request(config: Config, args: argparse.Namespace) -> PolicyRequest:
    return PolicyRequest(
        config=config,
        commands=tuple(args.commands.split(",")) if args.commands else (),
        account=args.account,
        endpoint=args.endpoint,
        reads=tuple(args.read),
        writes=tuple(args.write),
    )


def _config(overrides: list[str]) -> Config:
    from breedlab.config import validate
    from breedlab.config.compose import load

    words = list(overrides)
    if not any(word.startswith("experiment=") for word in words):
        words.insert(0, "experiment=resnet34")
    if not any(word.startswith("backend=") for word in words):
        name = next(iter(offering(lambda backend: backend.account())))
        words.append(f"backend={name}")
    # As a dry run: neither images nor an account are needed to know what would have to be allowed.
    return validate(load([*words, "dry_run=true"]))
