"""docs/aws-trial.md: every command in it is one that our commands take, and costs what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from trial_page import DOCUMENT, commands

from breedlab.cli import deploy, jobs, launch


def of(script: str) -> list[Any]:
    found = [words[2:] for words in commands() if words[1] == f"scripts/{script}.py"]
    return [pytest.param(words, id=f"{script} {n}") for n, words in enumerate(found)]


def test_the_document_has_all_five_scripts() -> None:
    assert [len(of(script)) for script in ("launch", "jobs", "deploy", "predict")] == [4, 7, 5, 1]


@pytest.mark.parametrize("words", of("launch"))
def test_a_launch_is_planned_at_the_price_that_is_told(
    words: list[str], no_account: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert launch.main([*words, "dry_run=true"]) == 0
    out = capsys.readouterr().out
    bill = re.search(
        r"^ [ *] .*?(\$[\d.]+ \(\d+ jobs?, [\d.]+ instance hours\))", out, re.MULTILINE
    )
    marked = (
        re.search(r"^ \* .*?(\$[\d.]+ \(\d+ jobs?, [\d.]+ instance hours\))", out, re.MULTILINE)
        or bill
    )
    assert marked and "a launch would refuse" not in out
    told = re.findall(r"`largest bill: (.*?)`", DOCUMENT.read_text())
    assert marked[1] in told or "one_job" in " ".join(words)


@pytest.mark.parametrize("words", of("deploy"))
def test_a_deployment_is_planned_and_the_others_are_parsed(
    words: list[str],
    no_account: None,
    model_archive: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "--list" in words or "--delete" in words:
        asked: list[str | None] = []
        home = "breedlab.backends.sagemaker.endpoints.deploy"
        monkeypatch.setattr(f"{home}.show_all", asked.append)
        monkeypatch.setattr(f"{home}.delete", lambda name, region: asked.append(region))
        assert deploy.main(words) == 0 and asked == ["us-east-1"]
        return
    assert deploy.main([str(model_archive), *words[1:], "--dry-run"]) == 0
    out = capsys.readouterr().out
    cost = re.search(r"`endpoint trial-dogs costs (\$[\d.]+ an hour)", DOCUMENT.read_text())
    assert cost and f"costs    {cost[1]}" in out


@pytest.mark.parametrize("words", of("jobs"))
def test_a_command_on_jobs_is_one(
    words: list[str], no_account: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Without an account it gets as far as AWS, or finds no job here."""
    from breedlab.errors import BreedlabError

    monkeypatch.chdir(tmp_path)
    try:
        assert jobs.main(words) == 0
    except BreedlabError as error:
        assert "no credentials found" in str(error)
