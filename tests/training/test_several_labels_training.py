"""Multi-label training: losses, the solved head, a whole run, and what its archive
answers."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labeled_shapes import CLASSES, labels_of, write_csv
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from breedlab.config import Config, validate
from breedlab.config.compose import load
from breedlab.training.cross_entropy import BinaryCrossEntropyLoss
from breedlab.training.solved_losses import BinaryLoss
from breedlab.training.solving import Regression
from breedlab.training.tasks import task_of

IMAGES = 96


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("several") / "shapes"
    write_csv(root, IMAGES)
    return root


@pytest.fixture(scope="module")
def small(words: Callable[..., list[str]]) -> list[str]:
    """The overrides of a small experiment, without its data, on a network whose random features
    tell colors apart."""
    others = ("data=", "data.root=", "seed=", "model.name=")
    return [*(word for word in words() if not word.startswith(others)), "model.name=resnet18"]


@pytest.fixture(scope="module")
def configured(shapes: Path, small: list[str]) -> Callable[..., Config]:
    """The config of a small experiment on them, others added."""

    def make(*more: str) -> Config:
        several = ["data=multi_label", f"data.root={shapes}", "name=several", "seed=7"]
        return validate(load([*small, *several, *more]))

    return make


def test_the_loss_smooths_and_weighs_each_label() -> None:
    logits, targets = torch.randn(5, 3), (torch.rand(5, 3) < 0.5).float()
    weights = torch.tensor([1.0, 4.0, 2.0])
    found = BinaryCrossEntropyLoss(weights, label_smoothing=0.2)(logits, targets)
    smoothed = torch.where(targets > 0, 0.9, 0.1)
    p = logits.sigmoid()
    wanted = -(weights * smoothed * p.log() + (1 - smoothed) * (1 - p).log()).mean()
    assert torch.allclose(found, wanted, atol=1e-6)


def test_class_weights_make_up_for_the_labels_that_are_not_there(
    configured: Callable[..., Config], shapes: Path
) -> None:
    from breedlab.data.folders import scan, splitting
    from breedlab.data.module import ImageData
    from breedlab.data.transforms import EvalTransform

    config = configured("data.class_weights=balanced")
    images = scan(shapes, **splitting(config))
    half = (0.5, 0.5, 0.5)
    data = ImageData(images, config.data, EvalTransform(36, 32, "bilinear", half, half), 0, 1)
    weights = data.class_weights()
    assert weights is not None
    criterion = task_of(config.data).loss(config.optim, images.counts("train"), weights)
    targets = data.labels("train")
    bias = torch.zeros(3, requires_grad=True)
    loss: torch.Tensor = criterion(bias.expand(len(targets), 3), targets)
    loss.backward()
    # So weighted, a label that is there and one that is not count the same: 0 is the best bias.
    assert bias.grad is not None and torch.allclose(bias.grad, torch.zeros(3), atol=1e-6)


def test_a_solved_head_is_scikit_learns_regression_of_each_class_against_the_rest() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(120, 8, generator=draw, dtype=torch.float64)
    targets = (x[:, :3] + torch.randn(120, 3, generator=draw, dtype=torch.float64) > 0.3).float()
    problem = Regression(x, targets, 3, BinaryLoss(), torch.float64)
    problem.solve(0.3, tolerance=1e-9)
    weight, bias = problem.unfolded()
    scaler = StandardScaler().fit(x.numpy())
    for index in range(3):
        theirs = LogisticRegression(C=0.3, tol=1e-10, max_iter=10_000)
        theirs.fit(scaler.transform(x.numpy()), targets[:, index].numpy())
        scores = nn.functional.linear(x, weight, bias)[:, index]
        wanted = theirs.decision_function(scaler.transform(x.numpy()))
        assert np.allclose(scores.numpy(), wanted, atol=1e-4)


@pytest.fixture(scope="module")
def trained(
    configured: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A run that searched, and its metrics."""
    from breedlab.pipeline.run import run

    config = configured(
        f"runs_dir={tmp_path_factory.mktemp('runs')}",
        "tuner=random",
        "tuner.trials=2",
        "tuner.max_epochs=2",
        "tuner.space.optim={lr: [0.001, 0.003]}",
        "tuner.space.data.batch_size=[8, 16]",
        "trainer.max_epochs=8",
        "trainer.ema=0.5",
        "trainer.refit=true",
    )
    ended = run(config, [])
    return ended.run, ended.metrics


def test_a_run_searches_trains_and_tests_by_map(trained: tuple[Path, dict[str, Any]]) -> None:
    directory, metrics = trained
    assert metrics["monitor"]["metric"] == "valid/map" and metrics["monitor"]["best"] > 0.9
    assert metrics["search"]["objective"] > 0.5
    test = metrics["test"]
    assert test["multi_label"] and test["metrics"]["map"] > 0.9
    assert {*test["intervals"]} == {*test["metrics"]}
    splits = json.loads((directory / "splits.json").read_text())
    for split, files in splits["photos"].items():
        for file, labels in zip(files, splits["labels"][split], strict=True):
            assert tuple(CLASSES[label] for label in labels) == labels_of(int(file[:3]))
    page = (directory / "report.html").read_text("utf-8")
    assert 'id="labels"' in page and 'id="confusion"' not in page
    assert "no report was written" not in page


def test_predictions_and_thresholds_give_the_test_again(
    trained: tuple[Path, dict[str, Any]],
) -> None:
    from sklearn.metrics import average_precision_score, f1_score

    directory, metrics = trained
    found = json.loads((directory / "predictions.json").read_text())
    truth = np.array([[c in own for c in range(3)] for own in found["labels"]]).astype(int)
    probabilities = np.array(found["probabilities"])
    given = (probabilities >= np.array(found["thresholds"])).astype(int)
    assert [np.flatnonzero(row).tolist() for row in given] == found["predicted"]
    test = metrics["test"]["metrics"]
    assert average_precision_score(truth, probabilities) == pytest.approx(test["map"], abs=1e-4)
    assert f1_score(truth, given, average="macro") == pytest.approx(test["f1"])


def test_the_archive_answers_with_probabilities_and_labels(
    trained: tuple[Path, dict[str, Any]], shapes: Path
) -> None:
    import breedlab
    from breedlab.archives import opened
    from breedlab.serving.handler import input_fn, output_fn, predict_fn
    from breedlab.serving.model import Model

    directory, _ = trained
    found = json.loads((directory / "predictions.json").read_text())
    files = [shapes / name for name in found["photos"]]
    predictions = breedlab.load(directory).predict(files)
    for prediction, probabilities, given in zip(
        predictions, found["probabilities"], found["predicted"], strict=True
    ):
        mine = [prediction.probabilities[name] for name in CLASSES]
        assert mine == pytest.approx(probabilities, abs=1e-3)
        assert prediction.labels is not None
        assert {*prediction.labels} == {CLASSES[label] for label in given}
    with opened(directory) as folder:
        description = json.loads((folder / "model.json").read_text())
        assert description["format"] == 2 and len(description["answers"]["thresholds"]) == 3
        model = Model(folder)
        answer = predict_fn(input_fn(files[0].read_bytes(), "image/png"), model)
        (row,) = json.loads(output_fn(answer, "application/json")[0])
        assert row == pytest.approx(found["probabilities"][0], abs=1e-3)
        verbose = json.loads(output_fn(answer, "application/json", verbose=True)[0])
    (said,) = verbose["predictions"]
    assert said["probabilities"] == pytest.approx(row) and {*said["labels"]} == {
        CLASSES[label] for label in found["predicted"][0]
    }
    assert verbose["thresholds"] == description["answers"]["thresholds"]
    assert "set" not in said and "unknown" not in said  # of 14 validation images


def test_predict_and_evaluate_list_labels(
    trained: tuple[Path, dict[str, Any]], shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from breedlab.cli import evaluate, predict

    directory, _ = trained
    assert predict.main([str(directory), str(shapes / "000.png"), str(shapes / "007.png")]) == 0
    out = capsys.readouterr().out
    assert "none of the labels" in out and all(name in out for name in CLASSES)
    assert evaluate.main([str(directory), str(shapes), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["photos"] == IMAGES and found["metrics"]["map"] > 0.9
    assert {*found["intervals"]} == {*found["metrics"]}


def test_an_exported_program_and_its_card_have_sigmoids_and_thresholds(
    trained: tuple[Path, dict[str, Any]], shapes: Path, tmp_path: Path
) -> None:
    from breedlab.cli import export

    directory, metrics = trained
    found = json.loads((directory / "predictions.json").read_text())
    assert export.main([str(directory), "--torch", str(tmp_path / "model.pt2")]) == 0
    extra = {"metadata.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    from breedlab.archives import opened
    from breedlab.data.decode import read_image
    from breedlab.serving.model import Model

    with opened(directory) as folder:
        image = Model(folder).prepare(read_image(shapes / found["photos"][0]))
    _, probabilities = program(image[None])
    assert probabilities[0].tolist() == pytest.approx(found["probabilities"][0], abs=1e-3)
    thresholds = [own["threshold"] for own in metrics["test"]["per_class"].values()]
    assert json.loads(json.loads(extra["metadata.json"])["thresholds"]) == thresholds
    assert export.main([str(directory), "--card", str(tmp_path / "README.md")]) == 0
    card = (tmp_path / "README.md").read_text()
    assert "any number of 3 labels" in card and f"blue {thresholds[0]:.3f}" in card
    assert "mAP" in card and "is given one of them" not in card


def test_two_runs_are_compared(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    from breedlab.reporting.report import write_report

    directory, _ = trained
    copy = shutil.copytree(directory, directory.parent / "copy")
    page = write_report([directory, copy], tmp_path / "comparison.html").read_text("utf-8")
    assert "has all labels right on 0 more of" in page and "all labels right" in page
    assert "mAP" in page and "top-1" not in page


def test_engines_agree_where_all_labels_of_an_image_are_the_same() -> None:
    from breedlab.serving.answers import Answers
    from breedlab.serving.engine_output import calibrated
    from breedlab.serving.engine_selection import _alike

    answers = Answers(3, thresholds=(0.5, 0.9, 0.2))
    logits = torch.tensor([[1.0, 1.0, -1.0], [-1.0, 3.0, -2.0]])
    scores = calibrated(lambda logits: logits, answers)
    decided = answers.decided(scores(logits))
    assert decided.tolist() == [[True, False, True], [False, True, False]]
    assert _alike(decided, answers.decided(scores(logits + torch.tensor([0.0, 0.0, 1.0])))) == 0.5


def test_a_folder_with_several_labels_is_recognized(
    shapes: Path,
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from breedlab.cli import folder

    monkeypatch.chdir(tmp_path)
    assert folder.main([str(shapes), *small, "dry_run=true"]) == 0
    out = capsys.readouterr().out
    assert "the data is multi-label: data=multi_label;" in out
    assert "data=multi_label" in out.partition("to run it again with changes")[2]
    assert "3 classes" in out


def test_auto_searches_by_folds_and_fine_tunes_with_cutmix(
    configured: Callable[..., Config], tmp_path: Path
) -> None:
    """What `experiment=auto` does, with two networks that have no weights."""
    from breedlab.pipeline.run import run

    config = configured(
        f"runs_dir={tmp_path}",
        "tuner=auto",
        "tuner.minutes=5",
        "tuner.folds=3",
        "tuner.confirm=1",
        "tuner.max_epochs=2",
        "tuner.space={model: {name: [resnet18, shufflenet_v2_x0_5], weights: [none, none],"
        " head_type: [logistic, linear]}}",
        "trainer.max_epochs=1",
        "fine_tune.epochs=1",
        "fine_tune.cutmix=1.0",
    )
    ended = run(config, [])
    search = ended.metrics["search"]
    assert len(search["folds"]) == 3
    assert search["objective"] == pytest.approx(np.mean(search["folds"]))
    assert len([*(ended.run / "trials").iterdir()]) == 4  # each network with each head
    assert ended.metrics["training"]["fine_tune"]["epochs"] == 1
    assert ended.metrics["test"]["metrics"]["map"] > 0.9


def test_a_wrong_label_is_listed_and_a_fix_applied(
    configured: Callable[..., Config], shapes: Path, tmp_path: Path
) -> None:
    from breedlab.data.source import obtain
    from breedlab.pipeline.run import run

    planted = shutil.copytree(shapes, tmp_path / "planted")
    file = planted / "labels.csv"
    rows = list(csv.DictReader(file.open()))
    wrong = next(row for row in rows if row["labels"] == "blue|green")
    wrong["labels"] = "blue|green|red"
    with file.open("w", newline="") as out:
        table = csv.DictWriter(out, ["filename", "labels"])
        table.writeheader()
        table.writerows(rows)
    words = (f"data.root={planted}", "model.head_type=logistic", "data.test_fraction=0.05")
    ended = run(configured(f"runs_dir={tmp_path}", *words), [])
    listed = list(csv.DictReader((ended.run / "fixes.csv").open()))
    first = listed[0]
    assert (first["file"], first["label"]) == (wrong["filename"], "blue|green|red")
    assert (first["suggested"], first["why"]) == ("blue|green", "label")
    assert wrong["filename"] in (ended.run / "report.html").read_text("utf-8")
    first["fix"] = first["suggested"]
    fixes = tmp_path / "fixes.csv"
    with fixes.open("w", newline="") as out:
        table = csv.DictWriter(out, [*first])
        table.writeheader()
        table.writerow(first)
    images = obtain(configured(f"data.root={planted}", f"data.fixes={fixes}"))
    (fixed,) = (
        image
        for split in images.splits.values()
        for image in split
        if image.path.name == wrong["filename"]
    )
    assert fixed.labels == (CLASSES.index("blue"), CLASSES.index("green"))


def test_a_stranger_is_unknown_and_the_images_of_the_labels_are_not(
    configured: Callable[..., Config],
    shapes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import breedlab
    from breedlab.archives import opened
    from breedlab.cli import predict
    from breedlab.pipeline.run import run
    from breedlab.serving.handler import input_fn, output_fn, predict_fn
    from breedlab.serving.model import Model

    words = (f"runs_dir={tmp_path}", "data.valid_fraction=0.4", "model.head_type=logistic")
    words += ("serving.unknown=field",)
    ended = run(configured(*words), [])
    stripes = tmp_path / "stripes.png"
    pixels = np.where(np.indices((96, 96))[1] % 24 < 12, 255, 0).astype(np.uint8)
    Image.fromarray(pixels).convert("RGB").save(stripes)
    model = breedlab.load(ended.run)
    (stranger,) = model.predict([stripes])
    assert stranger.unknown is True
    known = model.predict(sorted(shapes.glob("*.png")))
    alarms = [prediction.unknown for prediction in known]
    assert False in alarms and sum(map(bool, alarms)) < 0.15 * IMAGES
    measured = ended.metrics["export"]["answers"]
    assert measured["unknown"]["method"] == "nearest" and "sets" not in measured
    assert measured["unknown"]["false_alarms"] < 0.3
    assert "calls images unknown" in (ended.run / "report.html").read_text("utf-8")
    with opened(ended.run) as folder:
        served = Model(folder)
        answer = predict_fn(input_fn(stripes.read_bytes(), "image/png"), served)
        rows = json.loads(output_fn(answer, "application/json")[0])
        assert len(rows[0]) == len(CLASSES)  # the distance is no score
        (said,) = json.loads(output_fn(answer, "application/json", verbose=True)[0])["predictions"]
        assert said["unknown"] is True and "labels" in said and "set" not in said
    assert predict.main([str(ended.run), str(stripes), str(shapes / "007.png")]) == 0
    out = capsys.readouterr().out
    assert "unknown: stranger than" in " ".join(out.split()) and all(
        name in out for name in CLASSES
    )


def test_all_layers_train_on_several_labels(
    configured: Callable[..., Config], tmp_path: Path
) -> None:
    from breedlab.pipeline.run import run

    config = configured(
        f"runs_dir={tmp_path}",
        "trainer.max_epochs=1",
        "fine_tune.epochs=1",
        "model.head_type=logistic",
        "optim.label_smoothing=0.1",
    )
    metrics = run(config, []).metrics
    assert metrics["training"]["fine_tune"]["epochs"] == 1
    assert metrics["test"]["metrics"]["map"] > 0.9
