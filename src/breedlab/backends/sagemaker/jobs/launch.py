"""Launching: everything checked, then images and source uploaded, then the job started and
followed."""

from __future__ import annotations

import tarfile
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from breedlab.backends.sagemaker import checks, images, preflight, session, vendoring
from breedlab.backends.sagemaker.documented_limits import notices
from breedlab.backends.sagemaker.jobs import job_logging, job_secrets, pipeline, warm_start
from breedlab.backends.sagemaker.jobs.job_start import send
from breedlab.backends.sagemaker.jobs.record import Record
from breedlab.backends.sagemaker.jobs.recorded_start import start_on_record
from breedlab.backends.sagemaker.jobs.requests import (
    ARCHIVE,
    Experiment,
    each_trial_is_a_job,
    processes,
    weights_file,
)
from breedlab.backends.sagemaker.jobs.requests import requests as job_requests
from breedlab.backends.sagemaker.jobs.source import REQUIREMENTS, UNDECLARED, write_source
from breedlab.backends.sagemaker.prices import bill_problems, largest_bill, quoted
from breedlab.backends.sagemaker.request import Request
from breedlab.backends.sagemaker.session import aws_errors, client, split_uri
from breedlab.backends.submission import new_name
from breedlab.config import Config, trial_count
from breedlab.config.problems import Problem, error_from
from breedlab.console import note, stage, warn
from breedlab.errors import DataError
from breedlab.pipeline.suitability import cap_batch_sizes

if TYPE_CHECKING:
    import boto3


def launch(config: Config, overrides: list[str]) -> tuple[boto3.Session, Record]:
    """Start an experiment's first job.

    Raises:
        BreedlabError: Before anything is uploaded, naming everything that AWS would refuse.
    """
    stage("Checking")
    account, place, problems = session.inspect(config.backend)
    config = job_logging.tracked(config)
    problems += job_secrets.secret_problems(config)
    problems += job_secrets.definition_problems(config)
    problems += job_logging.logger_problems(config)
    overrides = job_secrets.texts_without(overrides, config)
    config = job_secrets.without_secrets(config)
    in_s3 = config.data.root.startswith("s3://")
    if not in_s3:
        config = _with_fitting_batches(config)
    where = place or session.planned(config.backend)
    problems += checks.offline_problems(config, where.region)
    quote = quoted(account, config.backend, "Training") if account else None
    money = (config.backend, where.region, trial_count(config), each_trial_is_a_job(config), quote)
    if not where.region.startswith("<"):
        problems += bill_problems(*money)
    if account and in_s3:
        problems += _data_problems(account, config.data.root)
    findings = preflight.Findings()
    parents: tuple[Request, ...] = ()
    if account and place:
        at_once = (
            min(config.tuner.parallel, trial_count(config)) if each_trial_is_a_job(config) else 1
        )
        findings = preflight.look(
            account, place.role, preflight.training_needs(config.backend, at_once)
        )
        parents = warm_start.parents(account, config, findings)
        problems += findings.problems
    if account and config.backend.job_name:
        problems += _name_problems(account, config)
    image = images.training_image(config.backend, where.region)
    name = new_name(config, datetime.now())
    experiment = Experiment(
        config, where, name, image, config.data.root if in_s3 else where.uri("data", "0" * 32)
    )
    with tempfile.TemporaryDirectory(prefix="breedlab-") as scratch:
        source = Path(scratch, "source")
        source.mkdir()
        write_source(source, config)
        requests = planned_requests(experiment)
        problems += checks.source_problems(source)
        problems += checks.request_problems(requests, experiment, parents)
        if problems:
            raise error_from(problems, "backend=sagemaker", "BL411")
        assert account and place
        note(f"account and requests are in order; {place.region}, {image}")
        findings.tell_unchecked()
        for request in job_requests(experiment):
            for notice in notices((request.operation, request.parameters), findings.enough):
                warn(notice)
        note(f"largest bill: {(bill := largest_bill(*money))}; {bill.source}")
        if config.backend.vendor:
            _add_wheels(source)
        experiment, fingerprint = _with_images(account, experiment)
        _upload_code(account, experiment, Path(scratch))
    record = _record(experiment, overrides, fingerprint)
    return account, start(account, record)


def planned_requests(experiment: Experiment) -> list[Request]:
    """Return what an experiment sends, in order: its jobs, or the pipeline that starts them."""
    if pipeline.is_pipeline(experiment.config):
        from breedlab.pipeline.lineage import git_state

        return pipeline.requests(experiment, git_state())
    return job_requests(experiment)


def start(account: boto3.Session, record: Record) -> Record:
    """Start an experiment's pipeline, or its first job.

    Raises:
        BackendError: If AWS refuses, or no answer came.
    """
    if record.orchestrate == "pipeline":
        from breedlab.backends.sagemaker.jobs.pipeline_start import start_pipeline

        return start_pipeline(account, record)
    return start_first(account, record)


def start_first(account: boto3.Session, record: Record) -> Record:
    """Start an experiment's first job; its record is written before, so that an interruption loses
    no job.

    Raises:
        Detached: After Ctrl-C; the job may have been started.
        BackendError: If AWS refuses; then nothing is left of it. Or if no answer came; then its
            record is.
    """
    experiment = record.experiment()
    first = job_requests(experiment)[0]
    stage(f"Starting {first.name}")

    def send_first() -> str:
        send(account, first)
        return ""

    return start_on_record(
        account, record, experiment.config.backend.kms.output, first.name, send_first
    )


def _with_fitting_batches(config: Config) -> Config:
    """Return the config without batch sizes to search that no images can fill; a trial that is a
    job tries any."""
    from breedlab.pipeline.plan import find_images

    try:
        images = find_images(config).counts["train"]
    except DataError:  # reported when the images are checked, after what AWS would refuse
        return config
    config, notice = cap_batch_sizes(config, images)
    if notice:
        note(notice)
    return config


def _name_problems(account: boto3.Session, config: Config) -> list[Problem]:
    """Return a problem for each job or pipeline that already has the name chosen by the user."""
    from breedlab.backends.sagemaker.jobs.pipeline_status import described_pipeline
    from breedlab.backends.sagemaker.jobs.status import training_status, tuning_status

    name = str(config.backend.job_name)
    kinds = []
    if tuning_status(account, name).state or training_status(account, name).state:
        kinds.append("job")
    if pipeline.is_pipeline(config) and described_pipeline(account, name):
        kinds.append("pipeline")
    return [
        Problem(
            "backend.job_name",
            f"the account already has a {kind} {name!r}; a name can be used only once",
        )
        for kind in kinds
    ]


def _data_problems(account: boto3.Session, root: str) -> list[Problem]:
    """Return the problems with an address of images in S3, as far as one request shows."""
    bucket, key = split_uri(root)
    problems = session.bucket_problems(account, "data.root", bucket)
    if problems:
        return problems
    prefix = f"{key}/" if key else ""
    with aws_errors(root):
        pages = client(account, "s3").list_objects_v2(Bucket=bucket, Prefix=prefix, Delimiter="/")
    folders = [
        entry["Prefix"].removeprefix(prefix).rstrip("/")
        for entry in pages.get("CommonPrefixes", [])
    ]
    if not folders:
        return [
            Problem(
                "data.root",
                f"no images found under {root}/; expected {root}/train/<class>/photo.jpg",
            )
        ]
    return []


def _with_images(account: boto3.Session, experiment: Experiment) -> tuple[Experiment, str | None]:
    """Return the experiment with the address of its images, uploading them if needed."""
    config = experiment.config
    if config.data.root.startswith("s3://"):
        return experiment, None
    from breedlab.backends.sagemaker.upload import upload_images
    from breedlab.pipeline.checked_images import checked_images

    stage("Data")
    report = checked_images(config)
    data = upload_images(account, experiment.place, report, config.backend.kms.output)
    return replace(experiment, data=data), report.fingerprint


def _upload_code(account: boto3.Session, experiment: Experiment, scratch: Path) -> None:
    """Upload the source archive, the start scripts, and a file of weights if there is one."""
    from breedlab.backends.sagemaker.jobs.start_scripts import write_start_scripts
    from breedlab.backends.sagemaker.upload import upload_files

    config = experiment.config
    archive = pack(scratch / "source", scratch / ARCHIVE)
    scripts = scratch / "sm_drivers"
    write_start_scripts(scripts, processes(config), config.backend.instance_count)
    files = [(archive, experiment.uri("source", ARCHIVE))]
    files += [
        (path, experiment.uri("sm_drivers", path.relative_to(scripts).as_posix()))
        for path in sorted(scripts.rglob("*"))
        if path.is_file()
    ]
    if weights := weights_file(config):
        files.append((weights, experiment.uri("weights", weights.name)))
    keys = [(path, split_uri(uri)[1]) for path, uri in files]
    upload_files(
        account, keys, experiment.place.bucket, config.backend.kms.output, "uploading the source"
    )


def pack(folder: Path, archive: Path) -> Path:
    """Pack a folder; the same content gives the same bytes."""
    import gzip

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime, member.uid, member.gid, member.uname, member.gname = 0, 0, 0, "", ""
        return member

    with (
        archive.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=path.name, filter=plain)
    return archive


def _add_wheels(source: Path) -> None:
    """Add what the job would install; before the images, which take longer and are of no use to a
    job without it."""
    stage("Packages")
    files = [path for name in (REQUIREMENTS, UNDECLARED) if (path := source / name).is_file()]
    vendoring.collect(source, files)
    wheels = list((source / vendoring.WHEELS).iterdir())
    size = sum(wheel.stat().st_size for wheel in wheels)
    note(f"{len(wheels)} wheels are shipped with the source, {size / 1e6:,.0f} MB")


def _record(experiment: Experiment, overrides: list[str], fingerprint: str | None) -> Record:
    from breedlab.pipeline.lineage import git_state
    from breedlab.pipeline.rundir import reserve

    return Record(
        name=experiment.name,
        final_name=experiment.final_name,
        place=experiment.place,
        image=experiment.image,
        data=experiment.data,
        fingerprint=fingerprint,
        config=experiment.config.recorded(),
        overrides=overrides,
        started=datetime.now().astimezone().isoformat(timespec="seconds"),
        git=git_state(),
        run=reserve(experiment.config, overrides),
        orchestrate=experiment.config.backend.orchestrate,
    )
