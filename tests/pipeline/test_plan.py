"""`dry_run=true`: what would happen, told without starting any of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from codes import Names, raises_code
from PIL import Image

from breedlab.cli.launch import main
from breedlab.config import Config, replace, validate
from breedlab.config.compose import load
from breedlab.pipeline.plan import plan

Planned = Callable[..., str]


@pytest.fixture(scope="module")
def quickstart() -> Config:
    return validate(load(["experiment=quickstart"]))


@pytest.fixture
def planned(quickstart: Config, here: Path) -> Planned:
    """The plan of quickstart with other values at some config paths, made in an empty folder that
    stays empty."""

    def make(values: dict[str, Any], resume: Path | None = None) -> str:
        before = sorted(here.rglob("*"))
        text = plan(replace(quickstart, values), resume)
        assert sorted(here.rglob("*")) == before
        return text

    return make


def folder(root: Path, **splits: int) -> Path:
    """A data set of two classes with so many images a class in each split; no split is
    `root/<class>/`."""
    for split, images in splits.items():
        for breed in ("beagle", "whippet"):
            place = root / breed if split == "all" else root / split / breed
            place.mkdir(parents=True)
            for number in range(images):
                Image.new("RGB", (8, 8), (number, 0, 0)).save(place / f"{number}.png")
    return root


@pytest.mark.parametrize("experiment", ["quickstart", "resnet34_hpo", "resnet34_finetune"])
def test_a_dry_run_of_an_experiment_leaves_nothing_on_disk(
    experiment: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"experiment={experiment}", "dry_run=true"]) == 0
    assert capsys.readouterr().out.startswith(
        f"experiment {experiment} (dry run: nothing is started)\n"
    )
    assert list(here.iterdir()) == []


def test_the_plan_of_quickstart_tells_everything(planned: Planned) -> None:
    text = planned({})
    assert "data/sample: not there yet, will be drawn" in text
    assert "8 classes; 320 train, 96 valid, 120 test" in text
    assert (
        "timm/tf_efficientnet_lite0, weights package:efficientnet_lite0, frozen: backbone" in text
    )
    assert "head 512 > 256 > 8" in text
    assert "search: 20 trials x 5 epochs, bayesian, for the highest valid/top1" in text
    assert "optim.lr: numbers from 0.0001 to 0.01, log scale" in text
    assert "data.batch_size: one of 32, 64, 128, 256" in text
    assert (
        "12 epochs x 5 steps = 60 steps (adam at 0.001, batch size 64, or what was found best)"
        in text
    )
    assert "runs/quickstart/<date_time>/" in text
    assert ".cache/activations" in text
    assert "download" not in text


def test_the_stages_come_in_the_order_in_which_they_run(planned: Planned) -> None:
    stages = [line.strip() for line in planned({}).splitlines() if re.match(r"  \d\. ", line)]
    assert [stage.partition(" ")[0] for stage in stages] == ["1.", "2.", "3.", "4.", "5.", "6."]
    words = (
        "check",
        "activations",
        "search",
        "train the best",
        "test on 120",
        "export model.tar.gz",
    )
    assert all(word in stage for word, stage in zip(words, stages, strict=True))


def test_a_search_is_told_as_the_strategy_will_run_it(planned: Planned) -> None:
    grid = {"optim.lr": [0.1, 0.2, 0.3], "data.batch_size": [16, 32]}
    text = planned(
        {"tuner.strategy": "grid", "tuner.trials": None, "tuner.space": grid, "tuner.parallel": 2}
    )
    assert "search: 6 trials x 5 epochs, grid, 2 at a time" in text
    lower = planned(
        {"monitor.metric": "valid/loss", "monitor.mode": "min", "tuner.strategy": "random"}
    )
    assert "random, for the lowest valid/loss" in lower


def test_without_a_search_there_is_none_in_the_plan(planned: Planned) -> None:
    text = planned({"tuner.strategy": "none", "data.batch_size": 100, "trainer.max_epochs": 3})
    assert "search" not in text
    assert "train: 3 epochs x 4 steps = 12 steps (adam at 0.001, batch size 100)" in text


def test_fine_tuning_has_a_probe_and_no_activations(planned: Planned) -> None:
    text = planned({"model.freeze": "none", "trainer.probe_epochs": 4})
    assert "linear probe: 4 epochs of the head alone" in text
    assert "activations" not in text


def test_views_multiply_the_images_to_compute(planned: Planned) -> None:
    assert "activations once: 1,056 images" in planned({"cache.views": 3, "data.augment": "basic"})
    assert "activations" not in planned({"cache.mode": "off"})


@pytest.mark.parametrize(
    ("path", "given", "told"),
    [
        ("model.head", [[512], [256, 128]], "model.head: one of [512], [256, 128]"),
        ("model.head", [[], [64]], "model.head: one of [], [64]"),
        (
            "data.batch_size",
            {"low": 16, "high": 64, "step": 16},
            "integers from 16 to 64 in steps of 16",
        ),
        (
            "data.batch_size",
            {"low": 16, "high": 64, "log": True},
            "integers from 16 to 64, log scale",
        ),
        ("model.dropout", {"low": 0, "high": 0.5}, "numbers from 0 to 0.5"),
        ("trainer.gradient_clip", [None, 1.0], "trainer.gradient_clip: one of null, 1.0"),
    ],
)
def test_a_dimension_is_told_as_it_is_written_in_the_config(
    path: str, given: Any, told: str, planned: Planned
) -> None:
    assert told in planned({"tuner.space": {path: given}})


def test_images_to_download_are_told_with_size_and_counts(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["experiment=resnet34_hpo", "dry_run=true"])
    text = capsys.readouterr().out
    assert "data/dog_breeds: not there yet, will be downloaded (1.1 GB from https://" in text
    assert "133 classes; 6,680 train, 835 valid, 836 test" in text
    assert "head 512 > 256 > 133" in text
    assert "20 trials x 20 epochs" in text
    assert "20 epochs x 105 steps = 2,100 steps" in text
    assert "2.3 GB for the download and what is unpacked from it" in text
    assert "GB for checkpoints and archive" in text
    assert "GB for activations in .cache/activations" in text


def test_images_in_a_folder_are_counted(planned: Planned, here: Path) -> None:
    root = folder(here / "dogs", train=5, valid=2, test=3)
    text = planned({"data.root": str(root)})
    assert f"data      {root}\n" in text
    assert "2 classes; 10 train, 4 valid, 6 test" in text


def test_splits_that_will_be_cut_are_told(planned: Planned, here: Path) -> None:
    both = planned({"data.root": str(folder(here / "plain", all=20))})
    assert "plain (valid and test cut from train)" in both
    assert "2 classes; 28 train, 6 valid, 6 test" in both
    one = planned({"data.root": str(folder(here / "tested", train=20, test=3))})
    assert "tested (valid cut from train)" in one
    assert "2 classes; 34 train, 6 valid, 6 test" in one


def test_a_run_to_continue_is_the_output(planned: Planned) -> None:
    assert "output    runs/quickstart/yesterday/" in planned({}, Path("runs/quickstart/yesterday"))


@pytest.fixture
def begun(here: Path) -> Path:
    """The directory of a run whose search has ended three trials."""
    run = here / "runs" / "quickstart" / "yesterday"
    for number in range(3):
        (run / "trials" / str(number)).mkdir(parents=True)
        (run / "trials" / str(number) / "trial.json").touch()
    return run


def checkpoint(run: Path, whole: int, midway: bool) -> None:
    """As much of a checkpoint as tells where training stands."""
    place = run / "checkpoints" / "last.ckpt"
    place.parent.mkdir(exist_ok=True)
    current = {
        "ready": whole + midway,
        "started": whole + midway,
        "processed": whole,
        "completed": whole,
    }
    torch.save({"loops": {"fit_loop": {"epoch_progress": {"current": current}}}}, place)


def test_of_a_search_that_was_cut_off_the_rest_is_planned(planned: Planned, begun: Path) -> None:
    text = planned({}, begun)
    assert f"stages left of {begun}" in text
    assert "search: 17 trials x 5 epochs (3 of 20 are done), bayesian" in text
    assert "train the best: 12 epochs" in text


def test_of_a_training_that_was_cut_off_the_rest_is_planned(planned: Planned, begun: Path) -> None:
    checkpoint(begun, 4, midway=False)
    text = planned({"tuner.trials": 3, "model.freeze": "none", "trainer.probe_epochs": 2}, begun)
    assert "continue training after epoch 4 of 12: 8 epochs x 5 steps = 40 steps" in text
    assert "search" not in text and "probe" not in text
    checkpoint(begun, 4, midway=True)
    assert "after epoch 4 of 12, within epoch 5: 8 epochs" in planned({"tuner.trials": 3}, begun)


def test_after_the_training_only_test_and_export_are_left(planned: Planned, begun: Path) -> None:
    checkpoint(begun, 12, midway=False)
    fitted = {"epochs": 12, "reason": "all 12 epochs", "best_epoch": 3, "best": 0.9}
    (begun / "trained.json").write_text(json.dumps(fitted))
    text = planned({"tuner.trials": 3}, begun)
    assert re.findall(r"^  \d\. (\w+)", text, re.MULTILINE) == ["check", "test", "export"]


def test_of_a_complete_run_nothing_is_left(planned: Planned, begun: Path) -> None:
    (begun / "model.tar.gz").touch()
    (begun / "metrics.json").write_text(json.dumps({"test": {}}))
    text = planned({"data.root": "long/gone", "data.sample": None}, begun)
    assert "this run is complete; nothing is left to do" in text
    assert "stages" not in text


def test_a_missing_folder_is_one_message_that_shows_what_is_expected(planned: Planned) -> None:
    with raises_code("BL200", names=("data.root", "nowhere", "ROOT/train")) as e:
        planned({"data.root": "nowhere", "data.sample": None})
    assert e.value.exit_code == 2
    assert len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("splits", "code", "named"),
    [
        ({"test": 3}, "BL211", ("test", "train")),
        ({"train": 2}, "BL200", ("2 images", "at least 3")),
        ({"train": 3, "val": 1, "valid": 1}, "BL211", "val and valid"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(
    splits: dict[str, int], code: str, named: Names, planned: Planned, here: Path
) -> None:
    with raises_code(code, names=named):
        planned({"data.root": str(folder(here / "dogs", **splits))})
