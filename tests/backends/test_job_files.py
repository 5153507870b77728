"""What a job's kept folder shows to whoever looks at it at any moment, as SageMaker's uploads
do."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest

from breedlab.backends.sagemaker.jobs import job_files
from breedlab.backends.sagemaker.jobs.job_files import (
    Copier,
    is_of_a_trial,
    kept_in_step,
    put_whole,
    restore,
)


def listed(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with whole files, half-written ones, and a study that is open."""
    run = tmp_path / "run"
    names = (
        "lineage.json",
        "checkpoints/last.ckpt",
        "tensorboard/final/events.1",
        "debug/0/collections/0.json",
    )
    halves = (
        ".lineage.json.7-1.tmp",
        "checkpoints/.last.ckpt.7-1.tmp",
        ".export-a/model.json",
        "debug/0/x.tmp",
    )
    for name in (*names, *halves, "study.db-journal"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    study = optuna.create_study(storage=f"sqlite:///{run}/study.db", study_name="s")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    return run


def test_only_whole_files_and_a_study_that_opens_are_kept(run: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with closing(sqlite3.connect(run / "study.db")) as writer:
        writer.execute("begin immediate")  # as while Optuna is told of a trial
        writer.execute("delete from trials")
        Copier(run, kept).copy()
    assert listed(kept) == {
        "lineage.json",
        "checkpoints/last.ckpt",
        "tensorboard/final/events.1",
        "debug/0/collections/0.json",
        "study.db",
    }
    assert len(optuna.load_study(storage=f"sqlite:///{kept}/study.db", study_name="s").trials) == 2


def test_what_changed_is_copied_and_what_is_gone_is_gone(run: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    copier = Copier(run, kept)
    copier.copy()
    before = {name: (kept / name).stat().st_ino for name in listed(kept)}
    (run / "lineage.json").write_text("another")
    (run / "checkpoints" / "last.ckpt").unlink()
    copier.copy()
    assert (kept / "lineage.json").read_text() == "another"
    assert listed(kept) == before.keys() - {"checkpoints/last.ckpt"}
    same = {name for name in listed(kept) if (kept / name).stat().st_ino == before[name]}
    assert same == before.keys() - {"checkpoints/last.ckpt", "lineage.json"}


@pytest.mark.parametrize("nameless", [True, False], ids=["without a name", "on other file systems"])
def test_nobody_sees_half_a_checkpoint(nameless: bool, tmp_path: Path, monkeypatch: Any) -> None:
    if not nameless:
        monkeypatch.setattr(job_files, "_write_nameless", lambda *_: None)
    source, target = tmp_path / "last.ckpt", tmp_path / "kept" / "last.ckpt"
    size = 1 << 22
    source.write_bytes(b"0" * size)
    put_whole(source, target)
    seen: list[bytes] = []
    enough = threading.Event()

    def look() -> None:
        while not enough.is_set():
            seen.append(target.read_bytes())

    looker = threading.Thread(target=look)
    looker.start()
    for number in range(1, 8):
        source.write_bytes(str(number).encode() * size)
        put_whole(source, target)
    enough.set()
    looker.join()
    assert all(len(content) == size and len(set(content)) == 1 for content in seen)
    assert os.listdir(target.parent) == ["last.ckpt"]


def test_the_last_copy_is_made_however_a_job_ends(run: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with pytest.raises(SystemExit), kept_in_step(run, kept):
        (run / "checkpoints" / "last.ckpt").write_text("the step that SIGTERM came in")
        raise SystemExit
    assert (kept / "checkpoints" / "last.ckpt").read_text() == "the step that SIGTERM came in"


def test_the_next_start_goes_on_from_what_was_kept(run: Path, tmp_path: Path) -> None:
    kept, again = tmp_path / "kept", tmp_path / "elsewhere" / "run"
    Copier(run, kept).copy()
    (kept / ".last.ckpt.7.tmp").write_text("what a kill left")
    restore(kept, again)
    assert listed(again) == listed(kept) - {".last.ckpt.7.tmp"}
    (again / "lineage.json").write_text("newer")
    restore(kept, again)  # as the other processes of the machine do
    assert (again / "lineage.json").read_text() == "newer"
    restore(tmp_path / "nothing", tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()


def test_of_a_trial_its_curves_and_tensors_are_kept(run: Path, tmp_path: Path) -> None:
    Copier(run, tmp_path / "kept", is_of_a_trial).copy()
    assert listed(tmp_path / "kept") == {"tensorboard/final/events.1", "debug/0/collections/0.json"}
