"""The cache's files: other people's are never deleted, and a full disk is an error that loses
nothing."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from codes import raises_code

from breedlab import cli
from breedlab.cli import launch
from breedlab.config import Config
from breedlab.errors import DiskFull
from breedlab.pipeline.checked_images import checked_images
from breedlab.pipeline.current_run import CurrentRun
from breedlab.training.feature_cache import FeatureFile, FeatureWriter, alone, make_room
from breedlab.training.preparation import prepare
from breedlab.tuning.study import search
from breedlab.tuning.trial import run_trial

GIGABYTE = 10**9


def feature_file(folder: Path, name: str, rows: int = 10) -> FeatureFile:
    return FeatureFile(folder, {"name": name}, (rows, 250), "float32")


def written(file: FeatureFile, age_s: float = 0) -> FeatureFile:
    with alone([file]):
        writer = FeatureWriter(file)
        writer.append(np.arange(file.shape[0] * 250, dtype=np.float32).reshape(-1, 250))
        writer.finish()
        writer.close()
    os.utime(file.path, (time.time() - age_s, time.time() - age_s))
    return file


def test_numpy_reads_what_is_written(tmp_path: Path) -> None:
    file = written(feature_file(tmp_path, "a"))
    assert np.array_equal(np.load(file.path), np.arange(2500, dtype=np.float32).reshape(10, 250))
    assert file.is_whole() and not file.part.exists() and not file.marker.exists()


def test_only_what_breedlab_made_is_deleted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = [
        "embeddings.npy",
        "507f1f77bcf86cd799439011.npy",
        "download.part",
        "0123456789abcdef01234567.part",
    ]
    # the second is what MongoDB calls a document; the last has a JSON of its owner beside it
    for name in theirs:
        (tmp_path / name).write_bytes(b"x" * 1000)
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / "0123456789abcdef01234567.json").write_text('{"made_by": "somebody"}')
    old, recent = (
        written(feature_file(tmp_path, "old"), age_s=500),
        written(feature_file(tmp_path, "recent"), 10),
    )
    wanted = feature_file(tmp_path, "wanted")
    make_room([wanted], 2.5 * wanted.nbytes / GIGABYTE, lambda: GIGABYTE)
    assert not old.path.exists() and not old.manifest.exists(), "the least recently used goes first"
    assert recent.is_whole()
    assert all((tmp_path / name).exists() for name in [*theirs, "0123456789abcdef01234567.json"])
    assert "1 .npy files" in capsys.readouterr().out


def test_a_pass_that_was_abandoned_makes_room_and_one_at_work_does_not(tmp_path: Path) -> None:
    abandoned, at_work, wanted = (
        feature_file(tmp_path, name) for name in ("abandoned", "at work", "wanted")
    )
    for file in (abandoned, at_work):
        with alone([file]):
            FeatureWriter(file).close()
        os.utime(file.part, (0, 0))
    with alone([at_work]):
        make_room([wanted], wanted.nbytes / GIGABYTE, lambda: GIGABYTE)
        assert not abandoned.part.exists() and at_work.part.exists()


def test_room_is_counted_once_for_what_is_still_missing(tmp_path: Path) -> None:
    have, want = written(feature_file(tmp_path, "have")), feature_file(tmp_path, "want")
    # the disk has room for what is missing, not for both
    make_room([have, want], 1.0, lambda: want.nbytes)
    old = written(feature_file(tmp_path, "old"), 500)
    free = iter([want.nbytes - 1, want.nbytes, want.nbytes])
    make_room([have, want], 1.0, lambda: next(free))  # deleting what is least needed frees enough
    assert have.is_whole() and not old.path.exists()
    with raises_code("BL301", names=("cache.dir", tmp_path, "cache.mode=off", "cache.max_gb")):
        make_room([have, want], 1.0, lambda: want.nbytes - 1)
    assert have.is_whole()


def fill_after(patch: pytest.MonkeyPatch, count: int) -> None:
    """Have the disk full after so many bytes, the last write being cut short as the kernel does
    it."""
    write, left = os.write, [count]

    def limited(number: int, content: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = write(number, memoryview(content)[: left[0]])
        left[0] -= done
        return done

    patch.setattr(os, "write", limited)


def test_what_was_written_before_the_disk_was_full_is_not_computed_again(tmp_path: Path) -> None:
    file = feature_file(tmp_path, "a")
    rows = np.arange(2500, dtype=np.float32).reshape(10, 250)
    with alone([file]):
        writer = FeatureWriter(file)
        with pytest.MonkeyPatch.context() as patch, raises_code("BL301"):
            fill_after(patch, 4500)
            for row in rows:
                writer.append(row[None])
        writer.save()
        writer.close()
    assert file.rows_done() == 4
    again = FeatureWriter(file)
    again.append(rows[4:])
    again.finish()
    again.close()
    assert np.array_equal(np.load(file.path), rows)


_FILL = """
import sys
from pathlib import Path
import numpy as np
from breedlab.errors import DiskFull
from breedlab.training.feature_cache import FeatureFile, FeatureWriter, alone
file = FeatureFile(Path(sys.argv[1]), {"name": "a"}, (1000, 250), "float32")
with alone([file]):
    writer = FeatureWriter(file)
    try:
        for _ in range(1000):
            writer.append(np.zeros((1, 250), np.float32))
    except DiskFull as error:
        print(error)
"""


def test_a_disk_that_is_really_full_is_told_and_kills_nothing(tmp_path: Path) -> None:
    """A memory map of such a file ends the process with SIGBUS."""
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = 'mount -t tmpfs -o size=300k tmpfs "$0"'
    if (
        shutil.which("unshare") is None
        or subprocess.run([*inside, mount, tmp_path], capture_output=True).returncode
    ):
        pytest.skip("this system lets nobody mount a disk of their own")
    script = f'{mount} && exec "{sys.executable}" -c "$1" "$0"'
    ended = subprocess.run([*inside, script, tmp_path, _FILL], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert (
        f"cache.dir: the disk of {tmp_path} became full" in ended.stdout
        and f"free on {tmp_path}." in ended.stdout
    )


def test_a_full_disk_ends_the_search_and_spares_its_trials(
    tmp_path: Path, configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(f"cache.dir={tmp_path / 'cache'}", "tuner=random", "tuner.trials=3")
    context = prepare(config, checked_images(config))
    fill_after(monkeypatch, 100_000)
    with pytest.raises(DiskFull):
        run_trial(context, {"optim.lr": 0.001}, lambda *_: False)
    with pytest.raises(DiskFull):
        search(config, context, tmp_path)
    assert not list(tmp_path.glob("trials/*/trial.json")), "no trial counts as failed"


def test_a_full_disk_comes_with_the_command_that_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_words: list[str]) -> int:
        with CurrentRun() as current:
            current.path = Path("runs/a/b")
            raise DiskFull("cache.dir: the disk is full")

    monkeypatch.setattr(launch, "main", full)
    with pytest.raises(SystemExit) as ended:
        cli.run("launch")
    assert ended.value.code == 1
    assert (
        "cache.dir: the disk is full; resume with: breedlab launch resume=runs/a/b"
        in capsys.readouterr().err
    )
