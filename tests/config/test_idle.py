"""A setting that another one switches off is named, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from breedlab.cli import launch
from breedlab.config.compose import load
from breedlab.config.idle import _SWITCHES, without_effect
from breedlab.config.schema import Config
from breedlab.config.validate import validate


def told(*words: str) -> list[str]:
    return [*without_effect(validate(load(["experiment=resnet34", *words])), words)]


@pytest.mark.parametrize(
    ("words", "paths"),
    [
        (["fine_tune.soup=3"], ["fine_tune.soup"]),
        (["fine_tune.soup=3", "fine_tune.epochs=2"], []),
        (["fine_tune.epochs=0"], []),
        (["tuner=none", "tuner.minutes=10"], ["tuner.minutes"]),
        (["tuner=bayesian", "tuner.trials=3"], []),
        (["tuner.strategy=random", "tuner.trials=3"], []),
        (["debugger=none", "debugger.every=3", "optim.lr=0.1"], ["debugger.every"]),
        (["debugger=losses", "debugger.every=3"], []),
        (["profiler=none", "profiler.interval_ms=100"], ["profiler.interval_ms"]),
    ],
)
def test_each_setting_without_effect_is_told(words: list[str], paths: list[str]) -> None:
    assert [text.partition(" ")[0] for text in told(*words)] == paths


def test_what_switches_a_section_off_is_its_groups_none() -> None:
    config = validate(load(["experiment=resnet34", "debugger=none", "profiler=none", "tuner=none"]))
    assert all(switch.value(config) == switch.off for switch in _SWITCHES)
    assert {switch.path.partition(".")[0] for switch in _SWITCHES} <= set(Config.model_fields)


def test_a_dry_run_says_so(
    image_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["experiment=resnet34", "data=image_folder", f"data.root={image_folder}"]
    assert launch.main([*words, "tuner.minutes=10", "dry_run=true"]) == 0
    assert "warning: tuner.minutes has no effect with tuner.strategy=none" in " ".join(
        capsys.readouterr().out.split()
    )
