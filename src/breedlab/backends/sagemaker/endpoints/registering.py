"""Register a model in SageMaker's model registry, or take a version from it to be deployed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from breedlab.backends.sagemaker import session, upload
from breedlab.backends.sagemaker.endpoints import archive_check, registry
from breedlab.backends.sagemaker.endpoints.before_sending import (
    answer_here,
    arn_problems,
    print_request,
    refuse,
    request_problems,
    settings_of_endpoint,
)
from breedlab.backends.sagemaker.endpoints.deployment import (
    MACHINE,
    account_of,
    deciding_image,
    described,
    opened_model,
    vendored_for,
)
from breedlab.backends.sagemaker.endpoints.inference_image import inference_image
from breedlab.commands import command
from breedlab.config.endpoint import Endpoint
from breedlab.console import console, note, stage
from breedlab.errors import BackendError


def register(endpoint: Endpoint, model: Path, group: str, approval: str, dry_run: bool) -> None:
    """Register a model as a new version of a group, once it has answered an image here.

    Args:
        endpoint: The settings.
        model: An archive, or a run directory.
        group: The group's name.
        approval: `pending`, `approved` or `rejected`.
        dry_run: Whether to print the requests and send none.

    Raises:
        BreedlabError: With one message for the user.
    """
    from breedlab.serving.description import read_description

    image = deciding_image(endpoint, model)
    vendored = None if dry_run else vendored_for(endpoint)
    with opened_model(model, vendored) as (folder, archive):
        archive_check.lint(folder, imports=False)
        settings = account_of(endpoint, model)
        account, place, problems = (None, None, []) if dry_run else session.inspect(settings)
        place = place or session.planned(settings)
        deployment = described(endpoint, model, place, folder, archive)
        lineage, metrics = read_description(folder)["lineage"], registry.metrics_of(model)
        requests = registry.requests(deployment, group, approval, lineage, metrics)
        refuse([*problems, *arn_problems(deployment), *request_problems(requests)])
        if account is None:
            print(f"model package group {group} (dry run: nothing is sent)\n")
            print(f"archive  {model} goes to {deployment.model}\n")
            for number, request in enumerate(requests, 1):
                is_group = request.operation == "CreateModelPackageGroup"
                print_request(number, request, ", if the group does not exist yet" * is_group)
            return
        answer_here(folder, image, endpoint.inference_env)
        stage("Registry")
        upload.upload_archive(account, archive, deployment.model, deployment.kms_key)
        if metrics is not None:
            registry.upload_metrics(account, deployment, metrics)
        version = registry.register(account, requests)
    console.print(f"\nregistered as {version}, {version.approval}: {version.arn}\n", markup=False)
    region = session.region_flag(account.region_name)
    if version.approval != "Approved":
        console.print(
            f"approve  aws sagemaker update-model-package{region} --model-package-arn {version.arn}"
            " --model-approval-status Approved",
            markup=False,
            soft_wrap=True,
        )
    console.print(f"deploy   {command('deploy')} --from-registry {version}{region}", markup=False)


@contextmanager
def taken(endpoint: Endpoint, reference: str) -> Iterator[tuple[Endpoint, Path, registry.Version]]:
    """Give the settings that suit a version, its archive, downloaded for the duration of the block,
    and the version.

    Raises:
        BackendError: If there is no such version, it is not approved, or does not suit the instance
            type.
    """
    with tempfile.TemporaryDirectory(prefix="breedlab-") as scratch:
        with settings_of_endpoint():
            account = session.connect(endpoint.region, "endpoint.region")
        version = registry.find(account, reference)
        stage(f"Version {version}")
        note(f"{version.arn}, {version.approval}")
        endpoint = _suited(endpoint, version, str(account.region_name))
        yield endpoint, registry.download(account, version, Path(scratch)), version


def _suited(endpoint: Endpoint, version: registry.Version, region: str) -> Endpoint:
    if "/pytorch-inference" not in version.image:
        return endpoint.model_copy(update={"image": version.image})
    machine = endpoint.instance_type or MACHINE
    if _processors(inference_image(machine, region)) != _processors(version.image):
        raise BackendError(
            f"endpoint.instance_type={machine}: version {version} was registered with"
            f" {version.image}, which is for other processors; register the model again with"
            f" endpoint.instance_type={machine}"
        )
    return endpoint


def _processors(image: str) -> tuple[bool, bool]:
    return "-gpu-" in image, "-arm64" in image
