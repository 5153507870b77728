"""`jobs.py` given a folder that no job belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest
from codes import raises_code

from breedlab.cli import jobs
from breedlab.errors import BackendError


@pytest.mark.parametrize("verb", ["fetch", "show", "stop"])
def test_a_run_that_trained_here_is_no_reason_to_ask_for_a_region(
    verb: str, here: Path, no_account: None
) -> None:
    run = here / "runs" / "quickstart" / "yesterday"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("name: quickstart\n")
    (here / "runs" / "latest").symlink_to("quickstart/yesterday")
    with pytest.raises(BackendError) as refusal:
        jobs.main([verb, "runs/latest"])
    assert str(refusal.value) == (
        "runs/latest: this run trained in the process that launched it, so there is no job to"
        f" {verb}"
    )


@pytest.mark.parametrize("name", ["./runs", "runs/latest"])
def test_a_folder_that_is_no_run_is_told_from_a_job_of_another_machine(
    name: str, here: Path, no_account: None
) -> None:
    (here / "runs").mkdir()
    with raises_code("BL400", names=name):
        jobs.main(["show", name])
