"""SageMaker's side of jobs, on this machine: the container's files, its two ways to start, and what
is kept of it.

The container is an environment with PyTorch and AWS's training toolkit, as AWS's images have them.
What else a job needs it installs itself, from its source. PyTorch alone is lent from the tests' own
environment: it is 5 GB.
"""

from __future__ import annotations

import math
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import preloaded
import psutil
import pytest
from filelock import FileLock
from job_tree import Request, keep, lay_out
from sagemaker_account import Account

# $0 becomes /opt/ml and $1 /etc/hosts, for this job only; the rest of /opt stays what it is.
_OWN = """
set -e
mount --rbind /opt "$2"
mount -t tmpfs tmpfs /opt
for other in "$2"/*/; do
    mkdir "/opt/$(basename "$other")"
    mount --bind "$other" "/opt/$(basename "$other")"
done
mkdir -p /opt/ml
mount --bind "$0" /opt/ml
mount --bind "$1" /etc/hosts
shift 2
cd /
exec "$@"
"""


def can_run() -> bool:
    """Whether `/opt/ml` can be had in a mount namespace of one's own: on Linux, as root."""
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


needs_namespace = pytest.mark.skipif(
    not can_run(), reason="needs Linux and root: /opt/ml is mounted in a namespace of its own"
)


@dataclass
class Ended:
    """How a job ended.

    Attributes:
        code: The exit status of each host.
        log: What each host printed.
        tree: Each host's `/opt/ml`.
    """

    code: list[int]
    log: list[str]
    tree: list[Path]

    @property
    def failure(self) -> str | None:
        """What SageMaker would give as the reason."""
        found = [tree / "output" / "failure" for tree in self.tree]
        return next((path.read_text() for path in found if path.exists()), None)

    @property
    def checkpoints(self) -> Path:
        return self.tree[0] / "checkpoints"


@dataclass
class Container:
    """Runs jobs.

    Attributes:
        bin: Of the environment that `build_image` made.
        folder: For the trees of its jobs.
        url: Of the account.
    """

    bin: Path
    folder: Path
    url: str
    _started: list[Running] = field(default_factory=list, init=False)

    def close(self) -> None:
        """Ends what a test that failed has left running."""
        for job in self._started:
            for process, tree in zip(job.processes, job.tree, strict=True):
                while left := _working_in(tree):
                    for pid in left:
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                process.wait()

    def run(self, name: str, request: Request, values: Mapping[str, str] | None = None) -> Ended:
        """Runs a job to its end.

        Args:
            name: The training job's.
            request: What `CreateTrainingJob` got, or a tuning job's `TrainingJobDefinition`.
            values: The trial's hyperparameters beside the fixed ones.
        """
        return self.start(name, request, values).wait()

    def start(
        self, name: str, request: Request, values: Mapping[str, str] | None = None
    ) -> Running:
        """Starts a job on each of its hosts."""
        hosts = [
            f"algo-{number + 1}" for number in range(request["ResourceConfig"]["InstanceCount"])
        ]
        number = len(self._started) + 1
        names = self.folder / f"hosts-{number}"
        # A container knows its own name, too: a torchrun that is alone asks for it.
        names.write_text(
            "".join(f"127.0.0.1 {host}\n" for host in ("localhost", socket.gethostname(), *hosts))
        )
        job = Running([], [], name, request)
        self._started.append(job)
        # All hosts of all jobs, other test processes' too, share one environment here, in which one
        # at a time may install.
        with FileLock(self.bin.parent / "install.lock"):
            for host in hosts:
                tree = self.folder / f"{name}-{number}-{host}"
                lay_out(tree, name, request, values or {}, host, hosts)
                if job.processes:
                    job.wait_for("Running Torchrun Driver|Invoking script")
                job.processes.append(self._start(tree, name, request, names))
                job.tree.append(tree)
            job.wait_for("^› ", timeout=600, may_end=True)  # packages are installed first
        return job

    def _start(
        self, tree: Path, name: str, request: Request, hosts: Path
    ) -> subprocess.Popen[bytes]:
        algorithm = request["AlgorithmSpecification"]
        if "ContainerEntrypoint" in algorithm:
            # The first process of the container, as it is on SageMaker, with all that this means to
            # signals.
            apart = ["--pid", "--fork", "--kill-child", "--mount-proc"]
            command = [*algorithm["ContainerEntrypoint"], *algorithm["ContainerArguments"]]
        else:
            apart, command = [], ["train"]  # which the image's own first process starts
        kept = {
            key: value
            for key, value in os.environ.items()
            if key.startswith(("AWS_", "PIP_")) or key == "HOME"
        }
        environment = {
            **kept,
            **request.get("Environment", {}),
            "PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "SAGEMAKER_TRAINING_MODULE": "sagemaker_pytorch_container.training:main",
            "TRAINING_JOB_NAME": name,
            "AWS_REGION": "us-east-1",
            "S3_ENDPOINT_URL": self.url,
            "PYTHONUNBUFFERED": "1",  # as in AWS's images
            "OMP_NUM_THREADS": "1",
            # Compiling all that is installed takes longer than importing what a job uses of it.
            "PIP_NO_COMPILE": "1",
            "TMPDIR": str(tree / "tmp"),  # what a container has to itself
        }
        aside = self.folder / "opt"
        aside.mkdir(exist_ok=True)
        with (tree / "log").open("wb") as log:
            return preloaded.FreshPopen(
                [
                    "unshare",
                    "-m",
                    *apart,
                    "bash",
                    "-c",
                    _OWN,
                    str(tree),
                    str(hosts),
                    str(aside),
                    *command,
                ],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )


@dataclass
class Running:
    """A job that was started."""

    processes: list[subprocess.Popen[bytes]]
    tree: list[Path]
    name: str
    request: Request

    def wait(self, timeout: float = 300) -> Ended:
        """Waits for its end; its files are kept in S3 as SageMaker keeps them."""
        codes = [process.wait(timeout) for process in self.processes]
        _settle(self.tree)
        keep(self.tree[0], self.name, self.request)
        return Ended(codes, [self.log(host) for host in range(len(self.tree))], self.tree)

    def terminate(self, host: int = 0) -> None:
        """What SageMaker does to stop a job: SIGTERM to the container's first process, and to no
        other."""
        process = psutil.Process(self.processes[host].pid)
        if "ContainerEntrypoint" in self.request["AlgorithmSpecification"]:
            (process,) = process.children()  # of unshare
        process.send_signal(signal.SIGTERM)

    def log(self, host: int = 0) -> str:
        return (self.tree[host] / "log").read_text()

    def wait_for(self, pattern: str, timeout: float = 120, may_end: bool = False) -> None:
        """Waits until the first host has printed something, or has ended where it may have
        before."""
        until = time.monotonic() + timeout
        while not re.search(pattern, self.log(), re.MULTILINE):
            if (ended := self.processes[0].poll() is not None) and may_end:
                return
            assert time.monotonic() < until and not ended, self.log()
            time.sleep(0.05)


class Service(threading.Thread):
    """What SageMaker does with the jobs that an account was asked for: runs them, one after the
    other."""

    def __init__(self, account: Account, container: Container) -> None:
        super().__init__(daemon=True)
        self.account, self.container = account, container
        self.ended: dict[str, Ended] = {}
        self.error: BaseException | None = None
        self._enough = threading.Event()

    def run(self) -> None:
        try:
            while not self._enough.wait(0.1):
                for name, job in list(self.account.tuning.items()):
                    if job["HyperParameterTuningJobStatus"] == "InProgress":
                        self._search(name, job)
                for name, job in list(self.account.training.items()):
                    if job["TrainingJobStatus"] == "InProgress":
                        ended = self.ended[name] = self.container.run(name, job)
                        self.account.end_training(name, **_verdict(ended))
        except BaseException as error:
            self.error = error
            for name in self.account.tuning:
                self.account.end_tuning(name, "Failed")
            for name in self.account.training:
                self.account.end_training(name, "Failed")

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self.join(300)
        if self.error:
            raise self.error

    def _search(self, tuning: str, job: Request) -> None:
        """Every trial, its values drawn from the request's ranges, its objective found by the
        request's regex."""
        search, definition = job["HyperParameterTuningJobConfig"], job["TrainingJobDefinition"]
        metric = search["HyperParameterTuningJobObjective"]["MetricName"]
        regexes = {
            each["Name"]: each["Regex"]
            for each in definition["AlgorithmSpecification"]["MetricDefinitions"]
        }
        drawn = random.Random(search["RandomSeed"])
        for number in range(search["ResourceLimits"]["MaxNumberOfTrainingJobs"]):
            values = draw(search["ParameterRanges"], drawn)
            name = f"{tuning}-{number + 1:03}-0123abcd"
            ended = self.ended[name] = self.container.run(name, definition, values)
            found = {name: re.findall(regex, ended.log[0]) for name, regex in regexes.items()}
            last = {name: float(values[-1]) for name, values in found.items() if values}
            metrics = [{"MetricName": name, "Value": value} for name, value in last.items()]
            added = self.account.add_trial(
                tuning, values, last.get(metric), FinalMetricDataList=metrics, **_verdict(ended)
            )
            assert added == name
        self.account.end_tuning(tuning)


def draw(ranges: Mapping[str, Any], drawn: random.Random) -> dict[str, str]:
    """One point of a request's `ParameterRanges`, as text."""
    values = {}
    for each in ranges.get("ContinuousParameterRanges", []) + ranges.get(
        "IntegerParameterRanges", []
    ):
        low, high = float(each["MinValue"]), float(each["MaxValue"])
        if each["ScalingType"] == "Logarithmic":
            number = math.exp(drawn.uniform(math.log(low), math.log(high)))
        else:
            number = drawn.uniform(low, high)
        values[each["Name"]] = (
            str(round(number)) if each in ranges.get("IntegerParameterRanges", []) else repr(number)
        )
    for each in ranges.get("CategoricalParameterRanges", []):
        values[each["Name"]] = drawn.choice(each["Values"])
    return values


def _verdict(ended: Ended) -> dict[str, Any]:
    if not any(ended.code):
        return {"status": "Completed"}
    return {"status": "Failed", "FailureReason": (ended.failure or "AlgorithmError")[:1024]}


def _settle(trees: list[Path]) -> None:
    """Waits for what outlives the process that a job was started by: SageMaker waits for the
    container."""
    until = time.monotonic() + 60
    while any(_working_in(tree) for tree in trees):
        assert time.monotonic() < until, "the job does not end"
        time.sleep(0.1)


def _working_in(tree: Path) -> list[int]:
    """The processes of a job's host."""
    here = str(tree / "tmp").encode()
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if b"TMPDIR=" + here + b"\0" in environment.read_bytes():
                found.append(int(environment.parent.name))
    return found
