"""A Ray cluster, by its Jobs API: one job runs a whole experiment on one node, as `backend=local`
does here."""

from __future__ import annotations

import json
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from breedlab import extras
from breedlab.backends.base import Backend, Handle, ListedJob
from breedlab.backends.kinds import BackendKind
from breedlab.backends.shared_folder import SharedFolderBackend, SharedFolderJob, recorded_job
from breedlab.backends.submission import (
    new_name,
    sent_environment,
    start_words,
    user_name,
    write_code,
    write_start,
)
from breedlab.config import Config
from breedlab.config.section import Location, matching
from breedlab.console import note, warn
from breedlab.errors import BackendError, DataError, LostAnswer, MissingExtra, NotFound, NotOurs
from breedlab.registry import BACKENDS

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

DEFAULT = "http://127.0.0.1:8265"
_TIMEOUT_S = 10.0
_NOT_YET, _TRIES, _BETWEEN_S = "No available agent", 30, 2.0
"""What a cluster answers until it takes jobs, and how often a job is sent to it until then."""
_STATES = {"SUCCEEDED": "complete"}
_ADDRESS = matching(r"https?://\S+", f"an address such as {DEFAULT}")
_ABSOLUTE = matching(r"/.*", "an absolute path, such as /mnt/runs")
_OURS = "breedlab"
"""The key of a job's metadata that says that breedlab launched it."""


@BACKENDS.register("ray")
class Ray(BackendKind):
    """Jobs on a Ray cluster."""

    same_paths: ClassVar[bool] = True

    address: Annotated[str, _ADDRESS] | None = None
    """The address of the cluster's dashboard; null is `RAY_ADDRESS`, or http://127.0.0.1:8265."""
    storage: Annotated[Location, _ABSOLUTE] | None = None
    """A folder for run directories that this machine and the cluster's nodes share; null is
    `runs_dir`."""
    cpus: Annotated[float, Field(gt=0)] | None = None
    """CPUs that a job reserves, and threads that it uses; null reserves none and uses all."""
    gpus: Annotated[float, Field(gt=0)] | None = None
    """GPUs that a job reserves; without `gpus` and `cpus` it runs on the head node."""
    python: str = "python"
    """The Python on the cluster's nodes that has breedlab's requirements installed."""

    def build(self) -> Backend:
        return RayBackend(self)


class RayBackend(SharedFolderBackend):
    """A backend that runs experiments as jobs on a Ray cluster."""

    def __init__(self, settings: Ray) -> None:
        self.settings, self.storage = settings, settings.storage
        self._clients: dict[str, JobSubmissionClient | BackendError] = {}

    @property
    def where(self) -> str:
        return (self.settings.address or os.environ.get("RAY_ADDRESS") or DEFAULT).rstrip("/")

    def client(self, address: str) -> JobSubmissionClient:
        """Return the client of an address, or raise what was said of it before."""
        if address not in self._clients:
            try:
                self._clients[address] = _connect(address)
            except BackendError as error:
                self._clients[address] = error
        client = self._clients[address]
        if isinstance(client, BackendError):
            raise client
        return client

    def job(self, tree: Mapping[str, Any], run: Path) -> SharedFolderJob:
        return RayJob(self, tree, run)

    def check(self, name: str) -> None:
        if _info(self.client(self.where), name) is not None:
            raise BackendError(
                f"backend.job_name: {self.where} already has a job {name!r}; a name can be used"
                " only once"
            )

    def plan(self, config: Config, resume: Path | None) -> str:
        from breedlab.pipeline.plan import plan

        try:
            job = plan(config, resume)
        except DataError as error:  # the images need not be on this machine
            job = f"the images cannot be counted from here: {error}"
        now = datetime.now()
        name, place = new_name(config, now), self.place(config, f"{now:%Y-%m-%d_%H-%M-%S}")
        if resume is not None:
            last = self.job(recorded_job(resume), resume)
            name, place = last.next_name, last.place
        with tempfile.TemporaryDirectory(prefix="breedlab-") as scratch:
            request = self.request(config, name, place, Path(scratch))
        request["runtime_env"]["working_dir"] = "<breedlab, the config, and its plugins>"
        return (
            f"one job on a Ray cluster (dry run: nothing is sent)\n\n"
            f"POST {self.where}/api/jobs/\n{json.dumps(request, indent=2)}\n\n{job}"
        )

    def find(self, name: str, where: str | None) -> Handle | None:
        found = self._look_up(name, where)
        if found is None:
            return None
        client, metadata = found
        return self.elsewhere(Path(metadata["run"]), name, client.get_address())

    def stop(self, name: str, where: str | None) -> list[str] | None:
        found = self._look_up(name, where)
        if found is None:
            return None
        client, metadata = found
        with _answers(client.get_address()):
            stopped = client.stop_job(name)
        if not stopped:
            return [f"nothing to stop: {name}: has ended"]
        return [f"{name}: stopping; what it has written stays in {metadata['run']}/"]

    def everyones(self, where: str | None) -> tuple[str, list[ListedJob]] | None:
        client = self._client_if_any(where)
        if client is None:
            return None
        with _answers(client.get_address()):
            found = client.list_jobs()
        jobs = [_listed(info) for info in found if _OURS in (info.metadata or {})]
        newest_first = sorted(jobs, key=lambda job: job.created, reverse=True)
        return client.get_address(), newest_first

    def request(self, config: Config, name: str, place: Path, folder: Path) -> dict[str, Any]:
        """Return the arguments of `submit_job`, and write the job's code.

        Args:
            config: The experiment.
            name: The job's.
            place: The run directory that it writes.
            folder: An empty one, for the code.
        """
        settings, environment = self.settings, config.backend.environment
        needed = write_code(folder, config)
        write_start(folder)
        if needed and settings.python != "python":
            warn(
                f"backend.ray.python: Ray installs packages for its own Python only; install what"
                f" plugins need for {settings.python}, too: {', '.join(needed)}"
            )
            needed = []
        words = start_words(settings.python, place)
        if settings.cpus is None and "OMP_NUM_THREADS" not in environment:
            words = ["env", "-u", "OMP_NUM_THREADS", *words]  # which Ray sets to 1
        # A stopped job saves after its current step; Ray would kill it after 3 seconds.
        own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_JOB_STOP_WAIT_TIME_S": "60"}
        runtime = {"working_dir": str(folder), "env_vars": {**own, **environment}}
        request = {
            "submission_id": name,
            "entrypoint": shlex.join(words),
            "runtime_env": {**runtime, "pip": needed} if needed else runtime,
            "metadata": {_OURS: config.name, "user": user_name(), "run": str(place)},
            "entrypoint_num_cpus": settings.cpus,
            "entrypoint_num_gpus": settings.gpus,
        }
        return {key: value for key, value in request.items() if value is not None}

    def _client_if_any(self, where: str | None) -> JobSubmissionClient | None:
        """Return a client, or None if there is no cluster and the user named none."""
        if where is not None and not where.startswith("http"):
            return None  # a region or the like
        try:
            return self.client((where or self.where).rstrip("/"))
        except BackendError:
            if where is not None or "RAY_ADDRESS" in os.environ:
                raise
            return None

    def _look_up(
        self, name: str, where: str | None
    ) -> tuple[JobSubmissionClient, dict[str, str]] | None:
        """Return the cluster and the metadata of a job that breedlab launched on any machine; None
        if another backend may know it."""
        client = self._client_if_any(where)
        info = None if client is None else _info(client, name)
        if client is None or (info is None and where is None):
            return None
        if info is None:
            raise NotFound(f"{name}: {where} has no job of this name")
        metadata = info.metadata or {}
        if _OURS not in metadata:
            raise NotOurs(f"{name}: breedlab did not launch this job, so it leaves it alone")
        return client, metadata


class RayJob(SharedFolderJob):
    """A job on a cluster."""

    def __init__(self, backend: RayBackend, tree: Mapping[str, Any], run: Path) -> None:
        super().__init__(tree, run)
        self._backend = backend

    @property
    def _client(self) -> JobSubmissionClient:
        return self._backend.client(self.where)

    def state(self, submission: str) -> str:
        info = _info(self._client, submission)
        return "" if info is None else _state(info)

    def lines(self, submission: str) -> list[str]:
        with _answers(self._client.get_address()):
            return self._client.get_job_logs(submission).expandtabs(1).splitlines()

    def reason(self, submission: str) -> str:
        info = _info(self._client, submission)
        return (info.message or "") if info is not None else ""

    def end(self, submission: str) -> None:
        with _answers(self._client.get_address()):
            self._client.stop_job(submission)

    def send(self, config: Config, name: str) -> None:
        with tempfile.TemporaryDirectory(prefix="breedlab-") as scratch:
            request = self._backend.request(config, name, self.place, Path(scratch))
            request["runtime_env"]["env_vars"] |= sent_environment(config)
            with _answers(self._client.get_address(), sent=name):
                _submit(self._client, request)


def _submit(client: JobSubmissionClient, request: Mapping[str, Any]) -> None:
    """Submit a job; a cluster that was started just now takes it a few seconds later."""
    for left in reversed(range(_TRIES)):
        try:
            client.submit_job(**request)
            return
        except RuntimeError as error:
            if _NOT_YET not in str(error) or not left:
                raise
        if left == _TRIES - 1:
            note("the cluster takes no jobs yet; trying for a minute")
        time.sleep(_BETWEEN_S)


def _connect(address: str) -> JobSubmissionClient:
    """Return a client of a cluster that answers.

    Raises:
        MissingExtra: If Ray is not installed here.
        BackendError: If no cluster answers, or its version of Ray is incompatible.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray.job_submission import JobSubmissionClient
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"backend=ray needs the ray extra ({error.name} is not installed):"
            f" {extras.install('ray')}"
        ) from error
    theirs = _version(address)
    if theirs and theirs.split(".")[0] != ray.__version__.split(".")[0]:
        raise BackendError(
            f"{address}: the cluster runs Ray {theirs}, and {ray.__version__} is installed here;"
            " install the cluster's version"
        )
    if theirs and theirs != ray.__version__:
        warn(f"{address} runs Ray {theirs}; {ray.__version__} is installed here")
    logging.getLogger("ray").setLevel(logging.WARNING)
    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
    # The client would prefer these to the address that it is given.
    variables = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    hidden = {name: os.environ.pop(name) for name in variables if name in os.environ}
    try:
        with _answers(address):
            return JobSubmissionClient(address)
    finally:
        os.environ.update(hidden)


def _version(address: str) -> str:
    """Return the version of Ray that answers at an address; empty if it needs a token to tell.

    Ray's own client would wait forever where nothing answers."""
    from urllib3 import PoolManager
    from urllib3.exceptions import HTTPError

    start = (
        "start a cluster with `ray start --head`, or name one: backend.ray.address=http://HOST:8265"
    )
    try:
        with PoolManager(retries=False, timeout=_TIMEOUT_S) as http:
            answer = http.request("GET", f"{address}/api/version")
        return "" if answer.status in (401, 403) else str(answer.json()["ray_version"])
    except HTTPError as error:
        raise BackendError(f"{address}: no Ray cluster answers; {start}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BackendError(
            f"{address}: answers, but not as Ray's dashboard does; {start}"
        ) from error


@contextmanager
def _answers(address: str, sent: str = "") -> Iterator[None]:
    """Raise breedlab's errors for those of the client of an address; `sent` is the name of the job
    that is being sent."""
    from ray.exceptions import RayError

    try:
        yield
    except OSError as error:  # requests' own errors, too
        if sent:
            raise LostAnswer(f"{sent}: {address} did not answer; it may be running") from error
        raise BackendError(f"{address}: the cluster does not answer any more") from error
    except (RuntimeError, ValueError, RayError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BackendError(f"{address}: the cluster refused this: {reason}") from error


def _info(client: JobSubmissionClient, name: str) -> JobDetails | None:
    """Return a job as the cluster knows it; None if it does not."""
    with _answers(client.get_address()):
        try:
            return client.get_job_info(name)
        except RuntimeError as error:
            if "status code 404" in str(error):
                return None
            raise


def _state(info: JobDetails) -> str:
    return _STATES.get(info.status.value, info.status.value.lower())


def _listed(info: JobDetails) -> ListedJob:
    metadata = info.metadata or {}
    return ListedJob(
        name=str(info.submission_id),
        kind="job",
        experiment=metadata[_OURS],
        user=metadata.get("user", "?"),
        created=datetime.fromtimestamp((info.start_time or 0) / 1000).astimezone(),
        state=_state(info),
        price=0,
    )
