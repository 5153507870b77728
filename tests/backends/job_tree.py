"""What a job finds at `/opt/ml`, and what is kept of it in S3: both are SageMaker's doing."""

from __future__ import annotations

import io
import json
import tarfile
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from breedlab.backends.sagemaker.jobs.job_files import is_of_a_trial

Request = Mapping[str, Any]


def lay_out(
    tree: Path, name: str, request: Request, values: Mapping[str, str], host: str, hosts: list[str]
) -> None:
    """Makes what SageMaker mounts at `/opt/ml`."""
    for folder in (
        "input/config",
        "input/data",
        "model",
        "output/data",
        "checkpoints",
        "code",
        "tmp",
    ):
        (tree / folder).mkdir(parents=True)
    instance = request["ResourceConfig"]["InstanceType"]
    hyperparameters = {
        **request.get("HyperParameters", {}),
        **request.get("StaticHyperParameters", {}),
        **values,
    }
    if values:
        hyperparameters["_tuning_objective_metric"] = request["AlgorithmSpecification"][
            "MetricDefinitions"
        ][0]["Name"]
    group = {"instance_group_name": "homogeneousCluster", "instance_type": instance, "hosts": hosts}
    written = {
        "hyperparameters": hyperparameters,
        "resourceconfig": {
            "current_host": host,
            "current_instance_type": instance,
            "current_group_name": "homogeneousCluster",
            "hosts": hosts,
            "instance_groups": [group],
            "network_interface_name": "lo",
        },
        "inputdataconfig": {
            channel["ChannelName"]: {
                "TrainingInputMode": "File",
                "S3DistributionType": "FullyReplicated",
            }
            for channel in request["InputDataConfig"]
        },
    }
    for file, content in written.items():
        (tree / "input/config" / f"{file}.json").write_text(json.dumps(content))
    for channel in request["InputDataConfig"]:
        _download(
            channel["DataSource"]["S3DataSource"]["S3Uri"],
            tree / "input/data" / channel["ChannelName"],
        )
    if "CheckpointConfig" in request:
        _download(request["CheckpointConfig"]["S3Uri"] + "/", tree / "checkpoints", must=False)


def _download(uri: str, folder: Path, must: bool = True) -> None:
    """What lies at an address: a file, or all that begins with it."""
    bucket, prefix = _address(uri)
    found = {key: content for key, content in _kept(bucket).items() if key.startswith(prefix)}
    assert found or not must, f"nothing at {uri}"
    for key, content in found.items():
        target = folder / (key.removeprefix(prefix).lstrip("/") or Path(key).name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.value)


def keep(tree: Path, name: str, request: Request) -> None:
    """Puts into S3 what SageMaker puts there when a job has ended."""
    if "CheckpointConfig" in request:
        bucket, key = _address(request["CheckpointConfig"]["S3Uri"])
        for file in sorted(path for path in (tree / "checkpoints").rglob("*") if path.is_file()):
            _put(bucket, f"{key}/{file.relative_to(tree / 'checkpoints')}", file)
    bucket, key = _address(request["OutputDataConfig"]["S3OutputPath"])
    archive = tree / "model.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=0) as tar:
        for path in sorted((tree / "model").iterdir()):
            tar.add(path, arcname=path.name)
    _put(bucket, f"{key}/{name}/output/model.tar.gz", archive)
    if any((tree / "output" / "data").iterdir()):
        archive = tree / "output.tar.gz"
        with tarfile.open(archive, "w:gz", compresslevel=0) as tar:
            tar.add(tree / "output" / "data", arcname=".")
        _put(bucket, f"{key}/{name}/output/output.tar.gz", archive)


def put_output(run: Path, name: str, request: Request) -> None:
    """Puts what a trial leaves of its run directory into S3, as `keep` does of a job that ran."""
    bucket, key = _address(request["OutputDataConfig"]["S3OutputPath"])
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path in run.rglob("*"):
            if path.is_file() and is_of_a_trial(inside := path.relative_to(run).as_posix()):
                tar.add(path, arcname=f"./{name}/{inside}")
    store = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    store.put_object(bucket, f"{key}/{name}/output/output.tar.gz", packed.getvalue())


def _kept(bucket: str) -> dict[str, Any]:
    """What the account's bucket holds, by key.

    SageMaker reads and writes S3 from inside AWS. Asking moto for hundreds of images over HTTP
    would take each job seconds of both ends' time.
    """
    store = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[bucket]
    return dict(sorted(store.keys.items()))


def _put(bucket: str, key: str, file: Path) -> None:
    s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket, key, file.read_bytes())


def _address(uri: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(uri)
    return parts.netloc, parts.path.lstrip("/")
