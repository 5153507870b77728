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
from breedlab.backends.sagemaker.session import AwsTarget, aws_errors, client
from breedlab.backends.sagemaker.upload import put
from breedlab.config import validate
from breedlab.config.environment import resolved
from breedlab.config.migrations import stamp
from breedlab.errors import BackendError
from breedlab.files import atomic_write_text

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


def with_run(record: Record, run: Path) -> Record:
    """Return the record with a run directory of its own."""
    return replace(record, run=run)


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
