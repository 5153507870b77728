"""The `Backend` of Amazon SageMaker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breedlab import extras
from breedlab.backends.base import Backend, Handle, ListedJob, Send, Store
from breedlab.commands import command
from breedlab.config import Config
from breedlab.console import note
from breedlab.errors import BackendError, MissingExtra, ResumeError

if TYPE_CHECKING:
    import boto3

    from breedlab.backends.operations import Account, BatchJobs, Endpoints
    from breedlab.backends.sagemaker.jobs.record import Record


class SageMakerBackend(Backend):
    """A backend that runs experiments as jobs in an AWS account."""

    def __init__(self) -> None:
        self._accounts: dict[str, boto3.Session | BackendError] = {}

    def plan(self, config: Config, resume: Path | None) -> str:
        from breedlab.backends.sagemaker.jobs.plan import plan

        _refuse_resume(resume)
        return plan(config)

    def submit(self, config: Config, overrides: list[str], resume: Path | None) -> Handle:
        _refuse_resume(resume)
        from breedlab.backends.sagemaker.jobs.launch import launch

        account, record = launch(config, overrides)
        note(f"started: {record.name}")
        return _handle(record, lambda: account)

    def reopen(self, record: Mapping[str, Any], run: Path) -> Handle:
        from breedlab.backends.sagemaker.jobs.record import from_tree

        opened = from_tree(record, run)
        return _handle(opened, lambda: self._account(opened.place.region))

    def find(self, name: str, where: str | None) -> Handle | None:
        from breedlab.backends.sagemaker.jobs.lookup import find_in_bucket
        from breedlab.backends.sagemaker.session import connect

        account = connect(where, "--region")
        return _handle(find_in_bucket(account, name), lambda: account)

    def stop(self, name: str, where: str | None) -> list[str] | None:
        from breedlab.backends.sagemaker.jobs.account_jobs import stop
        from breedlab.backends.sagemaker.session import connect

        return [stop(connect(where, "--region"), name)]

    def everyones(self, where: str | None) -> tuple[str, list[ListedJob]] | None:
        from breedlab.backends.sagemaker.jobs.account_jobs import find_ours
        from breedlab.backends.sagemaker.session import connect

        account = connect(where, "--region")
        return str(account.region_name), find_ours(account)

    def store(self, address: str, where: str | None, key: str | None) -> Store:
        from breedlab.backends.sagemaker.upload import Bucket

        return Bucket(address, where, key)

    def endpoint(self, name: str, where: str | None) -> AbstractContextManager[Send]:
        try:
            from breedlab.backends.sagemaker.endpoints.invoke import sending
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"--endpoint {name}: a SageMaker endpoint needs the package {error.name}, of the"
                f" sagemaker extra: {extras.install('sagemaker')}"
            ) from error
        return sending(name, where)

    def deploy(self, model: Path) -> str:
        from breedlab.backends.sagemaker.endpoints.deploy import deploy
        from breedlab.config.endpoint import Endpoint

        return deploy(Endpoint(), model)

    def delete(self, endpoint: str) -> None:
        from breedlab.backends.sagemaker.endpoints.deploy import delete

        delete(endpoint, None)

    def account(self) -> Account:
        from breedlab.backends.sagemaker.account import SageMakerAccount

        return SageMakerAccount()

    def batch_jobs(self) -> BatchJobs:
        from breedlab.backends.sagemaker.endpoints.batch import TransformJobs

        return TransformJobs()

    def endpoints(self) -> Endpoints:
        from breedlab.backends.sagemaker.endpoints.managing import SageMakerEndpoints

        return SageMakerEndpoints()

    def _account(self, region: str) -> boto3.Session:
        """Return the session of a region, or raise what was said of it before."""
        from breedlab.backends.sagemaker.session import connect

        if region not in self._accounts:
            try:
                self._accounts[region] = connect(region, "--region")
            except BackendError as error:
                self._accounts[region] = error
        account = self._accounts[region]
        if isinstance(account, BackendError):
            raise account
        return account


def _handle(record: Record, connect: Callable[[], boto3.Session]) -> Handle:
    from breedlab.backends.sagemaker.jobs.handle import SageMakerExperiment
    from breedlab.backends.sagemaker.jobs.pipeline_handle import PipelineExperiment

    kind = PipelineExperiment if record.orchestrate == "pipeline" else SageMakerExperiment
    return kind(record, connect)


def _refuse_resume(resume: Path | None) -> None:
    if resume is not None:
        raise ResumeError(
            f"resume: {resume} runs on SageMaker, where a job keeps running on its own;"
            f" follow it with: {command('jobs', 'fetch', resume)}"
        )
