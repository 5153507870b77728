"""What an experiment turns on and the machine lacks: left out with a line, refused if it was asked
for by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from codes import raises_code

from breedlab import extras
from breedlab.backends import backend
from breedlab.cli.launch import configure, main


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
