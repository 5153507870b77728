"""`breedlab deploy`: a model behind an endpoint on Amazon SageMaker."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from breedlab.cli.deploy_flags import account_of, deployment_of, parse
from breedlab.commands import command
from breedlab.console import console, note, stage, warn
from breedlab.errors import BackendError, DataError
from breedlab.files import read_json_if_whole

if TYPE_CHECKING:
    from breedlab.backends.sagemaker.endpoints.endpoint import Deployment
    from breedlab.backends.sagemaker.request import Request
    from breedlab.backends.sagemaker.session import Place
    from breedlab.config.problems import Problem

_SET_BY = {
    "InstanceType": "--instance-type",
    "InitialInstanceCount": "--min-instances",
    "MinCapacity": "--min-instances",
    "MaxCapacity": "--max-instances",
    "ExecutionRoleArn": "--role",
    "Image": "--image",
    "Tags": "--tag",
    "Environment": "--env",
    "KmsKeyId": "--kms-key",
    "VpcConfig": "--subnet and --security-group",
    "ModelDataUrl": "--bucket",
    "S3OutputPath": "--async-output",
    "DestinationS3Uri": "--capture-to",
    "InitialSamplingPercentage": "--capture",
    "MemorySizeInMB": "--memory-mb",
    "MaxConcurrency": "--max-concurrency",
    "ProvisionedConcurrency": "--provisioned-concurrency",
    "MaxConcurrentInvocationsPerInstance": "--async-concurrency",
    "SuccessTopic": "--success-topic",
    "ErrorTopic": "--error-topic",
    "VolumeSizeInGB": "--volume-gb",
    "ContainerStartupHealthCheckTimeoutInSeconds": "--startup-timeout",
    "WaitIntervalInSeconds": "--step-wait",
    "TerminationWaitInSeconds": "--keep-old",
    "AlarmName": "--alarm",
    "TargetValue": "--scale-target",
    "ScaleInCooldown": "--scale-in-cooldown",
    "ScaleOutCooldown": "--scale-out-cooldown",
    "EndpointName": "--name",
}
"""Which flag a field of a request comes from."""


def main(argv: list[str]) -> int:
    """Makes, updates or deletes an endpoint; 0 once it has answered a photo.

    Raises:
        BreedlabError: With one message for the person.
    """
    words = parse(argv)
    from breedlab.backends.sagemaker.session import require_extra

    require_extra()
    try:
        if words.delete:
            return _delete(words)
        if words.list:
            return _list(words)
        if words.register is not None:
            from breedlab.cli.register import register

            return register(words)
        if words.from_registry is not None:
            from breedlab.cli.register import from_registry

            with from_registry(words):
                return _deploy(words)
        return _plan(words) if words.dry_run else _deploy(words)
    except KeyboardInterrupt:
        from breedlab.backends.sagemaker.endpoints import rollout

        hint = ""
        if rollout.waiting_for:
            name, how_to_delete = rollout.waiting_for
            hint = (
                f"; AWS goes on with endpoint {name}. The same command comes back to it, and"
                f" {how_to_delete} removes it"
            )
        print(f"interrupted{hint}", file=sys.stderr)
        return 130


def _delete(words: argparse.Namespace) -> int:
    from breedlab.backends.sagemaker import session
    from breedlab.backends.sagemaker.endpoints import ownership

    with _flags_named():
        account = session.connect(words.region, "--region")
    stage(f"Deleting {words.delete}")
    done = ownership.delete(account, words.delete)
    for text in done.gone:
        note(f"deleted {text}")
    for text in done.left:
        note(f"left {text}")
    return 0


def _list(words: argparse.Namespace) -> int:
    from breedlab.backends.sagemaker import session
    from breedlab.backends.sagemaker.endpoints import listing

    with _flags_named():
        account = session.connect(words.region, "--region")
    listing.show(listing.endpoints(account), str(account.region_name))
    return 0


def _plan(words: argparse.Namespace) -> int:
    """Prints what would be sent, and what it still needs."""
    from breedlab.backends.sagemaker import session
    from breedlab.backends.sagemaker.endpoints import archive_check, autoscaling, endpoint
    from breedlab.backends.sagemaker.endpoints.cost import cost_of

    if words.photo is not None:
        _photo(words)  # refused now, not at the launch
    # whose wheels are collected at the launch, from a package index
    with _model(words.model) as (folder, archive):
        size = archive_check.lint(folder, imports=False)
        place = session.planned(account_of(words))
        deployment = _described(words, place, folder, archive)
        _refuse(_problems(deployment))
    cost = cost_of(deployment, words.price_per_hour)
    made = endpoint.requests(deployment, exists=False)
    update = endpoint.requests(deployment, exists=True)[2]
    print(f"endpoint {deployment.name}, {deployment.kind} (dry run: nothing is sent)\n")
    print(f"archive  {words.model}: {size / 1e6:.1f} MB unpacked, goes to {deployment.model}")
    print(f"image    {deployment.image}")
    print(f"costs    {_as_flags(str(cost))}")
    if words.vendor:
        print(
            "wheels   are added at the launch, so that the versions below, and the archive's"
            " address, will be others"
        )
    print(
        "before   the archive is imported and answers one photo here; nothing is sent if it"
        " does not"
    )
    print(
        "after    one photo to the endpoint decides; if it gets no scores, everything is undone\n"
    )
    if any(request.parameters.get("PolicyType") == "StepScaling" for request in made):
        made.append(autoscaling.wake_alarm(deployment.name, "<ARN of the step policy>"))
    for number, request in enumerate(made, 1):
        _print_request(number, request)
        if request.operation == "CreateEndpoint":
            print(f"or, where the endpoint is there already: {update.service} {update.operation}")
            print(json.dumps(update.parameters, indent=2) + "\n")
    needs = session.needed(place)
    needs += [f"a price: {problem.path} USD, since {cost.source}" for problem in cost.problems()]
    print("a launch needs AWS credentials" + (", and" if needs else ""))
    for text in needs:
        print(f"  {_as_flags(text)}")
    return 0


def _deploy(words: argparse.Namespace) -> int:
    from breedlab.backends.sagemaker import preflight, session
    from breedlab.backends.sagemaker.endpoints import archive_check, hidden_home, torchserve
    from breedlab.backends.sagemaker.endpoints.cost import cost_of
    from breedlab.backends.sagemaker.endpoints.rollout import Rollout

    photo = _photo(words)
    with _model(words.model, words) as (folder, archive):
        stage("Archive")
        if text := hidden_home.exposed():
            warn(text)
        # Without the stack its code is imported for the photo, and for nothing else before that.
        python, _ = torchserve.find_environment(words.inference_env)
        size = archive_check.lint(folder, imports=python is not None)
        note(f"{words.model}: complete, {size / 1e6:.1f} MB unpacked")
        account, place, found = session.inspect(account_of(words))
        if place is None:
            place = session.planned(account_of(words))
        deployment = _described(words, place, folder, archive)
        cost = cost_of(deployment, words.price_per_hour, account)
        asked = preflight.Findings()
        if account is not None:
            needs = (
                []
                if deployment.kind == "serverless"
                else preflight.endpoint_needs(
                    deployment.instance_type, max(deployment.scaling.least, deployment.scaling.most)
                )
            )
            asked = preflight.look(account, place.role, needs, "--role")
        _refuse([*found, *_problems(deployment), *cost.problems(), *asked.problems])
        assert account is not None
        asked.tell_unchecked()
        note(f"endpoint {deployment.name} costs {_as_flags(str(cost))}")
        rollout = Rollout(
            account, deployment, archive_check.classes_of(folder), photo, words.replace
        )
        rollout.find()  # an endpoint in no state to be updated is told before the archive is tried
        with console.status("one photo to the archive, here") as status:
            answer = archive_check.probe(
                folder,
                photo,
                words.inference_env,
                lambda s: status.update(f"one photo to it, here: {s:.0f} s"),
            )
        note(f"answers a photo with {answer.label} ({answer.score:.1%}): {answer.where}")
        answer = rollout.run(archive)
    console.print(
        f"\nendpoint {deployment.name} answers: {answer.label} ({answer.score:.1%})\n", markup=False
    )
    region = session.region_flag(account.region_name)
    console.print(
        f"ask     {command('predict')} --endpoint {deployment.name}{region} PHOTO...", markup=False
    )
    console.print(f"delete  {command('deploy')} --delete {deployment.name}{region}", markup=False)
    return 0


def _described(words: argparse.Namespace, place: Place, folder: Path, archive: Path) -> Deployment:
    from breedlab.backends.sagemaker.endpoints.endpoint import with_version
    from breedlab.serving.description import read_description

    content = _digest(archive)
    model = place.uri("models", content[:16], "model.tar.gz")
    run = read_description(folder)["lineage"].get("run")
    deployment = deployment_of(words, place, model, run)
    if words.from_registry is not None:
        deployment = replace(deployment, package=words.package.arn, model=words.package.model)
    return with_version(deployment, content)


def _problems(deployment: Deployment) -> list[Problem]:
    """What AWS would refuse of the requests."""
    from breedlab.backends.sagemaker import checks
    from breedlab.backends.sagemaker.endpoints import endpoint

    sent = [
        *endpoint.requests(deployment, exists=False),
        endpoint.requests(deployment, exists=True)[2],
    ]
    return [
        problem
        for n, r in enumerate(sent)
        for problem in checks.model_problems(r, _SET_BY, sent[:n])
    ]


def _answer_here(folder: Path, photo: bytes, words: argparse.Namespace) -> None:
    """Have an archive answer an image on this machine before anything is sent; says what it
    answered."""
    from breedlab.backends.sagemaker.endpoints import archive_check, hidden_home

    stage("Archive")
    if text := hidden_home.exposed():
        warn(text)
    answer = archive_check.probe(folder, photo, words.inference_env)
    note(f"answers an image with {answer.label} ({answer.score:.1%}): {answer.where}")


def _print_request(number: int, request: Request, aside: str = "") -> None:
    print(f"request {number}: {request.service} {request.operation}{aside}")
    print(json.dumps(request.parameters, indent=2) + "\n")


def _refuse(found: list[Problem]) -> None:
    if found:
        lines = dict.fromkeys(f"  {_as_flags(p.path)}: {_as_flags(p.message)}" for p in found)
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        raise BackendError("\n".join([f"deploy: {count}; nothing was sent", *lines]))


def _as_flags(text: str) -> str:
    """What is said of the config's `backend`, said of this command's flags."""
    text = re.sub(r"backend\.(\w+)=", lambda m: f"--{m[1].replace('_', '-')} ", text)
    return re.sub(r"backend\.(\w+)", lambda m: f"--{m[1].replace('_', '-')}", text)


@contextmanager
def _flags_named() -> Iterator[None]:
    try:
        yield
    except BackendError as error:
        raise BackendError(_as_flags(str(error))) from error


@contextmanager
def _model(model: Path, vendored: argparse.Namespace | None = None) -> Iterator[tuple[Path, Path]]:
    """A model's content, and the archive that goes to S3, with wheels in it where the flags ask for
    that."""
    from breedlab.packing import opened, write_archive

    with opened(model) as folder, tempfile.TemporaryDirectory(prefix="breedlab-") as scratch:
        archive = model / "model.tar.gz" if model.is_dir() else model
        if not archive.is_file():  # an archive's content, unpacked
            archive = Path(scratch, "model.tar.gz")
            write_archive(archive, folder)
        if vendored is not None and vendored.vendor:
            archive = _with_wheels(folder, Path(scratch), vendored.instance_type or "ml.m5.large")
        yield folder, archive


def _with_wheels(folder: Path, scratch: Path, instance_type: str) -> Path:
    """An archive that brings along what its endpoint would install."""
    from breedlab.backends.sagemaker import machines, vendoring
    from breedlab.backends.sagemaker.endpoints import endpoint
    from breedlab.packing import write_archive

    stage("Packages")
    content = Path(shutil.copytree(folder, scratch / "content"))
    # the same in every region
    python = endpoint.python_of(endpoint.inference_image(instance_type, "us-east-1"))
    machine = "aarch64" if machines.is_arm(instance_type) else "x86_64"
    count = vendoring.add_to_archive(content, python, machine)
    note(f"{count} wheels for Python {python} on {machine} travel with the model")
    archive = scratch / "vendored.tar.gz"
    write_archive(archive, content)
    return archive


def _photo(words: argparse.Namespace) -> bytes:
    """The photo that decides: the person's, else one that the run was tested with, else a drawn
    one."""
    if words.photo is not None:
        from breedlab.data.decode import BadPhoto, decode

        path = Path(words.photo)
        try:
            content = path.read_bytes()
            decode(content)
        except OSError as error:
            raise DataError(
                f"--photo {path}: cannot be read ({error.strerror}); expected a photo"
            ) from error
        except BadPhoto as error:
            raise DataError(f"--photo {path}: {error}; expected a photo") from error
        return content
    import io

    from breedlab.data.sample import draw_dog

    for path in _test_photos(words.model):
        if path.is_file():
            return path.read_bytes()
    buffer = io.BytesIO()
    draw_dog(0, 0, 256).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _test_photos(run: Path) -> Iterator[Path]:
    """Some of the photos that a run was tested with, where they were when it was made."""
    splits = run / "splits.json"
    if (tree := read_json_if_whole(splits)) is not None:
        yield from (Path(tree["root"], name) for name in tree["photos"].get("test", [])[:5])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
