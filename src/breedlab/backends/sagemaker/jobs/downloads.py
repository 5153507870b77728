"""What jobs left in S3, brought to this machine."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breedlab.backends.sagemaker.jobs.record import Record
from breedlab.backends.sagemaker.session import aws_errors, client
from breedlab.backends.sagemaker.upload import stored
from breedlab.config.sections import Monitor
from breedlab.console import progress
from breedlab.errors import BackendError
from breedlab.files import atomic_open
from breedlab.training.objective import best_epoch, interval_names

if TYPE_CHECKING:
    import boto3


def download(
    account: boto3.Session, record: Record, folder: str, job: str, run: Path, place: Any
) -> int:
    """Download what a job wrote to its checkpoint folder.

    Args:
        account: The session.
        record: The experiment.
        folder: The checkpoint folder's name in the bucket.
        job: The training job.
        run: Where to.
        place: From a file's name in the job's run directory to its name here, None to leave it
            there.

    Returns:
        How many files there are, whether they were here already or not.
    """
    from s3transfer.manager import TransferConfig, TransferManager

    bucket, prefix = record.place.bucket, f"{record.place.prefix}/jobs/{record.name}/{folder}/"
    s3 = client(account, "s3")
    with aws_errors(job), progress(f"fetching {job}") as report:
        files: list[tuple[str, Path, int, float]] = []
        for key, (size, changed) in stored(s3, bucket, prefix).items():
            # The folder of several jobs; AWS may put one more level of the job's name between.
            within = f"/{key}".rpartition(f"/{job}/")[2] if f"/{job}/" in key else ""
            name = place(within) if within and not within.endswith("/") else None
            if name is None:
                continue
            if ".." in Path(name).parts or name.startswith("/"):
                raise BackendError(
                    f"s3://{bucket}/{key}: would be written outside the run directory"
                )
            files.append((key, run / name, size, changed))
        missing = [
            (key, path, changed)
            for key, path, size, changed in files
            if not _is_here(path, size, changed)
        ]
        finished = len(files) - len(missing)
        with TransferManager(s3, TransferConfig(max_request_concurrency=24)) as manager:
            futures = []
            for key, path, changed in missing:
                path.parent.mkdir(parents=True, exist_ok=True)
                futures.append((manager.download(bucket, key, str(path)), path, changed))
            for future, path, changed in futures:
                future.result()
                os.utime(path, (changed, changed))
                finished += 1
                report(finished, len(files))
    return len(files)


def unpack_output(account: boto3.Session, record: Record, job: str, run: Path, place: Any) -> None:
    """Unpack what a job without a checkpoint folder wrote, which SageMaker packs at its end.

    Args:
        account: The session.
        record: The experiment.
        job: The training job.
        run: Where to.
        place: From a file's name in the job's run directory to its name here, None to leave it
            there.
    """
    bucket, key = (
        record.place.bucket,
        f"{record.place.prefix}/jobs/{record.name}/output/{job}/output/output.tar.gz",
    )
    s3 = client(account, "s3")
    with tempfile.TemporaryFile() as packed, aws_errors(job):
        if key not in stored(s3, bucket, key):
            return  # it failed before it had anything
        s3.download_fileobj(bucket, key, packed)
        packed.seek(0)
        with tarfile.open(fileobj=packed, mode="r:gz") as archive:
            for member in archive:
                name = (
                    place(member.name.removeprefix("./").removeprefix(f"{job}/"))
                    if member.isfile()
                    else None
                )
                if name is None:
                    continue
                if ".." in Path(name).parts or name.startswith("/"):
                    raise BackendError(
                        f"s3://{bucket}/{key}: {member.name} would be written outside the run"
                        " directory"
                    )
                content = archive.extractfile(member)
                assert content
                (run / name).parent.mkdir(parents=True, exist_ok=True)
                with atomic_open(run / name) as file:
                    shutil.copyfileobj(content, file)


def _is_here(path: Path, size: int, changed: float) -> bool:
    """Return whether a file is the one in S3. Weights of a later epoch have the same size, so the
    time has to match, too; fetching sets it to the object's."""
    if not path.is_file():
        return False
    status = path.stat()
    return status.st_size == size and abs(status.st_mtime - changed) < 0.001


def read_trial(
    folder: Path, monitor: Monitor
) -> tuple[list[dict[str, float]], tuple[float, float] | None]:
    """Return a trial's metrics by epoch and the 95% interval of its objective from its TensorBoard
    events; no epochs if it wrote none, no interval of a metric that is not a rate."""
    low, high = interval_names(monitor.metric)
    every = _by_epoch(folder, ("train/", "valid/", low, high))
    epochs = [{n: v for n, v in epoch.items() if n not in (low, high)} for epoch in every]
    known = [epoch for epoch in every if low in epoch]
    if not known:
        return epochs, None
    best = known[best_epoch(known, monitor.metric, monitor.mode)]
    return epochs, (best[low], best[high])


def _by_epoch(folder: Path, prefixes: tuple[str, ...]) -> list[dict[str, float]]:
    """Return the scalars whose names begin so, by epoch."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.is_dir():
        return []
    events = EventAccumulator(str(folder))
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if name.startswith(prefixes)]
    epochs: list[dict[str, float]] = []
    for name in names:
        for number, event in enumerate(events.Scalars(name)):
            if number == len(epochs):
                epochs.append({})
            epochs[number][name] = event.value
    return epochs
