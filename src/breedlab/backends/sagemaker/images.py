"""Which container image a job runs in: by version, by the SDK's own list, which is read without a
network."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from breedlab.backends.sagemaker import machines
from breedlab.config.backend import ECR_IMAGE, Backend
from breedlab.config.problems import Problem
from breedlab.names import counted

OLDEST = (2, 6)
"""The oldest PyTorch that breedlab runs on."""

_FRAMEWORKS = ("pytorch-amzn2023", "pytorch")
"""AWS's PyTorch training images, the newer line first."""


def is_uri(image: str) -> bool:
    """Return whether `backend.image` is an address rather than a version."""
    return "/" in image


def training_image(backend: Backend, region: str) -> str:
    """Return the address of the image, or `<image>` if `problems` has something to report."""
    if is_uri(backend.image):
        return backend.image
    if problems(backend, region):
        return "<image>"
    entry = _chosen(backend.image, region)
    assert entry, "problems() has said so"
    uri = _retrieved(*entry, backend.instance_type, region)
    # AWS keeps the images in another account in some regions.
    return (
        re.sub(r"^\d+(.*?)us-east-1", rf"<account>\1{region}", uri)
        if region.startswith("<")
        else uri
    )


def gpus(instance_type: str) -> int:
    """Return how many GPUs an instance type has; one for a type that has some and is newer than
    all lists of them."""
    return 1 if (count := known_gpus(instance_type)) is None else count


def known_gpus(instance_type: str) -> int | None:
    """Return how many GPUs an instance type has; None if it has some and is newer than all lists
    of them."""
    from sagemaker.core import instance_types_gpu_info

    # The list is by region; what a type has is the same everywhere.
    gpu_info = instance_types_gpu_info.retrieve("us-east-1").get(instance_type, {})
    if gpu_info:
        return int(gpu_info["Count"])
    if not re.match(r"ml\.(g|p)\d", instance_type):
        return 0
    return machines.unlisted_gpus(instance_type)


def problems(backend: Backend, region: str) -> list[Problem]:
    """Return the reasons why jobs cannot start in the image."""
    if reason := machines.unusable(backend.instance_type):
        return [Problem("backend.instance_type", reason)]
    count = known_gpus(backend.instance_type)
    if count and backend.processes != "auto" and backend.processes > count:
        has = counted(count, "GPU")
        return [
            Problem(
                "backend.processes",
                f"got {backend.processes}; {backend.instance_type} has {has}, one each",
            )
        ]
    if is_uri(backend.image):
        return [Problem("backend.image", text) for text in _uri_problems(backend, region)]
    if reason := machines.training_problem(backend.instance_type):
        return [Problem("backend.instance_type", reason)]
    entry = _chosen(backend.image, region)
    if entry is None:
        versions = ", ".join(sorted(_versions(), key=_numbers))
        return [
            Problem(
                "backend.image",
                f"got {backend.image!r}; expected auto, an image's URI, or one of {versions}",
            )
        ]
    framework, version = entry
    if _numbers(version) < OLDEST:
        return [
            Problem(
                "backend.image",
                f"PyTorch {version} is too old; expected {OLDEST[0]}.{OLDEST[1]} or newer",
            )
        ]
    if not _is_in(region, framework, version):
        newest = _newest(region)
        other = f"auto, which is PyTorch {newest[1]} there, or " if newest else ""
        return [
            Problem(
                "backend.image",
                f"AWS has no image of PyTorch {version} in {region}; give {other}an image's URI",
            )
        ]
    uri = _retrieved(framework, version, backend.instance_type, region)
    if reason := machines.training_problem(backend.instance_type, uri):
        return [Problem("backend.instance_type", reason)]
    return []


@cache
def _retrieved(framework: str, version: str, instance_type: str, region: str) -> str:
    """Return the address that the SDK gives; where no region is known, that in us-east-1.

    The SDK parses botocore's list of all endpoints for each, which takes 0.15 seconds.
    """
    from sagemaker.core import image_uris

    where = "us-east-1" if region.startswith("<") else region
    uri: str = image_uris.retrieve(
        framework, where, version=version, instance_type=instance_type, image_scope="training"
    )
    return uri


def _uri_problems(backend: Backend, region: str) -> list[str]:
    uri = backend.image
    problems = []
    tag = uri.rpartition("/")[2].partition(":")[2]
    ecr = ECR_IMAGE.match(uri)
    if not ecr:
        return [
            f"{uri} is not in Amazon ECR; expected ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG"
        ]
    if not region.startswith("<") and ecr["region"] != region:
        problems.append(
            f"{uri} is in {ecr['region']}; expected an image in the jobs' region, {region}"
        )
    if re.search(r"\s", uri):
        problems.append(
            f"{uri!r} contains whitespace; expected ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG"
        )
    if ecr["name"] != ecr["name"].lower():
        problems.append(
            f"{uri} has uppercase letters in its repository name; ECR does not allow them"
        )
    if re.search(r"inference|-tgi|-tei|djl-", ecr["name"]):
        problems.append(f"{uri} is an inference image; use a training image, or image=auto")
    elif tag.endswith(("-ec2", "-ecs", "-eks")):
        problems.append(
            f"{uri} is made for EC2 and lacks the SageMaker toolkit that starts jobs; use"
            " ...-sagemaker"
        )
    if re.search(r"(^|[-_])cpu([-_]|$)", tag) and gpus(backend.instance_type):
        problems.append(
            f"{uri} is a CPU image, but backend.instance_type={backend.instance_type} has GPUs"
        )
    version = re.match(r"(\d+\.\d+)", tag)
    if version and "pytorch" in ecr["name"] and _numbers(version[1]) < OLDEST:
        problems.append(
            f"PyTorch {version[1]} is too old; expected {OLDEST[0]}.{OLDEST[1]} or newer"
        )
    return problems


def _chosen(image: str, region: str) -> tuple[str, str] | None:
    """Return the framework and full version of what `backend.image` names; None if the SDK knows no
    such version."""
    if image == "auto":
        latest = str(_list(_FRAMEWORKS[0])["version_aliases"]["latest"])
        if _is_in(region, _FRAMEWORKS[0], latest):
            return _FRAMEWORKS[0], latest
        # New versions reach China and the government's regions later.
        return _newest(region) or (_FRAMEWORKS[0], latest)
    for framework in _FRAMEWORKS:
        versions = _list(framework)["versions"]
        same = [v for v in versions if v == image or v.startswith(f"{image}.") or image == f"{v}.0"]
        if same:
            return framework, max(same, key=_numbers)
    return None


def _newest(region: str) -> tuple[str, str] | None:
    """Return the framework and version of the newest usable image in a region; None if there is
    none."""
    there = [
        (framework, version)
        for framework in _FRAMEWORKS
        for version in _list(framework)["versions"]
        if _is_in(region, framework, version) and _numbers(version) >= OLDEST
    ]
    return max(there, key=lambda each: _numbers(each[1]), default=None)


def _is_in(region: str, framework: str, version: str) -> bool:
    """Return whether a region has an image; one that is not known yet is taken to have all."""
    return region.startswith("<") or region in _list(framework)["versions"][version]["registries"]


def _versions() -> list[str]:
    every = {version for framework in _FRAMEWORKS for version in _list(framework)["versions"]}
    return [version for version in every if _numbers(version) >= OLDEST]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


@cache
def _list(framework: str) -> Any:
    from sagemaker.core import image_uris

    return image_uris.config_for_framework(framework)["training"]
