"""A backend from a stranger's package is launched, listed, shown, stopped, followed, and fetched by
the ordinary commands; it is the one in docs/plugins.md."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from codes import raises_code
from documents import run_by
from strangers import Write

from breedlab.backends.launched import Launched
from breedlab.cli import jobs, launch
from breedlab.registry import BACKENDS

MANUAL = (Path(__file__).resolve().parents[2] / "docs" / "plugins.md").read_text()
(SOURCE,) = re.findall(r"```py\n(.*?)```", MANUAL, re.DOTALL)
(YAML,) = re.findall(r"```yaml\n(.*?)```", MANUAL, re.DOTALL)

Words = Callable[..., list[str]]


@pytest.fixture
def detached(package: Write, here: Path, words: Words) -> Words:
    """The overrides of a small experiment on the backend, which is one package and one YAML."""
    package(SOURCE, "my_cluster")
    (here / "configs" / "backend").mkdir(parents=True)
    (here / "configs" / "backend" / "detached.yaml").write_text(YAML)
    small = words("experiment=quickstart", "profiler=none", "debugger=none", "trainer.max_epochs=1")
    return lambda *more: ["--config-dir", "configs", *small, "backend=detached", *more]


def forget() -> None:
    """Be another process, which knows no more than what lies in `runs/`."""
    sys.modules.pop("my_cluster")
    BACKENDS._classes.pop("detached")


def names() -> list[str]:
    found = [handle.name for handle in Launched(Path("runs")).all()]
    forget()
    return found


def test_the_pages_commands_on_a_backend_are_those_that_are_run_here() -> None:
    """The last two, with endpoints of one's own, in test_operations_from_outside.py."""
    assert [each.text for each in run_by("plugins") if "my_package" not in each.text] == [
        "breedlab launch --config-dir configs experiment=quickstart backend=detached",
        "breedlab jobs list",
        "breedlab jobs show NAME",
        "breedlab jobs fetch NAME",
        "breedlab help plugins=[my_cluster] endpoint.detached",
        "breedlab deploy runs/latest --backend detached plugins=[my_cluster]"
        " endpoint.detached.replicas=3",
    ]


def test_a_dry_run_is_the_backends_own(detached: Words, capsys: Any) -> None:
    assert launch.main(detached("dry_run=true", "backend.detached.folder=there")) == 0
    assert capsys.readouterr().out.startswith("a detached process in there/\n")


def test_addresses_that_it_does_not_read_are_refused(detached: Words) -> None:
    with raises_code("BL104", names=("data.root", "s3://b/dogs")):
        launch.main(detached("data.root=s3://b/dogs"))


def test_a_job_is_listed_shown_and_stopped(detached: Words, capsys: Any, here: Path) -> None:
    assert launch.main(detached()) == 0
    forget()
    (name,) = names()
    assert f"jobs fetch {name}" in capsys.readouterr().out
    pid = next(here.glob("elsewhere/*/*/")) / "pid"
    while not pid.exists() or not pid.read_text():
        pass
    assert jobs.main(["list"]) == 0
    forget()
    listed = capsys.readouterr().out
    assert "quickstart" in listed and "running" in listed
    assert jobs.main(["stop", name]) == 0
    forget()
    assert f"{name}: stopped" in capsys.readouterr().out
    assert jobs.main(["stop", name]) == 0
    forget()
    assert f"nothing to stop: {name}: stopped" in capsys.readouterr().out
    assert jobs.main(["show", name]) == 0
    forget()
    shown = capsys.readouterr().out
    assert f"training    {name}: stopped" in shown and "runs/quickstart/" in shown
    with raises_code("BL400", names=(name, "jobs show")):
        jobs.main(["fetch", name])
    forget()
    with raises_code("BL400", names=name):
        jobs.main(["resume", name])


@pytest.mark.slow
def test_a_job_is_followed_and_its_run_fetched(detached: Words, capsys: Any, here: Path) -> None:
    search = ["tuner=random", "tuner.trials=2", "tuner.max_epochs=1"]
    assert launch.main(detached("backend.wait=true", *search)) == 0
    forget()
    (run,) = (here / "runs" / "quickstart").iterdir()
    latest = here / "runs" / "latest"
    assert latest.resolve() == run.resolve()
    followed = capsys.readouterr().out
    metrics = json.loads((run / "metrics.json").read_text())
    assert 0 <= metrics["test"]["metrics"]["top1"] <= 1 and (run / "model.tar.gz").is_file()
    assert re.findall(r"trial (\d) complete", followed) == ["0", "1"]
    (name,) = names()
    assert jobs.main(["show", name]) == 0
    forget()
    shown = capsys.readouterr().out
    assert f"{name}: complete" in shown and "Trials" in shown
    assert jobs.main(["show", name, "--log"]) == 0
    forget()
    assert "objective valid/top1=" in capsys.readouterr().out
    (run / "metrics.json").unlink()
    latest.unlink()
    assert jobs.main(["fetch", str(run)]) == 0
    assert latest.resolve() == run.resolve()
    assert json.loads((run / "metrics.json").read_text()) == metrics
