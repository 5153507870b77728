"""Without the `sagemaker` extra every way in says the same thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from breedlab.backends.sagemaker import session
from breedlab.cli import batch, deploy, jobs, launch
from breedlab.errors import BreedlabError


def test_launching_deploying_and_their_dry_runs_ask_for_the_extra_in_the_same_words(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        session, "find_spec", lambda name: None if name == "sagemaker" else object()
    )
    said = set()
    for command, words in (
        (launch.main, ["backend=sagemaker", "dry_run=true"]),
        (launch.main, ["backend=sagemaker", "backend.role=r", "backend.bucket=my-bucket"]),
        (deploy.main, ["runs/latest", "--dry-run"]),
        (deploy.main, ["runs/latest"]),
        (deploy.main, ["--list"]),
        (deploy.main, ["--delete", "dogs"]),
        (batch.main, ["--follow", "dogs"]),
        (jobs.main, ["show", "dogs"]),
    ):
        with pytest.raises(BreedlabError) as refusal:
            command(words)
        said.add((refusal.value.code, refusal.value.exit_code, str(refusal.value)))
    ((code, status, message),) = said
    assert (code, status) == ("BL401", 2)
    assert "needs sagemaker; install the extra: pip install 'breedlab[sagemaker]'" in message
    assert list(here.iterdir()) == []
