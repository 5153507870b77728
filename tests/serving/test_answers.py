"""What an archive's `answers` make of the scores, however they are asked for."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from codes import raises_code
from fastapi.testclient import TestClient
from PIL import Image

from breedlab.evaluation.novelty import fit, threshold_of
from breedlab.models.classifier import Classifier
from breedlab.models.novelty import FILE, METHODS, Novelty, WithFeatures
from breedlab.serving import handler, openvino_export
from breedlab.serving.archive import record_engine, write_folder
from breedlab.serving.engine_kinds import Choice
from breedlab.serving.model import Model
from breedlab.serving.response import Answer
from breedlab.serving.server import make_app
from breedlab.training.context import TrainingContext
from breedlab.training.inference import features as features_of

Export = Callable[..., Path]


@pytest.fixture
def export(tmp_path: Path, context: TrainingContext, classifier: Classifier) -> Export:
    def make(novelty: Novelty | None = None, **answers: object) -> Path:
        folder = tmp_path / "content"
        folder.mkdir()
        write_folder(folder, classifier, context.evaluation, context.classes, {}, answers=answers)
        if novelty is not None:
            novelty.write(folder)
        return folder

    return make


@pytest.fixture(scope="module")
def features(context: TrainingContext, classifier: Classifier) -> dict[str, torch.Tensor]:
    """Of the training and validation images, by split."""
    counts = {split: len(context.report.images.splits[split]) for split in ("train", "valid")}
    config = context.config
    return {
        name: features_of(context, classifier, config, name, torch.arange(n))
        for name, n in counts.items()
    }


@pytest.fixture(params=METHODS)
def telling(
    request: pytest.FixtureRequest,
    export: Export,
    context: TrainingContext,
    features: dict[str, torch.Tensor],
) -> Callable[..., Path]:
    """An archive that tells the unknown by one of the methods."""
    labels = context.data(context.config).labels("train")
    novelty = fit(request.param, features["train"], labels)

    def make(row: bool = False, **answers: object) -> Path:
        unknown = {"method": novelty.method, "width": novelty.width, "row": row}
        return export(
            novelty, unknown=unknown | threshold_of(novelty.distance(features["valid"])), **answers
        )

    return make


@pytest.fixture(scope="module")
def stranger() -> bytes:
    """An image of another kind: black and white stripes."""
    stripes = np.where(np.indices((96, 96))[1] % 24 < 12, 255, 0).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(stripes).convert("RGB").save(file, "PNG")
    return file.getvalue()


def test_the_temperature_divides_the_scores_and_keeps_their_order(
    export: Export, model: Model, image: bytes, context: TrainingContext
) -> None:
    calibrated = Model(export(temperature=2.5))
    batch = torch.stack([model.prepare(image), model.prepare(image).flip(2)])
    torch.testing.assert_close(calibrated.scores(batch), model.scores(batch) / 2.5)
    body, _ = handler.output_fn(
        handler.predict_fn([image], calibrated), "application/json; verbose=1"
    )
    (told,) = json.loads(body)["predictions"]
    plain = Answer(model.scores(batch[:1]).numpy(), model).verbose()["predictions"][0]
    assert [one["class"] for one in told["top"]] == [one["class"] for one in plain["top"]]
    expected = (torch.tensor(plain["scores"]) / 2.5).softmax(0)
    np.testing.assert_allclose(told["probabilities"], expected, rtol=1e-4)


def test_the_server_answers_with_the_temperature(
    export: Export, model: Model, image: bytes
) -> None:
    with TestClient(make_app(Model(export(temperature=4.0)))) as client:
        rows = client.post(
            "/invocations", content=image, headers={"Content-Type": "image/jpeg"}
        ).json()
    np.testing.assert_allclose(
        rows, model.scores(model.prepare(image)[None]) / 4, rtol=1e-3, atol=1e-5
    )


def test_an_archive_without_answers_gives_its_scores_as_they_are(
    export: Export, model: Model, image: bytes
) -> None:
    folder = export()
    description = json.loads((folder / "model.json").read_text())
    del description["answers"]  # as older versions wrote it
    (folder / "model.json").write_text(json.dumps(description))
    torch.testing.assert_close(
        Model(folder).scores(model.prepare(image)[None]), model.scores(model.prepare(image)[None])
    )


def test_a_image_of_another_kind_is_unknown_and_one_of_the_classes_is_not(
    telling: Callable[..., Path], image_folder: Path, stranger: bytes
) -> None:
    model = Model(telling())
    own = [path.read_bytes() for path in sorted((image_folder / "test").rglob("*.jpg"))]
    body, _ = handler.output_fn(
        handler.predict_fn([stranger, *own], model), "application/json; verbose=1"
    )
    told = json.loads(body)["predictions"]
    assert told[0]["unknown"] is True and told[0]["stranger_than"] > 0.99
    assert sum(answer["unknown"] for answer in told[1:]) <= len(own) / 4
    refused = [answer["stranger_than"] for answer in told if answer["unknown"]]
    assert (
        min(refused)
        > max(answer["stranger_than"] for answer in told if not answer["unknown"]) - 0.01
    )
    assert len(told[0]["scores"]) == len(model.classes)


def test_the_default_answer_has_a_score_for_each_class_and_row_adds_that_of_unknown(
    telling: Callable[..., Path], image: bytes, stranger: bytes, model: Model
) -> None:
    folder = telling()
    rows = json.loads(
        handler.output_fn(handler.predict_fn([stranger, image], Model(folder)), "application/json")[
            0
        ]
    )
    assert [len(row) for row in rows] == [4, 4]
    description = json.loads((folder / "model.json").read_text())
    description["answers"]["unknown"]["row"] = True
    (folder / "model.json").write_text(json.dumps(description))
    answer = handler.predict_fn([stranger, image], Model(folder))
    rows = json.loads(handler.output_fn(answer, "application/json")[0])
    assert np.argmax(rows[0]) == 4 and np.argmax(rows[1]) == np.argmax(
        model.scores(model.prepare(image)[None])[0]
    )
    npy = np.load(io.BytesIO(handler.output_fn(answer, "application/x-npy")[0]))
    np.testing.assert_allclose(npy, rows, rtol=1e-5)


@pytest.fixture(scope="module")
def graph_with_features(classifier: Classifier) -> Any:
    pytest.importorskip("openvino")
    return openvino_export.convert(WithFeatures(classifier).eval(), classifier.side)


def test_openvino_tells_the_unknown_as_pytorch_does(
    telling: Callable[..., Path], graph_with_features: Any, image: bytes, stranger: bytes
) -> None:
    folder = telling(temperature=1.5)
    module = Model(folder)
    openvino_export.write_graph(graph_with_features, folder / "engines" / "fp32.xml", halves=False)
    record_engine(folder, Choice("openvino", "fp32"), {})
    exported = Model(folder)
    assert str(exported.engine.choice) == "openvino fp32"
    batch = torch.stack([module.prepare(image), module.prepare(stranger)])
    rows = [one.engine.scores(batch) for one in (exported, module)]
    torch.testing.assert_close(*rows, rtol=1e-3, atol=1e-3)
    with TestClient(make_app(exported)) as client:
        told = client.post(
            "/invocations?verbose=1", content=stranger, headers={"Content-Type": "image/png"}
        ).json()
    assert told["predictions"][0]["unknown"] is True


def test_a_set_holds_every_class_that_is_likely_enough(export: Export, image: bytes) -> None:
    model = Model(export(sets={"coverage": 0.9, "least": 0.2}))
    tree = json.loads(
        handler.output_fn(handler.predict_fn([image], model), "application/json; verbose=1")[0]
    )
    (told,) = tree["predictions"]
    expected = [one["class"] for one in told["top"] if one["probability"] >= 0.2]
    assert told["set"] == expected and tree["set_coverage"] == 0.9
    assert model.answers.in_set([0.1, 0.15, 0.05, 0.7]) == [3]
    # the likeliest, where none is likely enough
    assert model.answers.in_set([0.1, 0.15, 0.05, 0.12]) == [1]


def test_arrays_that_are_not_of_the_network_are_one_message(telling: Callable[..., Path]) -> None:
    folder = telling()
    description = json.loads((folder / "model.json").read_text())
    description["answers"]["unknown"]["width"] += 1
    (folder / "model.json").write_text(json.dumps(description))
    with raises_code("BL500", names=(FILE, "model.json")):
        Model(folder)
    (folder / FILE).write_bytes(b"no tensors")
    with raises_code("BL500", names=FILE):
        Model(folder)
