"""What an archive's `answers` make of the scores, however they are asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from breedlab.models.classifier import Classifier
from breedlab.serving import handler
from breedlab.serving.archive import write_folder
from breedlab.serving.handler import Answer, Model
from breedlab.serving.server import make_app
from breedlab.training.prepare import Prepared

Export = Callable[..., Path]


@pytest.fixture
def export(tmp_path: Path, prepared: Prepared, classifier: Classifier) -> Export:
    def make(**answers: object) -> Path:
        folder = tmp_path / "content"
        folder.mkdir()
        write_folder(folder, classifier, prepared.evaluation, prepared.classes, {}, answers=answers)
        return folder

    return make


def test_the_temperature_divides_the_scores_and_keeps_their_order(
    export: Export, model: Model, photo: bytes, prepared: Prepared
) -> None:
    calibrated = Model(export(temperature=2.5))
    batch = torch.stack([model.prepare(photo), model.prepare(photo).flip(2)])
    torch.testing.assert_close(calibrated.scores(batch), model.scores(batch) / 2.5)
    body, _ = handler.output_fn(handler.predict_fn([photo], calibrated), "application/json; verbose=1")
    (told,) = json.loads(body)["predictions"]
    plain = Answer(model.scores(batch[:1]).numpy(), model).verbose()["predictions"][0]
    assert [one["class"] for one in told["top"]] == [one["class"] for one in plain["top"]]
    expected = (torch.tensor(plain["scores"]) / 2.5).softmax(0)
    np.testing.assert_allclose(told["probabilities"], expected, rtol=1e-4)


def test_the_server_answers_with_the_temperature(export: Export, model: Model, photo: bytes) -> None:
    with TestClient(make_app(Model(export(temperature=4.0)))) as client:
        rows = client.post("/invocations", content=photo, headers={"Content-Type": "image/jpeg"}).json()
    np.testing.assert_allclose(rows, model.scores(model.prepare(photo)[None]) / 4, rtol=1e-3, atol=1e-5)


def test_an_archive_without_answers_gives_its_scores_as_they_are(export: Export, model: Model, photo: bytes) -> None:
    folder = export()
    description = json.loads((folder / "model.json").read_text())
    del description["answers"]  # as older versions wrote it
    (folder / "model.json").write_text(json.dumps(description))
    torch.testing.assert_close(
        Model(folder).scores(model.prepare(photo)[None]), model.scores(model.prepare(photo)[None])
    )
