"""Deployments that tests make: a small model, and the words that put it behind an endpoint."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sagemaker_account import ROLE
from sagemaker_endpoints import EndpointAccount

from breedlab.cli.deploy import main
from breedlab.data.transforms import EvalTransform
from breedlab.models import backbone as backbones
from breedlab.models.classifier import Architecture, Classifier
from breedlab.serving import handler
from breedlab.serving.archive import write_folder
from breedlab.serving.model import Model
from breedlab.serving.refusals import BadRequest
from breedlab.serving.request_parser import JSON

BUCKET = "breedlab-deploys"
CLASSES = ("Akita", "Beagle", "Corgi")


def exported(folder: Path, classes: tuple[str, ...]) -> Path:
    """An archive's content, unpacked."""
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    shape = Architecture("squeezenet1_1", len(classes), (), 0.0, mean, std)
    classifier = Classifier(shape, backbones.build(shape.name), side=64).eval()
    write_folder(
        folder, classifier, EvalTransform(72, 64, "bilinear", mean, std), classes, {"run": "test"}
    )
    return folder


def contained(model: Model) -> Callable[[bytes, str, str], tuple[int, bytes, str]]:
    """A container that answers with a model."""

    def answer(body: bytes, kind: str, accept: str) -> tuple[int, bytes, str]:
        try:
            return 200, *handler.output_fn(
                handler.predict_fn(handler.input_fn(body, kind), model), accept
            )
        except BadRequest as error:
            return error.status, json.dumps({"error": str(error)}).encode(), JSON

    return answer


def contained_run(run: Path, folder: Path) -> Callable[[bytes, str, str], tuple[int, bytes, str]]:
    """A container that answers with a run's model, unpacked in a folder."""
    with tarfile.open(run / "model.tar.gz") as archive:
        archive.extractall(folder)
    return contained(handler.model_fn(str(folder)))


def deploy(archive: Path | None, *words: str, name: str = "dogs") -> int:
    return main(
        [
            *([str(archive)] if archive else []),
            f"endpoint.name={name}",
            f"endpoint.role={ROLE}",
            f"endpoint.bucket={BUCKET}",
            *words,
        ]
    )


def sent(account: EndpointAccount, operation: str) -> dict[str, Any]:
    """The one request of an operation."""
    (found,) = [
        parameters for name, parameters in [*account.requests, *account.scaled] if name == operation
    ]
    return found


def created(account: EndpointAccount) -> list[str]:
    return [name for name, _ in account.requests if name.startswith(("Create", "Update", "Delete"))]
