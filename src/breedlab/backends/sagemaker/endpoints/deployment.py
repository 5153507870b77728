"""From the typed `endpoint` section and a model to what is put into the account."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from breedlab.backends.sagemaker import machines
from breedlab.backends.sagemaker.endpoints.endpoint import (
    Deployment,
    Scaling,
    Update,
    default_name,
    with_version,
)
from breedlab.backends.sagemaker.endpoints.inference_image import inference_image, python_of
from breedlab.backends.sagemaker.session import AwsTarget
from breedlab.backends.sagemaker.tags import own_tags
from breedlab.config.endpoint import Endpoint
from breedlab.config.yaml_folders import parsed
from breedlab.console import note, stage
from breedlab.errors import DataError
from breedlab.files import read_json_if_whole

MACHINE = "ml.m5.large"
"""What an endpoint runs on where nothing is said."""


@dataclass(frozen=True)
class Account:
    """The given facts of the account; None is looked up."""

    region: str | None
    role: str | None
    bucket: str | None
    prefix: str


def account_of(endpoint: Endpoint, model: Path | None) -> Account:
    """Return what the settings say of the account, else the environment, else the run that trained
    there."""
    trained = config_of(model).get("backend", {})
    trained = trained if trained.get("name") == "sagemaker" else {}
    return Account(
        endpoint.region or trained.get("region"),
        endpoint.role or os.environ.get("BREEDLAB_ROLE") or trained.get("role"),
        endpoint.bucket or os.environ.get("BREEDLAB_BUCKET") or trained.get("bucket"),
        (endpoint.prefix or trained.get("prefix") or "breedlab").strip("/"),
    )


def name_of(endpoint: Endpoint, model: Path | None) -> str:
    """Return the endpoint's name: the one that is set, else the experiment's."""
    return endpoint.name or default_name(str(config_of(model).get("name", "breedlab")))


def described(
    endpoint: Endpoint, model: Path, place: AwsTarget, folder: Path, archive: Path
) -> Deployment:
    """Return what the settings ask for.

    Args:
        endpoint: The settings.
        model: The model as the user named it.
        place: Where in AWS.
        folder: The archive's content, unpacked.
        archive: What goes to S3.
    """
    from breedlab.serving.description import read_description

    content = _digest(archive)
    run = read_description(folder)["lineage"].get("run")
    machine = endpoint.instance_type or MACHINE
    name = name_of(endpoint, model)
    deployment = Deployment(
        name=name,
        version="",
        place=place,
        image=endpoint.image if endpoint.own_image else inference_image(machine, place.region),
        own_image=endpoint.own_image,
        model=place.uri("models", content[:16], "model.tar.gz"),
        kind=endpoint.kind,
        instance_type=machine,
        scaling=_scaling(endpoint),
        workers=endpoint.workers,
        memory_mb=endpoint.memory_mb or 4096,
        concurrency=endpoint.max_concurrency or 5,
        provisioned=endpoint.provisioned_concurrency or 0,
        capture_percent=endpoint.capture or 0,
        capture_uri=endpoint.capture_to,
        async_output=endpoint.async_output,
        async_concurrency=endpoint.async_concurrency or 4,
        topics=(endpoint.success_topic, endpoint.error_topic),
        update=_update(endpoint),
        kms_key=endpoint.kms_key,
        volume_gb=endpoint.volume_gb,
        startup_timeout=endpoint.startup_timeout or 600,
        subnets=tuple(endpoint.subnets),
        security_groups=tuple(endpoint.security_groups),
        network_isolation=endpoint.network_isolation,
        environment=tuple(endpoint.environment.items()),
        tags=tuple(endpoint.tags.items()),
        own_tags=own_tags(endpoint=name, run=run, experiment=config_of(model).get("name")),
    )
    return with_version(deployment, content)


def _scaling(endpoint: Endpoint) -> Scaling:
    least, most = endpoint.instances
    return Scaling(
        least,
        most,
        endpoint.scale_target or (5.0 if endpoint.kind == "async" else 300.0),
        60 if endpoint.scale_out_cooldown is None else endpoint.scale_out_cooldown,
        300 if endpoint.scale_in_cooldown is None else endpoint.scale_in_cooldown,
    )


def _update(endpoint: Endpoint) -> Update:
    return Update(
        endpoint.traffic or "all-at-once",
        endpoint.step_percent or 10,
        300 if endpoint.step_wait is None else endpoint.step_wait,
        endpoint.keep_old,
        tuple(endpoint.alarms),
    )


@contextmanager
def opened_model(model: Path, vendored_for: str | None = None) -> Iterator[tuple[Path, Path]]:
    """Give a model's content, and the archive that goes to S3.

    Args:
        model: An archive, or a run directory.
        vendored_for: The instance type whose packages the archive brings along; None for none.
    """
    from breedlab.archives import opened, write_archive

    with opened(model) as folder, TemporaryDirectory(prefix="breedlab-") as scratch:
        archive = model / "model.tar.gz" if model.is_dir() else model
        if not archive.is_file():  # an archive's content, unpacked
            archive = Path(scratch, "model.tar.gz")
            write_archive(archive, folder)
        if vendored_for is not None:
            archive = _with_wheels(folder, Path(scratch), vendored_for)
        yield folder, archive


def vendored_for(endpoint: Endpoint) -> str | None:
    """Return the instance type whose packages travel with the model; None where none do."""
    return (endpoint.instance_type or MACHINE) if endpoint.vendor else None


def _with_wheels(folder: Path, scratch: Path, instance_type: str) -> Path:
    """Return an archive that brings along what its endpoint would install."""
    from breedlab.archives import write_archive
    from breedlab.backends.sagemaker import vendoring

    stage("Packages")
    content = Path(shutil.copytree(folder, scratch / "content"))
    python = python_of(inference_image(instance_type, "us-east-1"))  # the same in every region
    machine = "aarch64" if machines.is_arm(instance_type) else "x86_64"
    count = vendoring.add_to_archive(content, python, machine)
    note(f"{count} wheels for Python {python} on {machine} are shipped with the model")
    archive = scratch / "vendored.tar.gz"
    write_archive(archive, content)
    return archive


def deciding_image(endpoint: Endpoint, model: Path) -> bytes:
    """Return the image that decides: the user's, else one that the run was tested with, else a
    drawn one.

    Raises:
        DataError: If the user's is not an image.
    """
    if endpoint.photo is not None:
        return _read_image(Path(endpoint.photo))
    from breedlab.data.sample import draw_dog

    for path in _test_images(model):
        if path.is_file():
            return path.read_bytes()
    buffer = io.BytesIO()
    draw_dog(0, 0, 256).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _read_image(path: Path) -> bytes:
    from breedlab.data.decode import ImageError, decode

    try:
        content = path.read_bytes()
        decode(content)
    except OSError as error:
        raise DataError(
            f"endpoint.photo: {path}: cannot be read ({error.strerror}); expected an image"
        ) from error
    except ImageError as error:
        raise error.reworded(f"endpoint.photo: {path}: {error}; expected an image") from error
    return content


def _test_images(run: Path) -> Iterator[Path]:
    """Yield some of the images that a run was tested with, where they were at the time."""
    if (tree := read_json_if_whole(run / "splits.json")) is not None:
        yield from (Path(tree["root"], name) for name in tree["photos"].get("test", [])[:5])


def config_of(model: Path | None) -> dict[str, Any]:
    """Return the config of a run; nothing of a bare archive, or of the registry's."""
    if model is None or not (model / "config.yaml").is_file():
        return {}
    import yaml

    try:
        tree = parsed((model / "config.yaml").read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}  # it only proposes what settings say, too; the archive is whole without it
    return tree if isinstance(tree, dict) else {}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
