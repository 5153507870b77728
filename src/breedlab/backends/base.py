"""The interface of a backend, which is all that the commands need to know of it.

A `Backend` plans and submits experiments; what it submits is a `Handle`, which says how the
experiment stands, shows its log and trials, stops it, and brings its run directory here. A backend
that runs on after the command has ended leaves a record next to the run's config (`record`), by
which `breedlab jobs` opens the handle again in another process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breedlab.commands import command
from breedlab.config import Config
from breedlab.console import note
from breedlab.errors import BackendError
from breedlab.files import atomic_write_json

if TYPE_CHECKING:
    import lightning

    from breedlab.backends.operations import Account, BatchJobs, Endpoints
    from breedlab.tuning.trial_log import TrialLog

VERBOSE = "application/json; verbose=1"
"""What asks an endpoint for names and probabilities besides the scores."""

Send = Callable[[bytes], tuple[int, bytes]]
"""Sends an image as `POST /invocations` does, with a verbose answer; its status and body."""

FILE = "job.json"
"""A job's record, in the run directory of its launch."""


class Handle(ABC):
    """An experiment that was submitted.

    Attributes:
        name: What `breedlab jobs` knows it by.
        experiment: The experiment's name.
        started: When, in ISO format.
        run: Its run directory on this machine, None if it has none yet.
        where: The region, cluster, or machine that it runs in; empty for this one.
    """

    name: str
    experiment: str
    started: str = ""
    run: Path | None = None
    where: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that it is found by."""
        return (self.name,)

    @abstractmethod
    def config(self) -> Config:
        """Return its config."""

    @abstractmethod
    def status(self) -> str:
        """Return its status, in a few words.

        Raises:
            BackendError: If it cannot be found out.
        """

    @abstractmethod
    def logs(self, trial: int | None = None) -> Iterator[tuple[str, Iterable[str]]]:
        """Yield the name and the lines so far of each of its logs.

        Args:
            trial: The only trial whose log is wanted.

        Raises:
            BackendError: If there is no such trial.
        """

    @abstractmethod
    def stop(self) -> list[str]:
        """Stop it, and return a line about the outcome. What it has done is kept."""

    @abstractmethod
    def results(self, *, now: bool = False) -> Mapping[str, Any]:
        """Follow it to its end, write its run directory here, and return `run` and its metrics.

        Nothing that costs more is started.

        Args:
            now: Take what there is at this moment, and wait for nothing.

        Raises:
            BackendError: If it failed.
        """

    def follow(self) -> Mapping[str, Any]:
        """Follow it as its launch does: start what is still to come, then return the results."""
        return self.results()

    def resume(self) -> Mapping[str, Any]:
        """Start the remaining jobs of an interrupted experiment, then return the results."""
        raise BackendError(
            f"{self.name}: has nothing left to start; follow it with:"
            f" {command('jobs', 'fetch', self.name)}"
        )

    def trials(self) -> Sequence[TrialLog] | None:
        """Return the trials of its search so far; None if it has no search, or has not begun."""
        return None

    def details(self) -> list[tuple[str, str]]:
        """Return what `jobs show` prints between its name and its run directory: titles, texts."""
        return [("training", f"{self.name}: {self.status()}")]

    def next_steps(self) -> list[str]:
        """Return how to come back to it, and how to stop it."""
        return [
            f"follow it with: {command('jobs', 'fetch', self.name)}",
            f"stop it with:   {command('jobs', 'stop', self.name)}",
        ]


def link_latest(handle: Handle) -> None:
    """Link `<runs_dir>/latest` to the run directory that an experiment has brought here, if it can
    be used and no later run is linked."""
    from breedlab.pipeline import current_run
    from breedlab.pipeline.rundir import is_begun

    if handle.run is not None and is_begun(handle.run):
        current_run.link_if_newest(Path(handle.config().runs_dir), handle.run)


@dataclass(frozen=True)
class ListedJob:
    """A job of `jobs list --all`, of any user.

    Attributes:
        name: The job's.
        kind: `search` or `training`.
        experiment: The experiment's name.
        user: Who launched it.
        created: When.
        state: The backend's word.
        price: USD an hour while it runs; 0 once it is over, None if it is not known.
    """

    name: str
    kind: str
    experiment: str
    user: str
    created: datetime
    state: str
    price: float | None


class Store(ABC):
    """Where `breedlab upload` puts images, for backends that read them from there."""

    @abstractmethod
    def refuse(self) -> None:
        """Refuse a place that cannot be written.

        Raises:
            BreedlabError: Saying why.
        """

    @abstractmethod
    def upload(self, root: Path, paths: Sequence[Path], *, links: bool) -> int:
        """Upload files, those that already exist left alone; return how many were new.

        Args:
            root: The folder whose layout is kept.
            paths: The files.
            links: Whether to upload files, too, that are outside of it and linked into it.

        Raises:
            BreedlabError: If something else would leave this machine unasked.
        """


class Backend(ABC):
    """A place to run."""

    def without_missing_extras(
        self, config: Config, overrides: list[str]
    ) -> tuple[Config, list[str]]:
        """Return an experiment without what its YAML turns on, the user did not ask for, and this
        place does not have installed; print a line about each.

        Args:
            config: Of a new experiment.
            overrides: The user's overrides; the settings that they name are kept.
        """
        return config, overrides

    @abstractmethod
    def plan(self, config: Config, resume: Path | None) -> str:
        """Return what `dry_run=true` prints; nothing is started, and neither network nor
        credentials are needed."""

    @abstractmethod
    def submit(self, config: Config, overrides: list[str], resume: Path | None) -> Handle:
        """Start an experiment.

        Raises:
            BreedlabError: With one message for the user; nothing is left running then.
        """

    def run(
        self,
        config: Config,
        overrides: list[str],
        resume: Path | None,
        callbacks: Sequence[lightning.Callback] = (),
    ) -> Mapping[str, Any]:
        """Submit an experiment, and follow it to its end if `backend.wait` is set.

        Args:
            config, overrides, resume: As for `submit`.
            callbacks: Lightning callbacks for the final training, where that runs in this process.

        Returns:
            What a grid's table shows of it.

        Raises:
            BackendError: If there are callbacks, and it trains elsewhere.
        """
        if callbacks:
            raise BackendError(
                f"callbacks: backend.name={config.backend.name} trains in another process, where"
                " they cannot run; expected none, or backend.name=local"
            )
        handle = self.submit(config, overrides, resume)
        if config.backend.wait:
            figures = handle.follow()
            link_latest(handle)
            return figures
        for line in handle.next_steps():
            note(line)
        return {"job": handle.name}

    def reopen(self, record: Mapping[str, Any], run: Path) -> Handle:
        """Return the handle of an experiment that this backend submitted, in any process.

        Args:
            record: What job.json holds.
            run: Its run directory.
        """
        raise BackendError(f"{run}: its backend has no jobs that outlive the command")

    def find(self, name: str, where: str | None) -> Handle | None:
        """Return the handle of a job that another machine launched; None where this backend knows
        none but its own.

        Raises:
            BackendError: If there is no such job.
        """
        return None

    def stop(self, name: str, where: str | None) -> list[str] | None:
        """Stop a job that another machine launched, or whose record is lost, and return what there
        is to say about that; None where this backend knows none but its own.

        Raises:
            BackendError: If there is no such job, or breedlab did not launch it.
        """
        return None

    def everyones(self, where: str | None) -> tuple[str, list[ListedJob]] | None:
        """Return where it looked, and every job there that breedlab launched, the newest first;
        None where this backend does not know."""
        return None

    def store(self, address: str, where: str | None, key: str | None) -> Store:
        """Return the place of an address that begins with the backend's `scheme`.

        Args:
            address: Such as `s3://bucket/folder`.
            where: The region or the like.
            key: Encrypts what is uploaded.

        Raises:
            DataError: If it is not a valid address.
        """
        raise NotImplementedError

    def endpoint(self, name: str, where: str | None) -> AbstractContextManager[Send] | None:
        """Return what sends images to an endpoint by its name, for `predict --endpoint NAME`; None
        where this backend's endpoints are addresses.

        Args:
            name: The endpoint's.
            where: The region or the like.

        Raises:
            BreedlabError: If it cannot be asked from here.
        """
        return None

    def deploy(self, model: Path) -> str:
        """Put a model, or a run's, behind an endpoint, and return its address or name, as
        `backends.client` takes it.

        Raises:
            BreedlabError: If the model is missing, or its endpoint does not answer an image.
        """
        raise BackendError("this backend serves no models; deploy with another one")

    def delete(self, endpoint: str) -> None:
        """Delete an endpoint that `deploy` made."""
        raise BackendError(f"{endpoint}: this backend serves no models")

    def account(self) -> Account | None:
        """Return what says what its account has to allow, for `breedlab account`; None where there
        is no account."""
        return None

    def batch_jobs(self) -> BatchJobs | None:
        """Return what has a model answer a whole folder, for `breedlab batch`; None where nothing
        does."""
        return None

    def endpoints(self) -> Endpoints | None:
        """Return what manages its endpoints by the settings of `endpoint`, for `breedlab deploy`;
        None where nothing does."""
        return None


def record(run: Path, name: str, config: Config, overrides: list[str], **own: Any) -> None:
    """Write the record of a submitted experiment, by which `breedlab jobs` finds it.

    Args:
        run: Its run directory.
        name: Of the job.
        config: The experiment.
        overrides: What the user typed.
        own: What the backend needs to find it again, as plain data.
    """
    from breedlab.config.migrations import stamp

    started = datetime.now().astimezone().isoformat(timespec="seconds")
    tree = {"name": name, "config": config.recorded(), "overrides": overrides, "started": started}
    atomic_write_json(run / FILE, stamp({**tree, **own}), indent=2)
