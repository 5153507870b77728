"""A config is validated once, where it comes in: what a search proposes and a trial changes costs
no more than it has to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from breedlab.cli import launch
from breedlab.config import replace
from breedlab.config.schema import Config

Words = Callable[..., list[str]]


@pytest.fixture
def validations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every whole tree that is validated."""
    validated: list[Any] = []
    original = Config.model_validate.__func__  # type: ignore[attr-defined]

    def counted(cls: type[Config], tree: Any, **more: Any) -> Config:
        validated.append(tree)
        return original(cls, tree, **more)  # type: ignore[no-any-return]

    monkeypatch.setattr(Config, "model_validate", classmethod(counted))
    return validated


@pytest.mark.parametrize("experiment", ["resnet34", "resnet34_hpo"])
def test_a_launch_validates_its_config_once(
    words: Words, validations: list[Any], experiment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.main(words(f"experiment={experiment}", "dry_run=true")) == 0
    assert len(validations) == 1


def test_a_trial_validates_its_values_once(words: Words, validations: list[Any]) -> None:
    config = launch.configure(*words("experiment=resnet34_hpo"))
    validations.clear()
    assert replace(config, {"optim.lr": 0.25, "optim.name": "sgd"}).optim.lr == 0.25
    assert len(validations) == 1


def test_a_run_that_goes_on_validates_what_was_recorded_once(
    golden: Path, validations: list[Any]
) -> None:
    config = launch.resumed(Path("runs/golden/stopped_in_search"), [], dry_run=False)
    assert config.resume is None and not config.dry_run
    assert len(validations) == 1
