"""What an endpoint costs an hour and a month, for as long as no one deletes it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from breedlab.backends.sagemaker.endpoints.endpoint import Deployment, waits
from breedlab.backends.sagemaker.prices import Instance, price_per_hour, quoted
from breedlab.config.problems import Problem

if TYPE_CHECKING:
    import boto3

HOURS_A_MONTH = 730


@dataclass(frozen=True)
class Cost:
    """USD an hour; storage, traffic and, for serverless ones, the requests come on top.

    Attributes:
        least: At rest; None if the price is not known.
        most: At the highest load that its scaling allows, likewise.
        source: Where the price comes from, or why it is not known.
    """

    least: float | None
    most: float | None
    source: str

    @property
    def known(self) -> bool:
        return self.most is not None

    def __str__(self) -> str:
        if self.least is None or self.most is None:
            return f"unknown until deleted: {self.source}"
        hour, month = (
            _span(self.least, self.most, 3),
            _span(self.least * HOURS_A_MONTH, self.most * HOURS_A_MONTH, 2),
        )
        return f"{hour} an hour, {month} a month, until deleted ({self.source})"

    def problems(self) -> list[Problem]:
        """Return why nothing should be sent at this price."""
        return (
            []
            if self.known
            else [Problem("endpoint.price_per_hour", f"has no value, and {self.source}")]
        )


def cost_of(
    deployment: Deployment, price: float | None, account: boto3.Session | None = None
) -> Cost:
    """Return what a deployment's endpoint costs.

    Args:
        deployment: The endpoint's target state.
        price: USD an hour that the user gave, for an instance or for a unit of provisioned
            concurrency.
        account: Where AWS's own price list is asked for, if anywhere.
    """
    if deployment.kind == "serverless":
        if not deployment.provisioned:
            return Cost(
                0.0,
                0.0,
                "serverless: nothing while idle; each request by its milliseconds and memory",
            )
        if price is None:
            return Cost(
                None,
                None,
                "the price of provisioned concurrency is unknown; look it up and set it",
            )
        return _times(
            price, deployment.provisioned, deployment.provisioned, "backend.price_per_hour"
        )
    machine = Instance(deployment.instance_type, price)
    region = deployment.place.region
    per_hour, source = (
        quoted(account, machine, "Hosting") if account else price_per_hour(machine, region)
    )
    if per_hour is None:
        return Cost(None, None, source)
    return _times(per_hour, deployment.scaling.least, deployment.scaling.most, source)


def changeover_text(deployment: Deployment) -> str:
    """Return how long an update has both the old and the new instances billed; empty where it has
    them no longer than it takes the new ones to start."""
    seconds = waits(deployment.update) * deployment.update.wait + deployment.update.keep_old
    if not seconds:
        return ""
    return (
        "during an update, the old and the new instances are billed side by side for"
        f" {math.ceil(seconds / 60)} minutes, and while the new ones start"
    )


def _times(price: float, least: int, most: int, source: str) -> Cost:
    return Cost(
        price * least,
        price * most,
        source.replace("backend.price_per_hour", "by endpoint.price_per_hour"),
    )


def _span(least: float, most: float, digits: int) -> str:
    low, high = f"${least:,.{digits}f}", f"${most:,.{digits}f}"
    return low if low == high else f"{low} to {high}"
