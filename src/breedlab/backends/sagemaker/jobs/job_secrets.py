"""Secrets in `backend.environment`: from the shell to the request that needs them, and into nothing
that is kept."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import replace
from typing import Any

from breedlab.backends.sagemaker.request import Request
from breedlab.config import Config
from breedlab.config.passwords import holds_password
from breedlab.config.problems import Problem
from breedlab.errors import BackendError

_NAMES = re.compile(
    r"(^|_)(API_?)?(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|AUTH|PAT)S?(_|$)|APIKEY|ACCESS_KEY",
    re.IGNORECASE,
)
_ARN = re.compile(
    r"(arn:aws[a-z-]*:secretsmanager:([a-z0-9-]+):\d{12}:secret:[^:]+)(?::([^:]*).*)?"
)
"""A secret's address; after it, as in ECS, the key of a JSON secret."""


_SHELL = re.compile(r"\$\{oc\.env:(\w+)\}")
"""A variable of the shell, as Hydra's configs name it."""


def is_secret(name: str, value: str) -> bool:
    """Return whether a variable's value must not be kept. The name or the address of a secret is
    not secret."""
    if _ARN.fullmatch(value) or _SHELL.fullmatch(value):
        return False
    return bool(_NAMES.search(name)) or holds_password(value)


def _in_shell(name: str, value: str) -> str | None:
    """Return the shell's variable that a value is taken from; None if it is the value itself."""
    if match := _SHELL.fullmatch(value):
        return match[1]
    return name if not value and is_secret(name, value) else None


def secret_problems(config: Config) -> list[Problem]:
    """Return which secrets a launch cannot take from the shell, and which are given where they
    would be kept."""
    problems = []
    for name, value in config.backend.environment.items():
        path, source = f"backend.environment.{name}", _in_shell(name, value)
        if source is not None and not os.environ.get(source):
            problems.append(
                Problem(
                    path,
                    f"is taken from the shell's {source}, which is not set; export {source} first",
                    "BL109",
                )
            )
        elif source is None and is_secret(name, value) and value != os.environ.get(name):
            problems.append(
                Problem(
                    path,
                    "looks like a secret, which would end up in records and archives; export it"
                    f" in the shell and leave it empty here ({path}=''), or give the ARN of a"
                    " secret in Secrets Manager",
                    "BL116",
                )
            )
    return problems


def definition_problems(config: Config) -> list[Problem]:
    """Return which variables must not be in a pipeline's definition.

    AWS's guide, build-and-manage-pipeline: "do not include sensitive information in ... any step
    definition field (such as environment variables). These fields will be visible in the future
    when returned in a DescribePipeline request."
    """
    if config.backend.orchestrate != "pipeline":
        return []
    return [
        Problem(
            f"backend.environment.{name}",
            "looks like a secret, and a pipeline's definition shows it to anyone who may describe"
            " pipelines; give the ARN of a secret in Secrets Manager, or"
            " backend.orchestrate=laptop",
            "BL116",
        )
        for name, value in config.backend.environment.items()
        if not _ARN.fullmatch(value) and (_NAMES.search(name) or _holds_password(value))
    ]


def _holds_password(value: str) -> bool:
    """Return whether a variable's value, or that which the shell has for it, holds one."""
    match = _SHELL.fullmatch(value)
    return holds_password(os.environ.get(match[1], "") if match else value)


def without_secrets(config: Config) -> Config:
    """Return the config with every secret empty, as it is printed, recorded and packed."""
    variables = config.backend.environment
    public = {name: "" if is_secret(name, value) else value for name, value in variables.items()}
    return config.model_copy(
        update={"backend": config.backend.model_copy(update={"environment": public})}
    )


def texts_without(texts: Iterable[str], config: Config) -> list[str]:
    """Return texts, such as overrides, without the values of a config's secrets."""
    secrets = [
        value
        for name, value in config.backend.environment.items()
        if value and is_secret(name, value)
    ]
    cleaned = []
    for text in texts:
        for secret in secrets:
            text = text.replace(secret, "***")
        cleaned.append(text)
    return cleaned


def with_secrets(request: Request) -> Request:
    """Return a request as it is sent: with what its variables take from the shell.

    Raises:
        BackendError: If the shell has one of them no more.
    """
    inside = "TrainingJobDefinition" in request.parameters
    job: Mapping[str, Any] = (
        request.parameters["TrainingJobDefinition"] if inside else request.parameters
    )
    variables: Mapping[str, str] = job.get("Environment", {})
    sources = {
        name: source
        for name, value in variables.items()
        if (source := _in_shell(name, value)) is not None
    }
    if missing := [source for source in sources.values() if not os.environ.get(source)]:
        raise BackendError(
            f"backend.environment: {', '.join(missing)} is taken from the shell, where it is not"
            " set; export it first"
        )
    if not sources:
        return request
    secrets = {name: os.environ[source] for name, source in sources.items()}
    filled = {**job, "Environment": {**variables, **secrets}}
    parameters = {**request.parameters, "TrainingJobDefinition": filled} if inside else filled
    return replace(request, parameters=dict(parameters))


def resolve(environment: MutableMapping[str, str]) -> None:
    """Replace addresses in Secrets Manager by what is there, in a job.

    Raises:
        BackendError: If one cannot be read; its message holds no secret.
    """
    for name, value in list(environment.items()):
        if not (match := _ARN.fullmatch(value)):
            continue
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError

        arn, region, key = match.groups()
        try:
            answer = boto3.client("secretsmanager", region_name=region).get_secret_value(
                SecretId=arn
            )
            text = str(answer["SecretString"])
            environment[name] = str(json.loads(text)[key]) if key else text
        except (BotoCoreError, ClientError) as error:
            raise BackendError(
                f"backend.environment.{name}: {arn} cannot be read: {error}; the execution role"
                " needs secretsmanager:GetSecretValue on it"
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            where = f"has no key {key!r}" if key else "holds no text"
            raise BackendError(f"backend.environment.{name}: {arn} {where}") from error
