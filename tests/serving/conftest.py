"""An exported model, untrained: what it answers does not matter here, only that all answer the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from breedlab.config import Config
from breedlab.models.classifier import Classifier
from breedlab.serving.archive import write_folder
from breedlab.serving.handler import Model
from breedlab.training.prepare import Prepared, prepare
from breedlab.training.run import checked_photos

Configure = Callable[..., Config]


@pytest.fixture(scope="module")
def prepared(configure: Configure) -> Prepared:
    config = configure()
    return prepare(config, checked_photos(config))


@pytest.fixture(scope="module")
def classifier(prepared: Prepared) -> Classifier:
    return prepared.classifier(prepared.config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, prepared: Prepared, classifier: Classifier) -> Path:
    made = tmp_path_factory.mktemp("content")
    write_folder(made, classifier, prepared.evaluation, prepared.classes, {"run": "test"})
    return made


@pytest.fixture(scope="module")
def photo(photos: Path) -> bytes:
    return next((photos / "test").rglob("*.jpg")).read_bytes()


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return Model(folder)
