"""A multi-label model's labels wherever it is asked: the page, the Lambda function, OpenVINO."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from test_guard import running
from test_lambda import Gate, function, gate  # noqa: F401  fixtures
from test_page import Page
from test_server import Server

from breedlab.models.classifier import Classifier
from breedlab.serving.archive import write_folder
from breedlab.serving.model import Model
from breedlab.serving.protocol import settings
from breedlab.serving.server import make_app
from breedlab.training.context import TrainingContext

Several = Callable[..., Path]


@pytest.fixture
def several(tmp_path: Path, context: TrainingContext, classifier: Classifier) -> Several:
    """Makes an archive with these thresholds."""

    def make(*thresholds: float) -> Path:
        folder = tmp_path / "several"
        folder.mkdir()
        answers = {"temperature": 1.0, "thresholds": list(thresholds)}
        write_folder(folder, classifier, context.evaluation, context.classes, {}, answers=answers)
        return folder

    return make


@pytest.fixture
def image_file(image_folder: Path) -> Path:
    return next((image_folder / "test").rglob("*.jpg"))


@pytest.fixture
def probabilities(model: Model, image_file: Path) -> dict[str, float]:
    """By class, of that image."""
    scores = model.scores(model.prepare(image_file.read_bytes())[None])[0]
    return dict(zip(model.classes, scores.sigmoid().tolist(), strict=True))


@pytest.fixture
def between(probabilities: dict[str, float]) -> float:
    """A threshold that the two most probable labels reach."""
    ordered = sorted(probabilities.values())
    return (ordered[-2] + ordered[-3]) / 2


def test_a_lambda_function_answers_with_the_labels_and_no_other(
    gate: Gate,  # noqa: F811
    function: ModuleType,  # noqa: F811
    several: Several,
    image_file: Path,
    probabilities: dict[str, float],
    between: float,
) -> None:
    event = {"image": base64.b64encode(image_file.read_bytes()).decode()}
    folder = several(*[between] * 4)
    ordered = sorted(probabilities, key=lambda name: -probabilities[name])
    for thresholds, given in (([between] * 4, ordered[:2]), ([0.999] * 4, [])):
        description = json.loads((folder / "model.json").read_text())
        description["answers"]["thresholds"] = thresholds
        (folder / "model.json").write_text(json.dumps(description))
        with running(settings(make_app(Model(folder)))) as port:
            gate.container = f"http://127.0.0.1:{port}"
            answer = json.loads(function.handler(event)["body"])
        assert answer["labels"] == given and "label" not in answer
        assert answer["scores"] == pytest.approx([probabilities[name] for name in given], rel=1e-3)
        assert answer["top"][0]["class"] == ordered[0]


@pytest.mark.slow
def test_the_page_names_the_labels(
    browser: Any,
    several: Several,
    image_file: Path,
    probabilities: dict[str, float],
    between: float,
) -> None:
    ordered = sorted(probabilities, key=lambda name: -probabilities[name])
    folder = several(*[between] * 4)
    server = Server(folder)
    try:
        shown = Page(browser, server.url)
        shown.choose(image_file)
        shown.until(lambda: shown.at("set").text == f"Labels: {ordered[0]}, {ordered[1]}.")
        lines = [line.text.split("\n") for line in shown.lines()]
        assert [line[0] for line in lines] == ordered
        assert lines[0][-1] == f"{100 * probabilities[ordered[0]]:.1f}%"
        assert not shown.at("unknown").is_displayed() and shown.complaints() == []
    finally:
        server.stop()
    description = json.loads((folder / "model.json").read_text())
    description["answers"]["thresholds"] = [0.999] * 4
    (folder / "model.json").write_text(json.dumps(description))
    server = Server(folder)
    try:
        shown = Page(browser, server.url)
        shown.choose(image_file)
        shown.until(lambda: shown.at("set").text == "None of the labels.")
    finally:
        server.stop()
