"""What was launched: next to the run directory's config, and once more in the bucket, for other
machines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breedlab.backends.base import FILE
from breedlab.backends.sagemaker.jobs.requests import Experiment
from breedlab.backends.sagemaker.session import AwsTarget, aws_errors, client, split_uri
from breedlab.backends.sagemaker.upload import put
from breedlab.commands import command
from breedlab.config import validate
from breedlab.config.environment import resolved
from breedlab.config.migrations import KEY, stamp, upgrade
from breedlab.errors import BackendError, NotFound, NotOurs
from breedlab.files import atomic_write_text, damaged

if TYPE_CHECKING:
    import boto3


@dataclass(frozen=True)
class Record:
    """A launched experiment: enough to follow, continue, stop and fetch it from anywhere.

    Attributes:
        name: Of its first job.
        final_name: Of the job that leaves the model; the same where nothing is searched by a tuning
            job.
        place: Where in AWS.
        image: The container image.
        data: The address of the images.
        fingerprint: Of the images that were checked here; None for those that were in S3.
        config: The whole config, plain.
        overrides: What the user typed.
        started: When, in ISO format.
        git: The commit that was launched from.
        run: The run directory on this machine, None on others.
        state: `sending` from before its first job is asked for until AWS has answered, then
            `started`.
        orchestrate: Who starts the job that leaves the model: the `laptop` that follows the first,
            or a `pipeline` in the account.
        execution: The ARN of the pipeline's execution; empty before AWS has returned it.
        jobs: The names that a pipeline gave its jobs, by ours; empty where jobs have our names.
    """

    name: str
    final_name: str
    place: AwsTarget
    image: str
    data: str
    fingerprint: str | None
    config: dict[str, Any]
    overrides: list[str]
    started: str
    git: dict[str, Any] | None
    run: Path | None = None
    state: str = "started"
    orchestrate: str = "laptop"
    execution: str = ""
    jobs: dict[str, str] = field(default_factory=dict)

    @property
    def first_job(self) -> str:
        """What AWS calls its first job."""
        return self.jobs.get(self.name, self.name)

    @property
    def final_job(self) -> str:
        """What AWS calls the job that leaves the model."""
        return self.jobs.get(self.final_name, self.final_name)

    def experiment(self) -> Experiment:
        """Return what is needed to build the requests that are not sent yet."""
        # The weights were uploaded; the file need not be on this machine any more.
        tree = {**self.config, "model": {**self.config["model"], "weights": "none"}}
        # Nor need its environment be this machine's: the images were uploaded, too.
        tree, _ = resolved(tree, lenient=True)
        config = validate(tree, self.name, recorded=True)
        weights, _ = resolved({"weights": self.config["model"]["weights"]}, lenient=True)
        model = config.model.model_copy(update=weights)
        return Experiment(
            config.model_copy(update={"model": model}), self.place, self.name, self.image, self.data
        )

    def plain(self) -> dict[str, Any]:
        """Return the content of job.json."""
        return stamp({name: value for name, value in asdict(self).items() if name != "run"})

    @property
    def searches(self) -> bool:
        """Whether the first job is a tuning job."""
        return self.final_name != self.name

    @property
    def searches_inside(self) -> bool:
        """Whether the one job there is runs a search in itself."""
        return not self.searches and bool(self.config["tuner"]["strategy"] != "none")


def save(record: Record, session: boto3.Session, kms_key: str | None) -> None:
    """Write a record to the bucket and to the run directory."""
    text = json.dumps(record.plain(), indent=2)
    put(
        client(session, "s3"),
        record.place.bucket,
        _key(record.place.prefix, record.name),
        text.encode(),
        kms_key,
    )
    if record.run is not None:
        atomic_write_text(record.run / FILE, text)


def forget(record: Record, session: boto3.Session) -> None:
    """Remove the record of a launch that AWS refused, and the run directory that was reserved for
    it."""
    with suppress(BackendError), aws_errors():
        bucket, key = record.place.bucket, _key(record.place.prefix, record.name)
        client(session, "s3").delete_object(Bucket=bucket, Key=key)
    if record.run is not None:
        shutil.rmtree(record.run, ignore_errors=True)
        with suppress(OSError):  # of other runs
            record.run.parent.rmdir()
            record.run.parent.parent.rmdir()


def find_in_bucket(session: boto3.Session, name: str) -> Record:
    """Return the record of a job launched from another machine, read from where AWS says the job
    writes.

    Raises:
        BackendError: If there is no such job, or it is not breedlab's.
    """
    output = _output_of(session, name)
    bucket, key = split_uri(output)
    folder = key.rpartition("/output")[0]
    s3 = client(session, "s3")
    with aws_errors(name):
        try:
            text = s3.get_object(Bucket=bucket, Key=f"{folder}/{FILE}")["Body"].read().decode()
        except s3.exceptions.NoSuchKey as error:
            raise NotOurs(f"{name}: breedlab did not launch this job of the account") from error
    return _read(text)


def with_run(record: Record, run: Path) -> Record:
    """Return the record with a run directory of its own."""
    return replace(record, run=run)


def _output_of(session: boto3.Session, name: str) -> str:
    """Return the output address of a job of either kind."""
    from botocore.exceptions import ClientError

    sagemaker = client(session, "sagemaker")
    for operation, key in (
        ("describe_hyper_parameter_tuning_job", "HyperParameterTuningJobName"),
        ("describe_training_job", "TrainingJobName"),
    ):
        with aws_errors(name):
            try:
                response = getattr(sagemaker, operation)(**{key: name})
            except ClientError as error:
                if error.response["Error"]["Code"] not in (
                    "ResourceNotFound",
                    "ValidationException",
                ):
                    raise
            else:
                return str(
                    response.get("TrainingJobDefinition", response)["OutputDataConfig"][
                        "S3OutputPath"
                    ]
                )
    from breedlab.backends.sagemaker.jobs.pipeline_status import described_pipeline

    if pipeline := described_pipeline(session, name):
        if output := _output_of_steps(json.loads(pipeline["PipelineDefinition"])):
            return output
        raise NotOurs(f"{name}: breedlab did not launch this pipeline of the account")
    where = session.region_name
    raise NotFound(
        f"{name}: no job of this name in {where}; list yours with `{command('jobs', 'list')}`"
    )


def _output_of_steps(definition: Mapping[str, Any]) -> str | None:
    """Return where the first step of a pipeline writes its output; None if nothing says."""
    for step in definition.get("Steps", []):
        arguments = step.get("Arguments", {})
        job = arguments.get("TrainingJobDefinition", arguments)
        output = job.get("OutputDataConfig", {}).get("S3OutputPath")
        return output if isinstance(output, str) else None
    return None


def _key(prefix: str, name: str) -> str:
    return f"{prefix}/jobs/{name}/{FILE}"


def from_tree(tree: Mapping[str, Any], run: Path | None) -> Record:
    """Return the record that job.json holds, in the current version's terms.

    Args:
        tree: Its content.
        run: The run directory that it is in, None if it is in the bucket.
    """
    names = {each.name for each in fields(Record)}
    values = {name: value for name, value in tree.items() if name in names}
    return Record(**{**values, "place": AwsTarget(**values["place"]), "run": run})


def _read(text: str) -> Record:
    place = f"the record ({FILE}) in the bucket"
    try:
        read = json.loads(text)
    except ValueError as error:
        raise damaged(place, "it is empty" if not text.strip() else str(error)) from error
    source = f"{read.get('name', '')}: {FILE}"
    tree = upgrade(read, "job", source)
    tree["config"] = upgrade({KEY: read.get(KEY, 1), **tree["config"]}, "run", source)
    return from_tree(tree, None)
