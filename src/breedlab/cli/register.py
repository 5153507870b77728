"""`breedlab deploy --register` and `--from-registry`: versions of models in SageMaker's model
registry."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from breedlab.cli import deploy as deploying
from breedlab.cli.deploy_flags import account_of
from breedlab.commands import command
from breedlab.console import console, note, stage
from breedlab.errors import BackendError


def register(args: argparse.Namespace) -> int:
    """Register a model as a new version of a group, once it has answered an image here.

    Raises:
        BreedlabError: With one message for the user.
    """
    from breedlab.backends.sagemaker import checks, session, upload
    from breedlab.backends.sagemaker.endpoints import archive_check, registry
    from breedlab.serving.description import read_description

    photo = deploying._photo(args)
    with deploying._model(args.model, None if args.dry_run else args) as (folder, archive):
        archive_check.lint(folder, imports=False)
        account, place, found = (
            (None, None, []) if args.dry_run else session.inspect(account_of(args))
        )
        place = place or session.planned(account_of(args))
        deployment = deploying._described(args, place, folder, archive)
        lineage, metrics = read_description(folder)["lineage"], registry.metrics_of(args.model)
        sent = registry.requests(
            deployment, args.register, args.approval or "pending", lineage, metrics
        )
        problems = [
            p
            for n, r in enumerate(sent)
            for p in checks.model_problems(r, deploying._SET_BY, sent[:n])
        ]
        deploying._refuse([*found, *problems])
        if account is None:
            print(f"model package group {args.register} (dry run: nothing is sent)\n")
            print(f"archive  {args.model} goes to {deployment.model}\n")
            for number, request in enumerate(sent, 1):
                aside = (
                    ", where the group is not there yet"
                    if request.operation == "CreateModelPackageGroup"
                    else ""
                )
                deploying._print_request(number, request, aside)
            return 0
        deploying._answer_here(folder, photo, args)
        stage("Registry")
        upload.upload_archive(account, archive, deployment.model, deployment.kms_key)
        if metrics is not None:
            registry.upload_metrics(account, deployment, metrics)
        version = registry.register(account, sent)
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
    return 0


@contextmanager
def from_registry(args: argparse.Namespace) -> Iterator[None]:
    """Have the args name a version's archive, which lies here meanwhile.

    Raises:
        BackendError: If there is no such version, it is not approved, or does not suit the instance
            type.
    """
    from breedlab.backends.sagemaker import session
    from breedlab.backends.sagemaker.endpoints import endpoint, registry

    with tempfile.TemporaryDirectory(prefix="breedlab-") as scratch:
        with deploying._flags_named():
            account = session.connect(args.region, "--region")
        args.package = registry.find(account, args.from_registry)
        stage(f"Version {args.package}")
        note(f"{args.package.arn}, {args.package.approval}")
        image = args.package.image
        machine = args.instance_type or "ml.m5.large"
        if "/pytorch-inference" in image:
            wanted = endpoint.inference_image(machine, str(account.region_name))
            if _processors(wanted) != _processors(image):
                raise BackendError(
                    f"--instance-type {machine}: version {args.package} was registered with"
                    f" {image}, which is for other processors; register the model again with this"
                    " --instance-type"
                )
        else:
            args.image = image
        args.model = registry.download(account, args.package, Path(scratch))
        yield


def _processors(image: str) -> tuple[bool, bool]:
    return "-gpu-" in image, "-arm64" in image
