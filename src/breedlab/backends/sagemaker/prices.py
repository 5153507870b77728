"""What an hour costs, from a table with a date, and the most that an experiment can cost."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal, Protocol

from breedlab.backends.sagemaker.session import REGION, client
from breedlab.config.backend import Backend
from breedlab.config.problems import Problem
from breedlab.names import counted

if TYPE_CHECKING:
    import boto3

REFERENCE = "us-east-1"
"""The region whose prices are shown if none is set."""


class Priced(Protocol):
    """Something that runs on instances: a config's `backend`, or an `Instance`."""

    @property
    def instance_type(self) -> str: ...
    @property
    def price_per_hour(self) -> float | None: ...


@dataclass(frozen=True)
class Instance:
    """An instance type, with the price that the user gave for it, if any."""

    instance_type: str
    price_per_hour: float | None = None


@dataclass(frozen=True)
class Bill:
    """The most that jobs can cost: each of them on all its instances for as long as it may run.

    Attributes:
        jobs: How many.
        hours: Of one instance, all jobs together.
        price: USD for one of these hours; None if it is not known.
        source: Where the price comes from, or why it is not known.
    """

    jobs: int
    hours: float
    price: float | None
    source: str

    @property
    def total(self) -> float | None:
        """USD; storage and traffic come on top."""
        return None if self.price is None else self.hours * self.price

    def __str__(self) -> str:
        most = "unknown" if self.total is None else f"${self.total:,.2f}"
        return f"{most} ({counted(self.jobs, 'job')}, {self.hours:,.1f} instance hours)"


Quote = tuple[float | None, str]
"""USD for one instance and hour, None if it is not known; and where that comes from, or why not."""


def quoted(
    account: boto3.Session, machine: Priced, use: Literal["Training", "Hosting", "Batch Transform"]
) -> Quote:
    """Return the price of a machine in the account's region: as given, by AWS's price list today,
    or by our own list.

    Args:
        account: The session; it need not be allowed to ask for prices.
        machine: The machine.
        use: What for: AWS has a price for each.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    region = str(account.region_name)
    if machine.price_per_hour is not None or region.startswith(("cn-", "us-iso")):
        return price_per_hour(machine, region)
    # The list of all regions is kept in few of them.
    pricing = client(account, "pricing", "us-east-1")
    attributes = {"regionCode": region, "instanceName": machine.instance_type, "component": use}
    filters = [
        {"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in attributes.items()
    ]
    try:
        products = pricing.get_products(ServiceCode="AmazonSageMaker", Filters=filters)["PriceList"]
        prices = {price for product in products for price in _on_demand(json.loads(product))}
    except (ClientError, BotoCoreError, ValueError, LookupError):
        # Told by the source of the price that is taken
        prices = set()
    if not prices:
        return price_per_hour(machine, region)
    price = max(prices)
    return (
        price,
        f"${price:g} an hour for {machine.instance_type} in {region} by AWS's price list today",
    )


def _on_demand(product: dict[str, Any]) -> Iterator[float]:
    """Yield what an hour costs by the terms of one product of AWS's price list, without
    reservations."""
    for term in product["terms"].get("OnDemand", {}).values():
        for dimension in term["priceDimensions"].values():
            if (price := float(dimension["pricePerUnit"]["USD"])) > 0:
                yield price


def largest_bill(
    backend: Backend, region: str, trials: int, each: bool, quote: Quote | None = None
) -> Bill:
    """Return the largest possible cost of an experiment.

    Args:
        backend: The settings.
        region: Where the jobs run.
        trials: How many trials the search has, 0 for none.
        each: Whether every trial is a job of its own, followed by one for the final training.
        quote: The price, if the account was asked for it.
    """
    jobs = trials + 1 if each and trials else 1
    hours = (
        jobs * backend.instance_count * (backend.max_run_hours + backend.keep_alive_minutes / 60)
    )
    price, source = quote or price_per_hour(backend, region)
    return Bill(jobs, hours, price, source)


def bill_problems(
    backend: Backend, region: str, trials: int, each: bool, quote: Quote | None = None
) -> list[Problem]:
    """Return why a launch is too expensive, or why its cost is not known; see `largest_bill`."""
    if backend.max_bill is None:
        return []
    bill = largest_bill(backend, region, trials, each, quote)
    if bill.total is None:
        source = bill.source.partition(";")[0]
        return [
            Problem(
                "backend.price_per_hour",
                f"{source}, so {bill.hours:,.1f} instance hours may cost more than"
                f" backend.max_bill={backend.max_bill:g}; set the price, or backend.max_bill=null",
                "BL412",
            )
        ]
    if bill.total > backend.max_bill:
        lower = (
            "backend.max_run_hours or tuner.trials" if trials and each else "backend.max_run_hours"
        )
        return [
            Problem(
                "backend.max_bill",
                f"the largest bill is {bill}, above {backend.max_bill:g} USD; lower {lower}, or set"
                f" backend.max_bill={math.ceil(bill.total)}",
                "BL412",
            )
        ]
    return []


def price_per_hour(backend: Priced, region: str) -> tuple[float | None, str]:
    """Return USD for one instance and hour, None if it is not known, and where that comes from, or
    why it is not known."""
    if backend.price_per_hour is not None:
        return backend.price_per_hour, "backend.price_per_hour"
    table, proviso = _table(), ""
    # a dry run without a region; an estimate with a caveat is better than none
    if region == REGION:
        region, proviso = REFERENCE, ", as no region is set; other regions may cost more"
    listed = listed_price(backend.instance_type, region)
    if listed is None:
        unknown = f"the price of {backend.instance_type} in {region} is unknown"
        return None, f"{unknown}; look it up and set backend.price_per_hour"
    price = f"${listed:g} an hour for {backend.instance_type} in {region} on {table['as_of']}"
    return listed, price + proviso


def listed_price(instance_type: str, region: str) -> float | None:
    """Return USD for one instance and hour by the list that breedlab carries; None if it is not in
    there."""
    price = _table()["regions"].get(region, {}).get(instance_type)
    return None if price is None else float(price)


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(
        files(__package__).joinpath("prices.json").read_text("utf-8")
    )
    return table
