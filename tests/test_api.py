"""The public API, as somebody uses it who embeds a model in a program of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
from codes import raises_code
from PIL import Image

import breedlab

PUBLIC = [
    "BreedlabError",
    "Config",
    "Model",
    "Prediction",
    "Run",
    "__version__",
    "configure",
    "load",
    "run",
]
COMPLETE = "runs/golden/complete"


def test_only_these_names_are_public() -> None:
    assert dir(breedlab) == breedlab.__all__ == PUBLIC
    for name in PUBLIC:
        assert getattr(breedlab, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        breedlab.nothing  # noqa: B018


def test_importing_it_loads_nothing_heavy() -> None:
    script = (
        "import sys, breedlab; breedlab.__all__; print([n for n in ('torch', 'hydra', 'PIL') if n"
        " in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True
        ).stdout.strip()
        == "[]"
    )


def test_type_checkers_know_it() -> None:
    assert (Path(breedlab.__file__).parent / "py.typed").is_file()


def test_a_model_says_the_same_of_a_path_bytes_and_a_picture(golden: Path) -> None:
    recorded = json.loads(Path(COMPLETE, "predictions.json").read_text())
    paths = [Path("photos", name) for name in recorded["photos"]]
    model = breedlab.load(COMPLETE)
    assert model.classes == ("Amber Brindle Pointer", "Amber Brindle Terrier")
    predictions = model.predict(paths)
    for prediction, label, probability in zip(
        predictions, recorded["predicted"], recorded["probabilities"], strict=True
    ):
        assert prediction.label == model.classes[label]
        assert prediction.probability == pytest.approx(probability, abs=2e-3)
        assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert next(iter(prediction.probabilities)) == prediction.label
    (alone,) = model.predict(str(paths[0]))
    (from_bytes,) = model.predict(paths[0].read_bytes())
    with Image.open(paths[0]) as picture:
        (from_picture,) = model.predict([picture])
    assert alone.label == from_bytes.label == from_picture.label == predictions[0].label
    assert from_bytes.probability == pytest.approx(predictions[0].probability, abs=1e-4)
    # PIL and the model's own decoder differ by a level here and there.
    assert from_picture.probability == pytest.approx(predictions[0].probability, abs=2e-2)
    assert model.predict([]) == []


@pytest.mark.parametrize(
    ("image", "code", "named"),
    [
        ("nowhere.jpg", "BL200", "nowhere.jpg"),
        (b"no image", "BL208", "image 0"),
        ("account.json", "BL208", "account.json"),
    ],
)
def test_what_is_not_an_image_is_named(image: Any, code: str, named: str, golden: Path) -> None:
    with raises_code(code, names=named):
        breedlab.load(COMPLETE).predict(image)


def test_what_is_no_file_is_named_instead_of_read_for_ever(golden: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with raises_code("BL201", names="pipe.jpg"):
        breedlab.load(COMPLETE).predict(tmp_path / "pipe.jpg")


def test_many_images_are_answered_in_their_order(golden: Path) -> None:
    """More than are decoded ahead."""
    recorded = json.loads(Path(COMPLETE, "predictions.json").read_text())
    paths = [Path("photos", name) for name in recorded["photos"]] * 20
    model = breedlab.load(COMPLETE)
    assert len(paths) > 100
    answers = model.predict(iter(paths))
    assert [model.classes.index(answer.label) for answer in answers] == recorded["predicted"] * 20


def test_a_run_is_read(golden: Path) -> None:
    run = breedlab.Run(COMPLETE)
    assert run.metrics["top1"] == 0.5
    assert [trial["number"] for trial in run.trials] == [0, 1, 2]
    assert run.best is not None
    recorded = json.loads((run.path / "metrics.json").read_text())["search"]
    assert run.best["number"] == recorded["trial"] and run.best["values"] == recorded["values"]
    assert run.config["trainer"]["max_epochs"] == 6
    assert run.report.name == "report.html"
    assert run.model.classes == breedlab.load(run.path).classes
    assert breedlab.Run("runs/golden/stopped_in_search").metrics == {}
    with raises_code("BL115", names="photos"):
        breedlab.Run("photos")


@pytest.mark.slow
def test_an_experiment_is_run(words: Callable[..., list[str]], here: Path) -> None:
    class Steps(lightning.Callback):
        count = 0

        def on_train_batch_end(self, *_: object) -> None:
            self.count += 1

    steps = Steps()
    run = breedlab.run(*words("experiment=resnet34", "trainer.max_epochs=1"), callbacks=[steps])
    assert steps.count > 0
    assert 0 <= run.metrics["top1"] <= 1
    assert run.path.is_relative_to(here) and run.report.is_file() and run.trials == []
    assert len(run.model.classes) == 4


def test_what_would_return_no_run_is_refused(words: Callable[..., list[str]]) -> None:
    config = breedlab.configure(*words("experiment=resnet34", "dry_run=true"))
    with raises_code("BL107", names="dry_run"):
        breedlab.run(config=config)
    with raises_code("BL107", names="config"):
        breedlab.run("experiment=resnet34", config=config)
    with raises_code("BL107", names=("list", "run(*overrides)")):
        breedlab.run(["experiment=quickstart"])  # type: ignore[arg-type]
    with raises_code("BL107", names="backend.wait"):
        breedlab.run(*words("experiment=resnet34", "backend.wait=false"))


def test_callbacks_that_another_machine_cannot_call_are_refused(
    words: Callable[..., list[str]],
) -> None:
    account = ["backend=sagemaker", "backend.role=trainer", "backend.bucket=runs"]
    typed = words("experiment=resnet34", *account)
    with raises_code("BL400", names=("callbacks", "backend.name=sagemaker")):
        breedlab.run(*typed, callbacks=[lightning.Callback()])
