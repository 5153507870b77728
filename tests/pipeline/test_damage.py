"""A run directory that a power cut left with empty or torn files: it can be resumed all the
same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from codes import raises_code

from breedlab.config import Config
from breedlab.pipeline import rundir
from breedlab.pipeline.run import run
from breedlab.training.progress import done

Configure = Callable[..., Config]
TORN = '{"epochs": 2, "rea'


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, configure: Configure) -> Path:
    """A run that is complete."""
    runs = tmp_path_factory.mktemp("runs")
    directory = run(configure(f"runs_dir={runs}", "trainer.patience=1"), ["name=x"]).run
    return directory.resolve()


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """A copy of it for a test to damage."""
    return Path(shutil.copytree(whole, tmp_path / "runs" / "copy"))


def resumed(copied: Path, configure: Configure) -> dict[str, object]:
    return run(
        configure(f"runs_dir={copied.parent}", "trainer.patience=1"), [], resume=copied
    ).metrics


@pytest.mark.parametrize("content", ["", TORN, "{}"])
@pytest.mark.parametrize("name", ["trained.json", "lineage.json", "splits.json", "metrics.json"])
def test_a_record_that_is_empty_or_torn_is_written_anew_by_a_resume(
    whole: Path, copied: Path, configure: Configure, name: str, content: str
) -> None:
    before = json.loads((whole / "metrics.json").read_text())
    (copied / "metrics.json").unlink()  # it had not come to its end
    (copied / name).write_text(content)

    metrics = resumed(copied, configure)

    assert metrics["test"] == before["test"], "the same weights"
    assert metrics["training"] == before["training"]
    again = json.loads((copied / name).read_text())
    if name in ("trained.json", "splits.json"):
        assert again == json.loads((whole / name).read_text())
    if name == "lineage.json":
        assert again["data"] == json.loads((whole / name).read_text())["data"]


def test_without_its_lineage_a_run_still_refuses_other_images(
    copied: Path, configure: Configure
) -> None:
    (copied / "lineage.json").write_text("")
    splits = json.loads((copied / "splits.json").read_text())
    splits["photos"]["train"][0] = "train/another.jpg"
    (copied / "splits.json").write_text(json.dumps(splits))

    with raises_code("BL113"):
        resumed(copied, configure)


def test_fixes_that_were_edited_since_are_named(
    copied: Path, configure: Configure, tmp_path: Path
) -> None:
    splits = json.loads((copied / "splits.json").read_text())
    fixes = tmp_path / "fixes.csv"
    fixes.write_text(f"file,fix\n{splits['photos']['train'][0]},remove\n")

    def with_fixes(*words: str) -> Config:
        return configure(*words, f"data.fixes={fixes}")

    with raises_code("BL113", names=fixes):
        resumed(copied, with_fixes)


def test_an_empty_metrics_file_is_no_complete_run(copied: Path) -> None:
    assert done(copied).complete
    (copied / "metrics.json").write_text("")
    assert not done(copied).complete


@pytest.mark.parametrize("size", [0, 1000])
def test_a_checkpoint_that_is_cut_off_is_named_with_what_to_do(
    copied: Path, configure: Configure, size: int
) -> None:
    last = copied / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:size])
    (copied / "trained.json").unlink()
    (copied / "metrics.json").unlink()

    for action in (lambda: done(copied), lambda: resumed(copied, configure)):
        with raises_code("BL112", names="checkpoints/last.ckpt"):
            action()
    # What the message says to do works.
    shutil.rmtree(copied / "checkpoints")
    assert resumed(copied, configure)["training"]


def test_what_a_killed_writer_left_is_cleared_by_a_resume(
    copied: Path, configure: Configure
) -> None:
    (copied / "metrics.json").unlink()
    left = [
        copied / ".lineage.json.1-0.tmp",
        copied / "checkpoints" / ".last.ckpt.7.tmp",
        copied / "model.tar.7.tmp",
    ]
    for file in left:
        file.write_text("half")

    resumed(copied, configure)

    assert not [file for file in left if file.exists()]


def test_an_empty_config_names_the_file(copied: Path) -> None:
    (copied / "config.yaml").write_text("")
    with raises_code("BL110", names="config.yaml"):
        rundir.recorded_config(copied)
