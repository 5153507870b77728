"""An exported model, untrained: what it answers does not matter here, only that all answer the
same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from breedlab.config import Config
from breedlab.models.classifier import Classifier
from breedlab.pipeline.checked_images import checked_images
from breedlab.serving import openvino_export
from breedlab.serving.archive import record_engine, write_folder
from breedlab.serving.engine_kinds import Choice
from breedlab.serving.model import Model
from breedlab.training.context import TrainingContext
from breedlab.training.preparation import prepare

Configure = Callable[..., Config]


@pytest.fixture(scope="session")
def context(configure: Configure) -> TrainingContext:
    config = configure("model.name=resnet18")
    return prepare(config, checked_images(config))


@pytest.fixture(scope="session")
def classifier(context: TrainingContext) -> Classifier:
    return context.classifier(context.config).eval()


@pytest.fixture(scope="session")
def graph(classifier: Classifier) -> Any:
    """OpenVINO's, whose conversion takes seconds. `write_graph` leaves it as good as it was."""
    pytest.importorskip("openvino")
    return openvino_export.convert(classifier, classifier.side)


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, context: TrainingContext, classifier: Classifier
) -> Path:
    made = tmp_path_factory.mktemp("content")
    write_folder(made, classifier, context.evaluation, context.classes, {"run": "test"})
    return made


@pytest.fixture(scope="module")
def add_engine(folder: Path, request: pytest.FixtureRequest) -> Callable[[Path, str], Path]:
    """Makes a copy of it that answers with OpenVINO in a precision."""

    def make(content: Path, precision: str) -> Path:
        shutil.copytree(folder, content)
        openvino_export.write_graph(
            request.getfixturevalue("graph"),
            content / "engines" / f"{precision}.xml",
            halves=precision == "bf16",
        )
        record_engine(content, Choice("openvino", precision), {"photos": 3})
        return content

    return make


@pytest.fixture(scope="module")
def with_openvino(
    tmp_path_factory: pytest.TempPathFactory, add_engine: Callable[[Path, str], Path]
) -> Path:
    """A copy that answers with OpenVINO in fp32."""
    return add_engine(tmp_path_factory.mktemp("openvino") / "content", "fp32")


@pytest.fixture(scope="module")
def image(image_folder: Path) -> bytes:
    return next((image_folder / "test").rglob("*.jpg")).read_bytes()


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return Model(folder)
