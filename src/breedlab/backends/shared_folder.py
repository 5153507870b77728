"""Jobs on machines that share a folder with this one, such as a cluster's: the run directory is in
that folder, so only the code is sent.

A backend of this kind says how a job is sent, how it stands, and what it has printed.
"""

from __future__ import annotations

import itertools
import shutil
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breedlab.backends.base import FILE, Backend, Handle, record
from breedlab.backends.following import detachable, finished, follow, sending, without_traceback
from breedlab.backends.launched import read_record
from breedlab.backends.submission import new_name, sent_environment
from breedlab.commands import command
from breedlab.config import Config, validate
from breedlab.config.environment import resolved
from breedlab.config.migrations import stamp
from breedlab.console import note
from breedlab.errors import (
    BackendError,
    BreedlabError,
    Detached,
    FileError,
    JobFailed,
    LostAnswer,
    ResumeError,
)

if TYPE_CHECKING:
    from breedlab.tuning.trial_log import TrialLog

ENDED = ("complete", "failed", "stopped")


class SharedFolderJob(Handle):
    """A job, or several where it was resumed, that write one run directory.

    Args:
        tree: What job.json holds.
        run: Its run directory on this machine; it may not exist yet.

    Attributes:
        place: The run directory that the job writes, in the shared folder.
        submissions: The names of the jobs, in their order.
    """

    run: Path

    def __init__(self, tree: Mapping[str, Any], run: Path) -> None:
        self._tree = tree
        self.name, self.experiment = tree["name"], tree["config"]["name"]
        self.started, self.run, self.where = tree["started"], run, tree["where"]
        self.place, self.submissions = Path(tree["place"]), list(tree["submissions"])

    @abstractmethod
    def state(self, submission: str) -> str:
        """Return how a job stands, in one word: `pending`, `running`, or one of `ENDED`; empty if
        there is no such job.

        Raises:
            BackendError: If it cannot be found out.
        """

    @abstractmethod
    def lines(self, submission: str) -> list[str]:
        """Return what a job has printed so far."""

    def reason(self, submission: str) -> str:
        """Return why a job that has printed nothing stands as it does; empty if nobody knows."""
        return ""

    @abstractmethod
    def send(self, config: Config, name: str) -> None:
        """Send a job, which is recorded already.

        Raises:
            LostAnswer: If it may have been started.
            BreedlabError: If it is refused.
        """

    @abstractmethod
    def end(self, submission: str) -> None:
        """Have a job stopped."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.submissions)

    @property
    def next_name(self) -> str:
        """The name of the job that would continue it."""
        return f"{self.name}-{len(self.submissions) + 1}"

    def config(self) -> Config:
        tree, _ = resolved(self._tree["config"], lenient=True)
        return validate(tree, self.name, recorded=True)

    def status(self) -> str:
        return self._latest()[1] or "unknown there"

    def details(self) -> list[tuple[str, str]]:
        return [*super().details(), ("where", self.where), ("files", f"{self.place}/")]

    def logs(self, trial: int | None = None) -> Iterator[tuple[str, Sequence[str]]]:
        if trial is not None:
            raise BackendError(f"--trial {trial}: all trials share the job's log; leave it out")
        for name in self.submissions:
            if self.state(name):
                yield name, self.lines(name) or self.reason(name).splitlines()

    def trials(self) -> Sequence[TrialLog] | None:
        from breedlab.tuning.trial_log import read_trial

        if self._tree["config"]["tuner"]["strategy"] == "none":
            return None
        return [row for _, lines in self.logs() for line in lines if (row := read_trial(line))]

    def stop(self) -> list[str]:
        name, state = self._latest()
        if not state or state in ENDED:
            return [f"nothing to stop: {self.name}: {self.status()}"]
        self.end(name)
        if state == "pending":
            return [f"{name}: has not started, and stops as soon as it does"]
        return [f"{name}: stopping; what it has written stays in {self.place}/"]

    def results(self, *, now: bool = False) -> Mapping[str, Any]:
        name, state = self._latest()
        if now:
            self._bring(partly=True)
            return {"run": str(self.run)}
        if state and state not in ENDED:
            with detachable(self.name, "\n".join(self.next_steps())):
                follow(lambda: self._look(name), ("", *ENDED))
            state = self.state(name)
        self._bring(partly=False)
        if not state and not (self.run / "metrics.json").is_file():
            state = f"{self.where} does not know this job any more, and its run is not complete"
        if state and state != "complete":
            lines = [line for _, lines in self.logs() for line in lines]
            last = "".join(f"\n  {line}" for line in without_traceback(lines))
            raise JobFailed(
                f"{self.name}: {state}{last}\n"
                f"its log:          {command('jobs', 'show', self.name, '--log')}\n"
                f"continue it with: {command('jobs', 'resume', self.name)}"
            )
        return finished(self)

    def resume(self) -> Mapping[str, Any]:
        self.send_again(self.config(), self._tree["overrides"])
        return self.results()

    def send_again(self, config: Config, overrides: list[str]) -> None:
        """Send a job that continues the run of one that has failed, was stopped, or was lost; or of
        a complete one, if the config asks for more than before."""
        state = self._latest()[1]
        asks_for_more = any(
            value != self._tree["config"].get(name)
            for name, value in config.recorded().items()
            if name not in ("backend", "dry_run", "resume")
        )
        if state not in ("failed", "stopped", "") and not (state == "complete" and asks_for_more):
            super().resume()
        sent_environment(config)  # refused before anything is written
        name = self.next_name
        self.submissions.append(name)
        self.run.mkdir(parents=True, exist_ok=True)
        self.remember(config, overrides)
        with sending(self):
            self.send(config, name)
        note(f"started: {name}, on {self.where}")

    def remember(self, config: Config, overrides: list[str]) -> None:
        """Write the record, before a job is sent, where it is launched and where it runs."""
        self._tree = {**self._tree, "config": config.recorded(), "overrides": overrides}
        own: dict[str, Any] = {
            "place": str(self.place),
            "where": self.where,
            "submissions": self.submissions,
        }
        if self.started:
            own["started"] = self.started
        for folder in {self.run.absolute(), self.place}:
            record(folder, self.name, config, overrides, **own)

    def _latest(self) -> tuple[str, str]:
        """Return the last of its submissions that arrived, and its state."""
        for name in reversed(self.submissions):
            if state := self.state(name):
                return name, state
        return self.submissions[-1], ""

    def _look(self, name: str) -> tuple[str, list[str]]:
        state = self.state(name)
        if state in ENDED or not state:
            return state, self.lines(name) if state else []
        lines = self.lines(name)
        why = self.reason(name) if state == "pending" and not lines else ""
        return f"{name}: {state}" + (f" ({why})" if why else ""), lines

    def _bring(self, *, partly: bool) -> None:
        """Copy the run directory here, if it is not here already."""
        from breedlab.pipeline.rundir import write_yaml

        if not self.place.is_dir():
            raise BackendError(
                f"{self.name}: {self.place} is not on this machine; mount its folder"
            )
        if self.place.resolve() == self.run.resolve():
            return
        half = shutil.ignore_patterns("*.tmp", ".export-*")
        try:
            shutil.copytree(self.place, self.run, dirs_exist_ok=True, ignore=half)
        except shutil.Error:
            if not partly:  # the job replaces files as they are copied
                raise
        write_yaml(self.run / "config.yaml", stamp(self._tree["config"]))  # as launched here


class SharedFolderBackend(Backend):
    """A backend whose jobs write to a shared folder.

    Attributes:
        storage: That folder; None for the config's `runs_dir`.
    """

    storage: str | None

    @property
    @abstractmethod
    def where(self) -> str:
        """What jobs are sent to, such as a cluster's address."""

    @abstractmethod
    def job(self, tree: Mapping[str, Any], run: Path) -> SharedFolderJob:
        """Return the job of a record."""

    @abstractmethod
    def check(self, name: str) -> None:
        """Refuse, before anything is written, what cannot be sent under a name.

        Raises:
            BackendError: Saying why.
        """

    def submit(self, config: Config, overrides: list[str], resume: Path | None) -> Handle:
        if resume is not None:
            job = self.job(recorded_job(resume), resume)
            job.send_again(config, overrides)
            return job
        from breedlab.pipeline.rundir import reserve

        name = new_name(config, datetime.now())
        self.check(name)
        sent_environment(config)
        if not Path(config.data.root).exists():
            note(
                f"data.root: {config.data.root} is not on this machine; the job looks for it there"
            )
        run = reserve(config, overrides)
        with _removed_if_refused(run):
            place = self._reserve(config, overrides, run)
        tree = {"name": name, "config": config.recorded(), "overrides": overrides, "started": ""}
        own = {"place": str(place), "where": self.where, "submissions": [name]}
        job = self.job({**tree, **own}, run)
        with _removed_if_refused(run, place), sending(job):
            job.remember(config, overrides)
            job.send(config, name)
        note(f"started: {name}, on {self.where}")
        return job

    def reopen(self, record: Mapping[str, Any], run: Path) -> Handle:
        return self.job(record, run)

    def place(self, config: Config, stamp: str) -> Path:
        """Return the run directory that a job writes."""
        return Path(self.storage or config.runs_dir, config.name, stamp).absolute()

    def elsewhere(self, place: Path, name: str, where: str) -> Handle:
        """Return a job that another machine launched.

        Args:
            place: The run directory that it writes.
            name: The job's.
            where: What it was sent to, as this machine reaches it.

        Raises:
            BackendError: If that is not on this machine.
        """
        if not (place / FILE).is_file():
            raise BackendError(
                f"{name}: its run directory {place} is not on this machine; mount its folder"
            )
        tree = {**recorded_job(place), "where": where}
        return self.job(tree, Path(tree["config"]["runs_dir"], tree["config"]["name"], place.name))

    def _reserve(self, config: Config, overrides: list[str], run: Path) -> Path:
        """Return a new run directory in the shared folder; that of this machine, if it is there."""
        from breedlab.pipeline.rundir import reserve

        place = self.place(config, run.name)
        if place == run.absolute():
            return place
        for number in itertools.count(2):
            try:
                place.mkdir(parents=True)
                break
            except FileExistsError:  # another machine launched in the same second
                place = self.place(config, f"{run.name}_{number}")
            except OSError as error:
                raise FileError(
                    f"{place} cannot be written ({error.strerror}); name a folder that this machine"
                    " and the job's share"
                ) from error
        reserve(config, overrides, place)
        return place


def recorded_job(run: Path) -> Mapping[str, Any]:
    """Return the record of the job that writes a run.

    Raises:
        ResumeError: If it was not written by a job.
    """
    if not (run / FILE).is_file():
        raise ResumeError(f"resume: {run} has no {FILE}; it can be resumed where it was launched")
    return read_record(run)


@contextmanager
def _removed_if_refused(*folders: Path) -> Iterator[None]:
    """Remove the run directories of a job that was refused."""
    try:
        yield
    except (LostAnswer, Detached):
        raise
    except BreedlabError:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # of other runs
                folder.parent.rmdir()
                folder.parent.parent.rmdir()
        raise
