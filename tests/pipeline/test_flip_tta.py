"""Mirror images at test time: the test, the archive, and what is exported from it average both."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import breedlab
from breedlab.archives import opened
from breedlab.config import Config
from breedlab.data.decode import read_image
from breedlab.evaluation.figures import rate_interval
from breedlab.evaluation.statistics import mcnemar
from breedlab.pipeline.run import run
from breedlab.serving.engine_kinds import EAGER
from breedlab.serving.model import Model
from breedlab.serving.portable import Portable


def test_the_test_and_all_answers_average_an_image_and_its_mirror_image(
    configure: Callable[..., Config], image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("model.name=resnet18", "trainer.max_epochs=2", "serving.unknown=off")
    ended = run(configure("serving.flip_tta=true", *words), [])
    tested = json.loads((ended.run / "predictions.json").read_text())
    files = [image_folder / name for name in tested["photos"]]
    truth = torch.tensor(tested["labels"])
    with opened(ended.run) as folder:
        description = json.loads((folder / "model.json").read_text())
        assert description["format"] == 2 and description["answers"]["flip_tta"] is True
        model = Model(folder, engine=EAGER)
        images = torch.stack([model.prepare(read_image(file)) for file in files])
        with torch.no_grad():
            plain, mirror = model.network(images), model.network(images.flip(3))
            _, portable = Portable(model).eval()(images)
        answered = model.scores(images)
    expected = ((plain + mirror) / 2 / model.answers.temperature).softmax(1)
    assert not torch.allclose(expected, plain.softmax(1), atol=1e-3)
    torch.testing.assert_close(portable, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(answered.softmax(1), expected, rtol=1e-4, atol=1e-5)
    # the engine that was taken, and the test of the run before there was an archive
    for prediction, row in zip(breedlab.load(ended.run).predict(files), expected, strict=True):
        given = [prediction.probabilities[name] for name in model.classes]
        assert given == pytest.approx(row.tolist(), abs=5e-3)
    assert tested["probabilities"] == pytest.approx(expected.max(1).values.tolist(), abs=5e-3)
    measured = ended.metrics["flip_tta"]
    right = {"without": plain, "with": expected}
    for name, scores in right.items():
        assert measured[name] == pytest.approx(float((scores.argmax(1) == truth).float().mean()))
    assert measured["with"] == pytest.approx(ended.metrics["test"]["metrics"]["top1"])
    assert 1 < measured["times_as_long"] < 4
    compared = measured["compared"]
    right_with, right_without = ((scores.argmax(1) == truth) for scores in (expected, plain))
    assert compared["more"] == int(right_with.sum()) - int(right_without.sum())
    assert compared["p"] == mcnemar(right_with.tolist(), right_without.tolist())
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"without mirror images: right on \d+ \w+ of 24 test images, .*McNemar", said)
    for name in ("with", "without"):
        assert f"{measured[name]:.1%} ({rate_interval(measured[name], 24)})" in said


def test_nothing_is_mirrored_unless_asked(configure: Callable[..., Config]) -> None:
    ended = run(configure("model.name=resnet18", "trainer.max_epochs=1"), [])
    assert "flip_tta" not in ended.metrics
    with opened(ended.run) as folder:
        description = json.loads((folder / "model.json").read_text())
    assert description["format"] == 1 and "flip_tta" not in description["answers"]
