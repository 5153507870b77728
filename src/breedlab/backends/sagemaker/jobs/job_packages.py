"""Inside a job: the packages that are installed before it starts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from breedlab.backends.sagemaker.jobs.job import work_folder
from breedlab.backends.sagemaker.jobs.source import UNDECLARED
from breedlab.backends.sagemaker.vendoring import WHEELS
from breedlab.errors import BackendError

try:
    import fcntl
except ImportError:  # not on Windows, from where jobs are only sent
    fcntl = None  # type: ignore[assignment]


def install_undeclared(source: Path) -> None:
    """Install the packages that must not bring their dependencies, once per machine.

    Raises:
        BackendError: If pip fails; the message is pip's.
    """
    file = source / UNDECLARED
    if not file.is_file():
        return
    # torchrun starts this script many times at once
    with (work_folder() / "pip.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if all(_is_installed(line) for line in file.read_text("utf-8").split()):
            return
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--no-deps",
            "-r",
            str(file),
        ]
        environment = dict(os.environ)
        if (source / WHEELS).is_dir():
            pip += ["--no-index", "--find-links", str(source / WHEELS)]
        elif index := code_artifact_index(environment):
            # its token is no argument, which others on the machine see
            environment["PIP_INDEX_URL"] = index
        process = subprocess.run(pip, capture_output=True, text=True, env=environment)
        if process.returncode:
            raise BackendError(
                f"debugger.level: {' '.join(file.read_text('utf-8').split())} could not be"
                " installed; give the job access to a package index, use an image that has it, or"
                f" set debugger=none\n{process.stderr.strip()}"
            )


def code_artifact_index(environment: Mapping[str, str]) -> str | None:
    """Return the address of the CodeArtifact repository that AWS's toolkits install from, too; None
    if none is named.

    Raises:
        BackendError: If the repository cannot be used.
    """
    arn = environment.get("CA_REPOSITORY_ARN")
    if not arn:
        return None  # PIP_INDEX_URL is pip's own
    match = re.fullmatch(r"arn:[^:]+:codeartifact:([^:]+):(\d+):repository/([^/]+)/(.+)", arn)
    if not match:
        raise BackendError(
            f"CA_REPOSITORY_ARN: got {arn!r}; expected the ARN of a repository in CodeArtifact"
        )
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    region, owner, domain, repository = match.groups()
    client = boto3.client("codeartifact", region_name=region)
    try:
        token = client.get_authorization_token(domain=domain, domainOwner=owner)[
            "authorizationToken"
        ]
        address = client.get_repository_endpoint(
            domain=domain, domainOwner=owner, repository=repository, format="pypi"
        )["repositoryEndpoint"]
    except (BotoCoreError, ClientError) as error:
        raise BackendError(f"CA_REPOSITORY_ARN: {arn} cannot be used: {error}") from error
    return str(address).replace("https://", f"https://aws:{token}@", 1).rstrip("/") + "/simple/"


def _is_installed(pin: str) -> bool:
    name, _, version = pin.partition("==")
    try:
        return metadata.version(name) == version
    except metadata.PackageNotFoundError:
        return False
