"""What only the account knows: whether the role may be used, and whether there is room for the
machines.

The caller needs no permission for these checks: what may not be read is reported as not checked,
and refuses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from breedlab.backends.sagemaker.sending import is_denied
from breedlab.backends.sagemaker.session import client
from breedlab.config.backend import Backend
from breedlab.config.problems import Problem
from breedlab.console import note

if TYPE_CHECKING:
    import boto3

SERVICE = "sagemaker.amazonaws.com"
_QUOTAS_CODE = "sagemaker"
LONGEST_RUN = "Longest run time for a training job"


@dataclass
class Findings:
    """The results of checking the account.

    Attributes:
        problems: What AWS would refuse.
        unchecked: What no one could look at, with the reason.
        enough: The quotas that are large enough.
    """

    problems: list[Problem] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    enough: set[str] = field(default_factory=set)

    def tell_unchecked(self) -> None:
        """Print what was not checked."""
        for text in self.unchecked:
            note(f"not checked: {text}")


@dataclass(frozen=True)
class Need:
    """Room that is needed in an account.

    Attributes:
        quota: Its name under Service Quotas.
        least: What it has to be at least.
        path: What a user sets it by.
        purpose: What it is needed for.
    """

    quota: str
    least: float
    path: str
    purpose: str


def warm_pool_quota(instance_type: str) -> str:
    """Return the quota's name of instances that are kept warm for the next job."""
    return f"{instance_type} for training warm pool usage"


def training_needs(backend: Backend, at_once: int) -> list[Need]:
    """Return the quotas that jobs need.

    Args:
        backend: The settings.
        at_once: How many jobs run at a time.
    """
    kind = "spot training job usage" if backend.spot else "training job usage"
    count = backend.instance_count * at_once
    machines = f"{count} x {backend.instance_type}"
    needs = [Need(f"{backend.instance_type} for {kind}", count, "backend.instance_type", machines)]
    if backend.keep_alive_minutes:
        # a search keeps none warm; the job that trains its best does
        warm, quota = backend.instance_count, warm_pool_quota(backend.instance_type)
        need = f"{warm} x {backend.instance_type} kept warm"
        needs.append(Need(quota, warm, "backend.keep_alive_minutes", need))
    hours = f"{backend.max_run_hours:g} hours"
    needs.append(Need(LONGEST_RUN, backend.max_run_hours * 3600, "backend.max_run_hours", hours))
    return needs


def endpoint_needs(instance_type: str, most: int) -> list[Need]:
    """Return the quota that an endpoint on instances needs at its highest load."""
    return [
        Need(
            f"{instance_type} for endpoint usage",
            most,
            "endpoint.instance_type",
            f"{most} x {instance_type}",
        )
    ]


def look(
    account: boto3.Session, role: str, needs: list[Need], role_path: str = "backend.role"
) -> Findings:
    """Return what the account says against a launch.

    Args:
        account: The session.
        role: The execution role's ARN; nothing is asked of a placeholder.
        needs: The quotas that are needed.
        role_path: What a user sets the role by.
    """
    findings = Findings()
    if role.startswith("arn:"):
        look_at(findings, "the role's trust policy", lambda: _trust(account, role, role_path))
        look_at(
            findings,
            "whether you may pass the role (iam:PassRole)",
            lambda: _passing(account, role, role_path),
        )
    look_at(findings, "the account's quotas", lambda: _room(account, needs, findings))
    return findings


def look_at(findings: Findings, what: str, problems: Callable[[], Iterator[Problem]]) -> None:
    """Add what a look into the account yields, or that credentials or the network did not allow it.

    Args:
        findings: What is added to.
        what: What is looked at, for the message.
        problems: The look.
    """
    from botocore import exceptions as aws

    try:
        findings.problems += list(problems())
    except (aws.ClientError, aws.HTTPClientError, aws.ConnectionError) as error:
        if isinstance(error, aws.ClientError) and not is_denied(error):
            code = error.response["Error"].get("Code", "no code")
            findings.unchecked.append(f"{what}: AWS answered {code}")
        else:
            reason = "your credentials do not allow checking it" if is_denied(error) else str(error)
            findings.unchecked.append(f"{what}: {reason}")


def _trust(account: boto3.Session, role: str, path: str) -> Iterator[Problem]:
    policy = client(account, "iam").get_role(RoleName=role.rpartition("/")[2])["Role"][
        "AssumeRolePolicyDocument"
    ]
    if not any(_lets_sagemaker_in(statement) for statement in _listed(policy.get("Statement", []))):
        yield Problem(
            path,
            f"{role} does not trust SageMaker: its trust policy has no statement that allows"
            f" {SERVICE} to sts:AssumeRole; add one, or use another role",
        )


def _lets_sagemaker_in(statement: Mapping[str, Any]) -> bool:
    principal = statement.get("Principal", {})
    services = [principal] if isinstance(principal, str) else _listed(principal.get("Service", []))
    actions = _listed(statement.get("Action", []))
    return (
        statement.get("Effect") == "Allow"
        and any(service == "*" or service.startswith(SERVICE) for service in services)
        and any(action in ("sts:AssumeRole", "sts:*", "*") for action in actions)
    )


def _passing(account: boto3.Session, role: str, path: str) -> Iterator[Problem]:
    caller = str(client(account, "sts").get_caller_identity()["Arn"])
    iam = client(account, "iam")
    if caller.endswith(":root"):
        return  # may do everything
    if match := re.fullmatch(r"arn:[^:]+:sts::\d+:assumed-role/([^/]+)/.+", caller):
        caller = iam.get_role(RoleName=match[1])["Role"]["Arn"]
    answer = iam.simulate_principal_policy(
        PolicySourceArn=caller,
        ActionNames=["iam:PassRole"],
        ResourceArns=[role],
        ContextEntries=[
            {
                "ContextKeyName": "iam:PassedToService",
                "ContextKeyValues": [SERVICE],
                "ContextKeyType": "string",
            }
        ],
    )
    if any(result["EvalDecision"] != "allowed" for result in answer["EvaluationResults"]):
        yield Problem(
            path, f"{caller} may not pass {role} to SageMaker; it needs iam:PassRole on it"
        )


def _room(account: boto3.Session, needs: list[Need], findings: Findings) -> Iterator[Problem]:
    quotas = {need.quota: need for need in needs}
    if not quotas:
        return
    pages = client(account, "service-quotas").get_paginator("list_service_quotas")
    for page in pages.paginate(ServiceCode=_QUOTAS_CODE, PaginationConfig={"PageSize": 100}):
        for quota in page["Quotas"]:
            need = quotas.pop(str(quota["QuotaName"]), None)
            if need is None:
                continue
            if float(quota["Value"]) >= need.least:
                findings.enough.add(need.quota)
                continue
            yield Problem(
                need.path,
                f"{need.purpose} is above the account's quota '{need.quota}', {quota['Value']:g} in"
                f" {account.region_name}; request an increase under Service Quotas, or use less",
            )
        if not quotas:
            return
    findings.unchecked += [
        f"the quota '{name}': the account has no quota of that name" for name in quotas
    ]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
