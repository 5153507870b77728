"""A search wastes no trials on batches larger than the data; early stopping under a cosine is
warned of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from codes import raises_code

from breedlab.cli.launch import main
from breedlab.config import Config, search_space
from breedlab.config.space import Choices, Range
from breedlab.pipeline.checked_images import checked_images
from breedlab.pipeline.run import run
from breedlab.pipeline.suitability import cap_batch_sizes, early_stopping_concern

Configure = Callable[..., Config]


def space(config: Config) -> Any:
    return search_space(config)["data.batch_size"]


def test_a_search_tries_no_batch_larger_than_the_data_and_says_so(
    here: Path, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("tuner=grid", "tuner.max_epochs=1", "tuner.space={data: {batch_size: [64, 128, 512]}}")
    config = configure(*words, "trainer.max_epochs=1", "name=capped")  # on 100 training images
    result = run(config, [])
    tried = [
        json.loads(path.read_text())["values"] for path in result.run.glob("trials/*/trial.json")
    ]
    assert tried == [{"data.batch_size": 64}]
    said = " ".join(capsys.readouterr().out.split())
    assert "tuner.space.data.batch_size: 128, 512 left out; there are 100 training images" in said
    recorded = yaml.safe_load((result.run / "config.yaml").read_text())
    # which a resumed search goes on with
    assert recorded["tuner"]["space"] == {"data.batch_size": [64]}


def test_the_dry_run_shows_what_the_run_will_do(
    here: Path, words: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    search = [
        "tuner=grid",
        "tuner.max_epochs=1",
        "tuner.space={data: {batch_size: [64, 128, 512]}, optim: {lr: [0.1, 1.0]}}",
    ]
    assert (
        main(
            [
                *words(*search),
                "trainer.max_epochs=20",
                "trainer.patience=3",
                "optim.schedule=cosine",
                "dry_run=true",
            ]
        )
        == 0
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "search: 2 trials x 1 epochs" in said and "data.batch_size: one of 64 " in said
    assert "128, 512 left out; there are 100 training images" in said
    assert "trainer.patience=3 with optim.schedule=cosine: training may stop" in said


@pytest.mark.parametrize(
    "asked", ["[64, 128, 512]", "{low: 16, high: 512}", "{choices: [64, 128]}"]
)
def test_a_resumed_search_may_be_asked_the_same_again(
    here: Path, words: Callable[..., list[str]], asked: str
) -> None:
    search = ["tuner=random", "tuner.trials=1", "tuner.max_epochs=1", "tuner.space.optim.lr=[0.1]"]
    assert (
        main([*words(*search, "trainer.max_epochs=1"), f"tuner.space.data.batch_size={asked}"]) == 0
    )
    assert main(["resume=runs/latest", f"tuner.space.data.batch_size={asked}"]) == 0
    with raises_code("BL110", names="tuner.space.data.batch_size"):
        main(["resume=runs/latest", "tuner.space.data.batch_size=[32, 512]"])


def test_what_fits_stays_and_something_always_does(configure: Configure) -> None:
    config = configure("tuner=random", "tuner.trials=2", "tuner.space.data.batch_size=[16,32]")
    assert cap_batch_sizes(config, 32) == (config, "")
    assert space(cap_batch_sizes(config, 20)[0]) == Choices((16,))
    assert space(cap_batch_sizes(config, 5)[0]) == Choices((16,))
    spread = configure(
        "tuner=random",
        "tuner.trials=2",
        "tuner.space.data.batch_size={low: 16, high: 512, log: true}",
    )
    capped, said = cap_batch_sizes(spread, 90)
    assert space(capped) == Range(16, 90, log=True) and "up to 90 instead of 512" in said
    assert search_space(capped).keys() == search_space(spread).keys()


@pytest.mark.parametrize(
    ("overrides", "concerned"),
    [
        (["optim.schedule=cosine", "trainer.patience=3"], True),
        (["optim.schedule=one_cycle", "trainer.patience=3"], True),
        (["optim.schedule=constant", "trainer.patience=3"], False),
        (["optim.schedule=cosine"], False),
        (["optim.schedule=cosine", "trainer.patience=20"], False),
    ],
)
def test_early_stopping_that_cuts_a_schedule_off_is_warned_of(
    configure: Configure, overrides: list[str], concerned: bool
) -> None:
    text = early_stopping_concern(configure(*overrides, "trainer.max_epochs=20"))
    assert bool(text) is concerned
    assert not concerned or ("trainer.patience=null" in text and "20 epochs" in text)


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_nobody_is_told_to_balance_classes_that_are(
    here: Path,
    image_folder: Path,
    configure: Configure,
    capsys: pytest.CaptureFixture[str],
    weights: str,
) -> None:
    root = here / "photos"
    shutil.copytree(image_folder, root)
    for image in sorted(next((root / "train").iterdir()).iterdir())[2:]:  # of 25
        image.unlink()
    checked_images(configure(f"data.root={root}", f"data.class_weights={weights}"))
    said = " ".join(capsys.readouterr().out.split())
    assert "classes are imbalanced" in said
    assert ("data.class_weights=balanced weighs them evenly" in said) is (weights == "none")
