"""Endpoints: planned, created or updated, listed and deleted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from breedlab.backends.sagemaker import preflight, session
from breedlab.backends.sagemaker.endpoints import (
    archive_check,
    autoscaling,
    hidden_home,
    listing,
    ownership,
    torchserve,
)
from breedlab.backends.sagemaker.endpoints import endpoint as endpoints
from breedlab.backends.sagemaker.endpoints.before_sending import (
    arn_problems,
    of_endpoint,
    print_request,
    refuse,
    request_problems,
    settings_of_endpoint,
)
from breedlab.backends.sagemaker.endpoints.cost import changeover_text, cost_of
from breedlab.backends.sagemaker.endpoints.deployment import (
    account_of,
    deciding_image,
    described,
    opened_model,
    vendored_for,
)
from breedlab.backends.sagemaker.endpoints.endpoint import Deployment
from breedlab.backends.sagemaker.endpoints.registry import Version
from breedlab.backends.sagemaker.endpoints.rollout import Rollout
from breedlab.backends.sagemaker.request import Request
from breedlab.commands import command
from breedlab.config.endpoint import Endpoint
from breedlab.config.problems import Problem
from breedlab.console import console, note, stage, warn


def delete(name: str, region: str | None) -> None:
    """Delete an endpoint with everything that was created for it; files in S3 stay.

    Raises:
        BackendError: If there is none, or breedlab did not create it.
    """
    with settings_of_endpoint():
        account = session.connect(region, "--region")
    stage(f"Deleting {name}")
    deletion = ownership.delete(account, name)
    for text in deletion.removals:
        note(f"deleted {text}")
    for text in deletion.leftovers:
        note(f"left {text}")


def show_all(region: str | None) -> None:
    """Print the endpoints that breedlab made."""
    with settings_of_endpoint():
        account = session.connect(region, "--region")
    listing.show(listing.endpoints(account), str(account.region_name))


def plan(endpoint: Endpoint, model: Path) -> None:
    """Print what would be sent, and what it still needs.

    Raises:
        BreedlabError: With everything that AWS would refuse.
    """
    if endpoint.photo is not None:
        deciding_image(endpoint, model)  # refused now, not at the launch
    # whose wheels are collected at the launch, from a package index
    with opened_model(model) as (folder, archive):
        size = archive_check.lint(folder, imports=False)
        place = session.planned(account_of(endpoint, model))
        deployment = described(endpoint, model, place, folder, archive)
        refuse(_problems(deployment))
    cost = cost_of(deployment, endpoint.price_per_hour)
    print(f"endpoint {deployment.name}, {deployment.kind} (dry run: nothing is sent)\n")
    print(f"archive  {model}: {size / 1e6:.1f} MB unpacked, goes to {deployment.model}")
    print(f"image    {deployment.image}")
    print(f"costs    {of_endpoint(str(cost))}")
    if text := changeover_text(deployment):
        print(f"         {text}")
    if endpoint.vendor:
        print(
            "wheels   are added at the launch, so the versions below and the archive's"
            " address will differ"
        )
    print(
        "before   the archive is imported and tested with one image here; nothing is sent if that"
        " fails"
    )
    print("after    the endpoint is tested with one image; if that fails, everything is undone\n")
    _print_requests(deployment)
    needs = session.needed(place)
    needs += [f"a price: {problem.path}=USD, since {cost.source}" for problem in cost.problems()]
    print("a launch needs AWS credentials" + (", and" if needs else ""))
    for text in needs:
        print(f"  {of_endpoint(text)}")


def _requests(deployment: Deployment) -> list[Request]:
    """Return the requests of a new endpoint, with those of its autoscaling."""
    return [
        *endpoints.requests(deployment, exists=False),
        *autoscaling.scaling_requests(deployment),
    ]


def _print_requests(deployment: Deployment) -> None:
    requests = _requests(deployment)
    update = endpoints.requests(deployment, exists=True)[2]
    if any(request.parameters.get("PolicyType") == "StepScaling" for request in requests):
        requests.append(autoscaling.wake_alarm(deployment.name, "<ARN of the step policy>"))
    for number, request in enumerate(requests, 1):
        print_request(number, request)
        if request.operation == "CreateEndpoint":
            print(f"or, if the endpoint already exists: {update.service} {update.operation}")
            print(json.dumps(update.parameters, indent=2) + "\n")


def deploy(endpoint: Endpoint, model: Path, package: Version | None = None) -> str:
    """Create an endpoint, or bring an existing one to a model, and return its name once it has
    answered an image.

    Args:
        endpoint: The settings.
        model: An archive, or a run directory.
        package: The version in the model registry that the archive is of, if it is.

    Raises:
        BreedlabError: With everything that AWS would refuse; or if it does not answer, and then all
            is undone.
        RolloutInterrupted: After Ctrl-C, once a request was sent that AWS carries out.
    """
    image = deciding_image(endpoint, model)
    with opened_model(model, vendored_for(endpoint)) as (folder, archive):
        stage("Archive")
        if text := hidden_home.exposed():
            warn(text)
        # Without the stack its code is imported for the image, and for nothing else before that.
        python, _ = torchserve.find_environment(endpoint.inference_env)
        size = archive_check.lint(folder, imports=python is not None)
        note(f"{model}: complete, {size / 1e6:.1f} MB unpacked")
        account, place, problems = session.inspect(account_of(endpoint, model))
        if place is None:
            place = session.planned(account_of(endpoint, model))
        deployment = described(endpoint, model, place, folder, archive)
        if package is not None:
            deployment = replace(deployment, package=package.arn, model=package.model)
        cost = cost_of(deployment, endpoint.price_per_hour, account)
        findings = preflight.Findings()
        if account is not None:
            findings = preflight.look(account, place.role, _quotas(deployment), "endpoint.role")
        refuse([*problems, *_problems(deployment), *cost.problems(), *findings.problems])
        assert account is not None
        findings.tell_unchecked()
        note(f"endpoint {deployment.name} costs {of_endpoint(str(cost))}")
        if text := changeover_text(deployment):
            note(text)
        classes = archive_check.classes_of(folder)
        rollout = Rollout(account, deployment, classes, image, endpoint.replace)
        rollout.find()  # refuses an endpoint that cannot be updated before the archive is tested
        with console.status("testing the archive with one image, here") as status:
            answer = archive_check.probe(
                folder,
                image,
                endpoint.inference_env,
                lambda s: status.update(f"testing it with one image, here: {s:.0f} s"),
            )
        note(f"classifies the test image as {answer.label} ({answer.score:.1%}): {answer.where}")
        answer = rollout.run(archive)
    name, region = deployment.name, session.region_flag(account.region_name)
    console.print(f"\nendpoint {name} answers: {answer.label} ({answer.score:.1%})\n", markup=False)
    console.print(f"predict {command('predict')} --endpoint {name}{region} IMAGE...", markup=False)
    console.print(f"delete  {command('deploy')} --delete {name}{region}", markup=False)
    return name


def _quotas(deployment: Deployment) -> list[preflight.Need]:
    if deployment.kind == "serverless":
        return []
    most = max(deployment.scaling.least, deployment.scaling.most)
    return preflight.endpoint_needs(deployment.instance_type, most)


def _problems(deployment: Deployment) -> list[Problem]:
    """Return what AWS would refuse in the requests, including those of an update."""
    update = endpoints.requests(deployment, exists=True)[2]
    requests = [*_requests(deployment), update]
    return [*arn_problems(deployment), *request_problems(requests)]
