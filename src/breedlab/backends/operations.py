"""What a backend may offer besides experiments: endpoints, batch jobs, and policies of its account.

`breedlab deploy`, `batch`, and `account` know nothing else of a backend. `Backend` returns None for
what it does not offer, and `offered` has the error message.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from breedlab.config import Config
    from breedlab.config.endpoint import Endpoint

T = TypeVar("T")


@dataclass(frozen=True)
class PolicyRequest:
    """What `breedlab account` asks for.

    Attributes:
        config: The experiment that has to be allowed.
        commands: The commands that the user runs; empty for all of them.
        account: The account's number; None if the user did not name it.
        endpoint: The endpoint that others may ask; None for the experiment's.
        reads: Addresses whose images batch jobs read.
        writes: Addresses that get their answers.
    """

    config: Config
    commands: tuple[str, ...] = ()
    account: str | None = None
    endpoint: str | None = None
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


class Account(ABC):
    """What an account has to allow and hold, for `breedlab account`. Nothing is sent."""

    @abstractmethod
    def policies(self, request: PolicyRequest) -> dict[str, Any]:
        """Return the documents, by the names that `--only` takes.

        Raises:
            BreedlabError: If the request cannot be met.
        """

    @abstractmethod
    def template(self, request: PolicyRequest) -> dict[str, Any]:
        """Return a template that creates what the account has to hold.

        Raises:
            BreedlabError: If the request cannot be met.
        """

    @abstractmethod
    def how_to_create(self) -> str:
        """Return the commands that create it from the template, which breedlab does not do."""


@dataclass(frozen=True)
class BatchRequest:
    """What `breedlab batch` starts.

    Attributes:
        endpoint: What a batch job and an endpoint have in common.
        model: An archive, or a run directory.
        source: The address of the images.
        target: The address of the answers.
        instances: How many machines answer.
        at_once: How many requests each of them takes at a time.
        max_image_mb: The largest image, in MB.
        as_flags: Words a text about settings of `endpoint` with the command's flags.
    """

    endpoint: Endpoint
    model: Path
    source: str
    target: str
    instances: int
    at_once: int
    max_image_mb: int
    as_flags: Callable[[str], str] = str


class BatchJobs(ABC):
    """Jobs in which a model answers every image of an address, for `breedlab batch`."""

    @abstractmethod
    def problems(self, source: str, target: str) -> Iterator[str]:
        """Yield what is wrong with the addresses as such."""

    @abstractmethod
    def name_of(self, model: Path) -> str:
        """Return what the jobs of a model are named after."""

    @abstractmethod
    def plan(self, request: BatchRequest) -> None:
        """Print what would be sent and what it costs; needs neither network nor credentials.

        Raises:
            BreedlabError: If it would be refused.
        """

    @abstractmethod
    def start(self, request: BatchRequest) -> str:
        """Start a job.

        Returns:
            The flags by which the command finds it again, such as ` --region us-east-1`; empty
            where it needs none.

        Raises:
            BreedlabError: With one message for the user; nothing is left running then.
        """

    @abstractmethod
    def follow(self, name: str, where: str | None) -> str:
        """Wait for a job's end, clean up, and return where its answers are.

        Raises:
            BreedlabError: If there is no such job, or it failed.
        """

    @abstractmethod
    def stop(self, name: str, where: str | None) -> str:
        """Stop a job, and return the flags by which it is found again, as `start` does.

        Raises:
            BreedlabError: If there is no such job, or it has ended.
        """


class Endpoints(ABC):
    """Models behind endpoints, for `breedlab deploy`."""

    @abstractmethod
    def name_of(self, endpoint: Endpoint, model: Path | None, version: str | None) -> str:
        """Return the name of the endpoint that a model, or a version of the registry, gets."""

    @abstractmethod
    def problems(self, group: str | None, version: str | None) -> Iterator[str]:
        """Yield what is wrong with the name of a registry's group, or of a version in it."""

    @abstractmethod
    def plan(self, endpoint: Endpoint, model: Path) -> None:
        """Print what `deploy` would send; needs neither network nor credentials."""

    @abstractmethod
    def deploy(self, endpoint: Endpoint, model: Path) -> None:
        """Create or update an endpoint, and wait until it has answered an image."""

    @abstractmethod
    def deploy_version(self, endpoint: Endpoint, version: str) -> None:
        """Deploy a version of the registry: GROUP, GROUP:VERSION, or its full name."""

    @abstractmethod
    def register(
        self, endpoint: Endpoint, model: Path, group: str, approval: str, *, dry_run: bool
    ) -> None:
        """Register a model as a group's next version, `pending`, `approved`, or `rejected`."""

    @abstractmethod
    def delete(self, name: str, where: str | None) -> None:
        """Delete an endpoint that breedlab made, and what was made for it."""

    @abstractmethod
    def show_all(self, where: str | None) -> None:
        """Print the endpoints that breedlab made."""
