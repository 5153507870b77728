"""`breedlab deploy`: a model behind an endpoint on Amazon SageMaker."""

from __future__ import annotations

import argparse
import re
import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from breedlab.backends.offers import offered
from breedlab.backends.operations import Endpoints
from breedlab.cli.deploy_flags import add_old_flags, overrides_of
from breedlab.cli.parser import Parser
from breedlab.cli.plugins import without_plugins
from breedlab.commands import command
from breedlab.config.endpoint import LONGEST_NAME, NAME, Deploying, deploy_schema
from breedlab.config.endpoint_compose import load_endpoint
from breedlab.config.plugins import load_plugins_of
from breedlab.config.setting import settings
from breedlab.config.yaml_folders import with_search_path
from breedlab.console import warn
from breedlab.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SETTINGS = ("endpoint.", "endpoint=", "dry_run=", "hydra.searchpath=")
_COLUMN, _WIDTH = 34, 100


def main(argv: list[str]) -> int:
    """Create, update or delete an endpoint; 0 once it has answered an image.

    Raises:
        BreedlabError: With one message for the user.
    """
    words = with_search_path(without_plugins(argv))  # first, since help lists what plugins add
    parser = command_parser()
    args, overrides = _parsed(parser, words)
    flags = overrides_of(args, parser)
    if flags:
        typed = shlex.join([*_actions(args), *overrides, *flags])
        warn(f"the next release takes settings in place of these flags: {command('deploy', typed)}")
    if args.dry_run:
        overrides.append("dry_run=true")
    if args.region is not None:
        overrides.append(f"endpoint.region={args.region}")
    if args.model is not None:
        load_plugins_of(args.model)
    deploying = load_endpoint([*overrides, *flags])
    endpoints = offered("endpoints to deploy to", lambda each: each.endpoints(), args.backend)
    _refuse_what_does_not_go_together(parser, args, deploying, endpoints)
    _carry_out(args, deploying, endpoints)
    return 0


def _carry_out(args: argparse.Namespace, deploying: Deploying, endpoints: Endpoints) -> None:
    endpoint, dry_run = deploying.endpoint, deploying.dry_run
    if args.delete is not None:
        endpoints.delete(args.delete, endpoint.region)
    elif args.list:
        endpoints.show_all(endpoint.region)
    elif args.register is not None:
        approval = args.approval or "pending"
        endpoints.register(endpoint, args.model, args.register, approval, dry_run=dry_run)
    elif args.from_registry is not None:
        endpoints.deploy_version(endpoint, args.from_registry)
    elif dry_run:
        endpoints.plan(endpoint, args.model)
    else:
        endpoints.deploy(endpoint, args.model)


def command_parser() -> Parser:
    """Return what reads the command's args."""
    parser = Parser(
        "deploy",
        "MODEL|RUN [endpoint=serverless|async] [endpoint.SETTING=VALUE ...] [--dry-run]",
        "MODEL|RUN --register GROUP [--approval WHAT] [endpoint.SETTING=VALUE ...]",
        "--from-registry GROUP[:VERSION] [endpoint.SETTING=VALUE ...]",
        "--list [--region REGION]",
        "--delete NAME [--region REGION]",
        description="Put a model behind an endpoint on Amazon SageMaker, or update one.",
        examples=(
            "runs/latest --dry-run",
            "runs/latest endpoint.role=MyRole endpoint.bucket=my-bucket endpoint.max_instances=4",
            "runs/latest endpoint=serverless endpoint.name=dogs",
            "--delete dogs",
        ),
        notes="\n".join(_setting_lines()),
        paths=[setting.path for setting in settings(deploy_schema())],
        plugins=True,
    )
    add = parser.add_argument
    add(
        "model",
        nargs="?",
        type=Path,
        metavar="MODEL|RUN",
        help="a model.tar.gz, or a run directory",
    )
    add(
        "--dry-run",
        action="store_true",
        help="print the requests; needs no credentials and no network (dry_run=true)",
    )
    add("--backend", metavar="NAME", help="where the endpoint is (default: sagemaker)")
    add("--region", help="the AWS region (endpoint.region)")
    add(
        "--list",
        action="store_true",
        help="list the endpoints that breedlab created, with age and price",
    )
    add(
        "--delete",
        metavar="NAME",
        help="delete an endpoint, its configs, and its models; files in S3 stay",
    )
    add(
        "--register",
        metavar="GROUP",
        help="register a version in this group of the model registry; no endpoint",
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
    add_old_flags(parser)
    return parser


def _setting_lines() -> Iterator[str]:
    """Yield the settings of an endpoint, as the schema has them."""
    yield "settings (PATH=VALUE), with their defaults:"
    for setting in settings(deploy_schema()):
        if not setting.path.startswith("endpoint.") or setting.section is not None:
            continue
        yield textwrap.fill(
            f"{setting.path:{_COLUMN}}{setting.meaning} [{setting.default}]",
            _WIDTH,
            initial_indent="  ",
            subsequent_indent=" " * (_COLUMN + 2),
            break_on_hyphens=False,
        )
    yield f"\n{command('help', 'endpoint.NAME')} explains one of them in full."


def _parsed(parser: Parser, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the args, and the overrides among them."""
    overrides = [word for word in argv if word.lstrip("+~").startswith(_SETTINGS)]
    args, rest = parser.parse_known_args([word for word in argv if word not in overrides])
    if args.model is not None and "=" in str(args.model) and not args.model.exists():
        rest.append(str(args.model))
        args.model = None
    if unknown := [word for word in rest if word.startswith("-") or "=" not in word]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args, [*overrides, *rest]


def _refuse_what_does_not_go_together(
    parser: Parser, args: argparse.Namespace, deploying: Deploying, endpoints: Endpoints
) -> None:
    if args.delete is not None:
        if args.model is not None:
            parser.error("--delete NAME takes no MODEL|RUN")
        if deploying.dry_run:
            parser.error("--delete NAME takes no --dry-run; it says what it deleted")
        if not re.fullmatch(NAME, args.delete):
            parser.error(
                f"--delete: got {args.delete!r}; expected up to {LONGEST_NAME} letters, digits and"
                " '-', no '-' at the ends"
            )
        return
    if args.list:
        if args.model is not None:
            parser.error("--list takes no MODEL|RUN; it shows every endpoint that breedlab made")
        return
    if args.model is None and args.from_registry is None:
        parser.error(
            "MODEL|RUN is missing; expected a model.tar.gz or a run directory, or --from-registry"
            " GROUP"
        )
    if problems := list(_registry_problems(args, deploying, endpoints)):
        parser.error("\n  ".join(problems))
    endpoint = deploying.endpoint
    name = endpoints.name_of(endpoint, args.model, args.from_registry)
    if endpoint.replace is not None and endpoint.replace != name:
        raise ConfigError(
            f"endpoint.replace: {endpoint.replace} names another endpoint than endpoint.name,"
            f" {name}; name the one to be replaced",
            "BL104",
        )


def _registry_problems(
    args: argparse.Namespace, deploying: Deploying, endpoints: Endpoints
) -> Iterator[str]:
    yield from endpoints.problems(args.register, args.from_registry)
    if args.approval is not None and args.register is None:
        yield "--approval needs --register GROUP"
    if args.from_registry is None:
        return
    if args.model is not None:
        yield "--from-registry takes no MODEL|RUN: it deploys what the registry has"
    if args.register is not None:
        yield "--from-registry and --register do not go together"
    if deploying.dry_run:
        yield "--dry-run connects to nothing, so it cannot read the registry; pass MODEL|RUN"
    if deploying.endpoint.own_image or deploying.endpoint.vendor:
        yield (
            "endpoint.image and endpoint.vendor are those with which the version was registered;"
            " leave them out"
        )


def _actions(args: argparse.Namespace) -> list[str]:
    """Return the words that stay as they are where flags become settings."""
    words = [str(args.model)] if args.model is not None else []
    words += ["--list"] if args.list else []
    words += ["--dry-run"] if args.dry_run else []
    for name in ("delete", "register", "approval", "from_registry", "region", "backend"):
        value = getattr(args, name)
        words += [f"--{name.replace('_', '-')}", value] if value is not None else []
    return words
