"""The endpoints of an account that breedlab made, found by their tags, with age and price."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from breedlab.backends.sagemaker.endpoints.lifecycle import describe
from breedlab.backends.sagemaker.prices import Instance, price_per_hour
from breedlab.backends.sagemaker.sending import patiently
from breedlab.backends.sagemaker.session import aws_errors, client, region_flag
from breedlab.backends.sagemaker.tags import ENDPOINT, EXPERIMENT, RUN, USER, read_tags
from breedlab.commands import command

if TYPE_CHECKING:
    import boto3


@dataclass(frozen=True)
class Listed:
    """One endpoint.

    Attributes:
        runs_on: Its instances, or that it is serverless.
        age: Since it was created.
        price: USD an hour for its current instances, None if it is not known.
    """

    name: str
    status: str
    runs_on: str
    age: timedelta
    price: float | None
    user: str
    experiment: str
    run: str


def endpoints(account: boto3.Session) -> list[Listed]:
    """Return the endpoints that carry our tag, the oldest first.

    Raises:
        BackendError: If AWS refuses.
    """
    sagemaker = client(account, "sagemaker")
    rows = []
    with aws_errors("--list"):
        for page in sagemaker.get_paginator("list_endpoints").paginate():
            for entry in page["Endpoints"]:
                rows += list(_listed(sagemaker, entry, str(account.region_name)))
    return sorted(rows, key=lambda one: -one.age)


def show(endpoints: list[Listed], region: str) -> None:
    """Print them as a table, with what all of them cost."""
    from breedlab.console import console, table

    if not endpoints:
        print(f"breedlab has no endpoint in {region}; for another region: --list --region REGION")
        return
    columns = ["endpoint", "status", "runs on", "age", "USD/hour", "user", "experiment", "run"]
    rows = [
        [
            one.name,
            one.status,
            one.runs_on,
            _age(one.age),
            _usd(one.price),
            one.user,
            one.experiment,
            one.run,
        ]
        for one in endpoints
    ]
    console.print(table("", columns, rows))
    total = sum(one.price for one in endpoints if one.price is not None)
    unknown = sum(one.price is None for one in endpoints)
    more = f", and {unknown} whose price is unknown" if unknown else ""
    console.print(
        f"in {region}: ${total:,.3f} an hour, ${total * 730:,.2f} a month until deleted{more}",
        markup=False,
    )
    console.print(
        f"delete one: {command('deploy', '--delete NAME')}{region_flag(region)}", markup=False
    )


def _listed(sagemaker: Any, entry: dict[str, Any], region: str) -> Iterator[Listed]:
    """Yield it, if it is ours and still there."""
    arn = entry["EndpointArn"]
    tags = patiently(lambda: read_tags(sagemaker, arn), missing=False)
    if ENDPOINT not in tags:
        return
    described = describe(sagemaker, entry["EndpointName"])
    if described is None:
        return
    runs_on, price = _instances(sagemaker, described, region)
    age = datetime.now(UTC) - described["CreationTime"]
    about = (tags.get(key, "") for key in (USER, EXPERIMENT, RUN))
    yield Listed(
        described["EndpointName"], described["EndpointStatus"], runs_on, age, price, *about
    )


def _instances(sagemaker: Any, described: dict[str, Any], region: str) -> tuple[str, float | None]:
    """Return what an endpoint runs on at this moment, and what that costs an hour."""
    config = sagemaker.describe_endpoint_config(EndpointConfigName=described["EndpointConfigName"])
    running = {
        v["VariantName"]: v.get("CurrentInstanceCount")
        for v in described.get("ProductionVariants", [])
    }
    texts: list[str] = []
    total: float | None = 0.0
    for variant in config["ProductionVariants"]:
        if "ServerlessConfig" in variant:
            texts.append("serverless")
            # Without provisioned concurrency nothing is billed while no one asks.
            if variant["ServerlessConfig"].get("ProvisionedConcurrency"):
                total = None
            continue
        count = running.get(variant["VariantName"])
        count = variant.get("InitialInstanceCount", 1) if count is None else count
        texts.append(f"{count} x {variant['InstanceType']}")
        price, _ = price_per_hour(Instance(variant["InstanceType"]), region)
        total = None if price is None or total is None else total + count * price
    return ", ".join(texts), total


def _age(age: timedelta) -> str:
    hours = age.total_seconds() / 3600
    if hours < 1:
        return f"{age.total_seconds() / 60:.0f} min"
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"


def _usd(price: float | None) -> str:
    return "unknown" if price is None else f"{price:.3f}"
