"""Inside a job: what SageMaker's environment means to a config, and where the run's files go."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from breedlab import archives, weight_files
from breedlab.backends.sagemaker.jobs.hyperparameters import decode, encode
from breedlab.backends.sagemaker.jobs.job_files import FileFilter, everything, is_of_a_trial
from breedlab.backends.submission import CONFIG
from breedlab.commands import command
from breedlab.config import Config, validate
from breedlab.config.cloud import trials_are_jobs
from breedlab.config.environment import resolved
from breedlab.config.plugins import load_plugins
from breedlab.config.validate import with_values
from breedlab.config.yaml_folders import parsed
from breedlab.errors import BackendError
from breedlab.names import counted

DATA_CHANNEL = "training"
"""The channel that holds the images: `train/<class>/*.jpg`, and `valid` and `test`."""

WEIGHTS_CHANNEL = "weights"
"""The channel that holds the one file that `model.weights` names."""


@dataclass(frozen=True)
class Job:
    """A job's place and task.

    Attributes:
        name: Of the training job.
        stage: `trial` of a tuning job; `final`, which trains what a search found; `run`, which does
            all that the config asks for.
        hyperparameters: By SageMaker's name.
        channels: Their folders, by name.
        model: The folder that becomes `model.tar.gz`.
        output: The folder in which SageMaker looks for `failure`; what is in its `data` goes to S3
            at the end.
        checkpoints: The folder that SageMaker keeps in step with S3.
        rank: Of this process among all of the job's.
        hosts: How many instances the job has.
        processes: How many processes train together.
    """

    name: str
    stage: str
    hyperparameters: Mapping[str, Any]
    channels: Mapping[str, Path]
    model: Path
    output: Path
    checkpoints: Path
    rank: int
    hosts: int
    processes: int

    @property
    def run(self) -> Path:
        """The run directory, on a disk of the job's own; see `job_files`."""
        return work_folder() / "job" / self.name

    def kept(self, config: Config) -> tuple[Path, FileFilter]:
        """Return the folder that what is kept of the run directory is copied to, and what that is.

        The checkpoints of several jobs may share one address, so it is a subfolder a job. A trial
        continues from its checkpoints only where a spot instance is taken back. Else it has no
        checkpoint folder: it would begin by downloading what every trial before it left there.
        """
        if self.stage == "trial" and not config.backend.spot:
            return self.output / "data" / self.name, is_of_a_trial
        return self.checkpoints / self.name, everything


def read_job(environment: Mapping[str, str]) -> Job:
    """Return the job's environment, as set by AWS's training toolkit or by SDK v3's start scripts.

    Raises:
        BackendError: If it is not that of a job.
    """
    missing = [name for name in ("SM_HPS", "SM_MODEL_DIR") if name not in environment]
    if missing:
        raise BackendError(
            f"{' and '.join(missing)}: not set; SageMaker starts entry/train.py;"
            f" on your own machine, use {command('launch')}"
        )
    model = Path(environment["SM_MODEL_DIR"])
    channels = json.loads(environment.get("SM_CHANNELS", "[]"))
    return Job(
        name=environment.get("TRAINING_JOB_NAME") or "job",
        stage=environment.get("BREEDLAB_STAGE", ""),
        hyperparameters=json.loads(environment["SM_HPS"]),
        channels={name: Path(environment[f"SM_CHANNEL_{name.upper()}"]) for name in channels},
        model=model,
        output=Path(environment.get("SM_OUTPUT_DIR", model.parent / "output")),
        checkpoints=model.parent / "checkpoints",
        rank=int(environment.get("RANK", "0")),
        hosts=len(json.loads(environment.get("SM_HOSTS", "[1]"))),
        processes=int(environment.get("WORLD_SIZE", "1")),
    )


def job_config(tree: Mapping[str, Any], job: Job) -> tuple[Config, list[str]]:
    """Return a job's config, and as text its changes to the experiment's.

    Args:
        tree: The experiment's config, as the source holds it.
        job: Its stage, hyperparameters, and folders.

    Raises:
        ConfigError: Naming each hyperparameter that the config does not take.
        BackendError: If its instances were not started together, or a channel is missing.
    """
    if job.hosts > 1 and job.processes == 1:
        raise BackendError(
            f"backend.instance_count: the job has {job.hosts} instances, but each started on"
            " its own; torchrun has to start them (in a tuning job by the hyperparameter"
            " sagemaker_torch_distributed_enabled=true)"
        )
    # whose settings a hyperparameter may be; what is wrong is reported below
    load_plugins(tree.get("plugins"))
    tree, _ = resolved(tree, lenient=True)  # the shell's environment is not the job's
    values = decode(job.hyperparameters)
    words = [f"{path}={encode(value)}" for path, value in values.items()]
    stage = stage_of(tree, job)
    if stage == "trial":
        # As a trial on this machine: its own number of epochs, all of them.
        values = {
            **values,
            "trainer.max_epochs": tree["tuner"]["max_epochs"],
            "trainer.patience": None,
        }
    if stage in ("trial", "final"):
        values["tuner.strategy"] = "none"
        values["tuner.trials"] = None
    return (
        validate(
            with_values(dict(tree), {**_place(tree, job), **values}),
            "the job's config",
            recorded=True,
        ),
        words,
    )


def stage_of(tree: Mapping[str, Any], job: Job) -> str:
    """Return a job's stage; without one in its environment it follows from the config: with a
    search of `job_each` it is a trial."""
    if job.stage:
        return job.stage
    tuner = tree["tuner"]
    warm_start, freeze = tuner.get("warm_start", ()), tree["model"]["freeze"]
    searched = trials_are_jobs(tree["backend"]["trials"], tuner["strategy"], freeze, warm_start)
    return "trial" if searched else "run"


def _place(tree: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """Return the settings of paths in a job. What is not kept goes to the working directory."""
    place: dict[str, Any] = {
        "dry_run": False,
        "resume": None,
        "cache.dir": "cache",
        "runs_dir": "runs",
    }
    if folder := job.channels.get(DATA_CHANNEL):
        place["data.root"] = str(folder)
    elif str(tree["data"]["root"]).startswith("s3:"):
        raise BackendError(
            f"data.root: {tree['data']['root']} is in S3, but the job has no channel"
            f" {DATA_CHANNEL!r}"
        )
    weights = Path(tree["model"]["weights"])
    if WEIGHTS_CHANNEL in job.channels:
        file = job.channels[WEIGHTS_CHANNEL] / weights.name
        # its name may come from the environment
        only = next(job.channels[WEIGHTS_CHANNEL].iterdir(), file)
        place["model.weights"] = str(file if file.exists() else only)
    elif weights.name.endswith(weight_files.ENDINGS):
        raise BackendError(
            f"model.weights: {weights} is a file, but the job has no channel {WEIGHTS_CHANNEL!r}"
        )
    return place


def read_config(source: Path) -> dict[str, Any]:
    """Return the experiment's config in a job's source."""
    tree = parsed((source / CONFIG).read_text("utf-8"))
    assert isinstance(tree, dict)
    return tree


def work_folder() -> Path:
    """Return a folder for what a job needs only while it runs: caches, and images that it draws or
    downloads."""
    folder = Path(tempfile.gettempdir(), "breedlab")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def refuse_blind_container(environment: Mapping[str, str], config: Config) -> None:
    """Raise if the instance has GPUs that the container does not see: training there is paid for
    and never ends.

    Raises:
        BackendError: Naming what may be wrong.
    """
    expected = int(environment.get("BREEDLAB_GPUS", "0"))
    if not expected or config.trainer.accelerator == "cpu":
        return
    import torch

    if torch.cuda.is_available():
        return
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
    raise BackendError(
        f"backend.image: the instance has {counted(expected, 'GPU')}, but the"
        f" container sees none: its PyTorch {torch.__version__} is {built}; use a GPU image"
        " whose CUDA the instance's driver supports, or trainer.accelerator=cpu"
    )


def follow_starters() -> None:
    """Have this process stopped when one of those that started it ends; nothing else would stop it.

    The toolkit hands no signal on to what it starts; asked to stop, it just ends.
    """
    import psutil

    starters = [process for process in psutil.Process().parents() if process.pid > 1]

    def wait() -> None:
        _wait_for_one(starters)
        nowhere = os.open(os.devnull, os.O_WRONLY)  # the reader of the output is gone as well
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _wait_for_one(processes: list[Any]) -> None:
    """Return when one of some processes has ended."""
    poll = select.poll()
    try:
        for process in processes:
            poll.register(os.pidfd_open(process.pid), select.POLLIN)
    except (AttributeError, OSError):  # an older kernel, or a sandbox that blocks the call
        while all(process.is_running() and process.status() != "zombie" for process in processes):
            time.sleep(0.5)
        return
    poll.poll()


def hand_over(job: Job, run: Path) -> None:
    """Put a run's unpacked model where SageMaker expects it; SageMaker packs it again."""
    # not extractall(filter=...), which Python has from 3.11.4 on: Debian's is older
    with archives.opened(run) as content:
        shutil.copytree(content, job.model, dirs_exist_ok=True)


def report_failure(output: Path, message: str) -> None:
    """Write the message where SageMaker reads the job's failure reason (its first 1,024
    characters).

    The first to fail says why; what follows in other processes follows from that.
    """
    output.mkdir(parents=True, exist_ok=True)
    try:
        with (output / "failure").open("x") as file:
            file.write(message)
    except FileExistsError:
        return
