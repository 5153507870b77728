"""Atomic writes, judged by what a reader, a kill and a full disk see."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import preloaded
import pytest

from breedlab.files import (
    DamagedFile,
    atomic_open,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    read_json,
    remove_leftovers,
)


def test_a_writer_that_fails_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "lineage.json"
    atomic_write_text(file, "old")

    with pytest.raises(RuntimeError), atomic_open(file) as out:
        out.write(b"half of the new")
        raise RuntimeError

    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["lineage.json"]


def test_a_full_disk_leaves_the_old_content_and_raises_its_own_error(tmp_path: Path) -> None:
    """The kernel's limit on the size of files stands for the disk: it refuses in the middle of a
    write, too."""
    script = (
        "import resource, signal, sys; from breedlab.files import atomic_write_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))\n"
        "try: atomic_write_bytes(sys.argv[1], b'n' * 100_000)\n"
        "except OSError as error: sys.exit(error.errno)"
    )
    file = tmp_path / "trained.json"
    atomic_write_bytes(file, b"old")

    code = subprocess.run([sys.executable, "-c", script, str(file)], check=False).returncode

    assert code == errno.EFBIG
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["trained.json"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 10_000


def test_a_kill_in_the_middle_leaves_the_old_content_and_a_leftover_that_is_cleared(
    tmp_path: Path,
) -> None:
    script = (
        "import os, signal, sys; from breedlab.files import atomic_open\n"
        "with atomic_open(sys.argv[1]) as out:\n"
        "    out.write(b'half'); out.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    file = tmp_path / "metrics.json"
    atomic_write_text(file, "old")

    code = subprocess.run([sys.executable, "-c", script, str(file)], check=False).returncode

    assert code == -signal.SIGKILL
    assert file.read_text() == "old"
    assert len(os.listdir(tmp_path)) == 2
    remove_leftovers(tmp_path, older_than_s=3600)  # somebody may still be writing it
    assert len(os.listdir(tmp_path)) == 2
    half = next(tmp_path.glob(".*.tmp"))
    os.utime(half, (time.time() - 7200,) * 2)
    remove_leftovers(tmp_path, older_than_s=3600)
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_links_permissions_and_devices_are_as_with_a_plain_write(tmp_path: Path) -> None:
    file, link = tmp_path / "report.html", tmp_path / "newest.html"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file.name)

    atomic_write_text(link, "new")
    atomic_write_text("/dev/null", "new")  # `--out /dev/stdout` is such a file

    assert link.is_symlink()
    assert file.read_text() == "new"
    assert file.stat().st_mode & 0o777 == 0o640
    assert not Path("/dev/null").is_file()
    fresh = tmp_path / "fresh"
    atomic_write_text(fresh, "new")
    plain = tmp_path / "plain"
    plain.write_text("new")
    # what the umask says, not what a scratch file gets
    assert fresh.stat().st_mode == plain.stat().st_mode


def test_two_processes_that_write_the_same_file_leave_one_whole_content(tmp_path: Path) -> None:
    script = (
        "import sys; from breedlab.files import atomic_write_json\n"
        "for number in range(100): atomic_write_json(sys.argv[1], [int(sys.argv[2])] * 5_000)"
    )
    file = tmp_path / "book.json"
    writers = [
        preloaded.FreshPopen([sys.executable, "-c", script, str(file), str(n)]) for n in (1, 2)
    ]
    contents = set()
    while any(writer.poll() is None for writer in writers):
        if file.exists():
            contents.add(frozenset(json.loads(file.read_text())))

    assert [writer.wait() for writer in writers] == [0, 0]
    assert contents <= {frozenset([1]), frozenset([2])}
    assert os.listdir(tmp_path) == ["book.json"]


def test_names_that_are_no_utf8_are_written_and_read_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")

    atomic_write_json(tmp_path / "splits.json", {"photos": [name]})

    assert read_json(tmp_path / "splits.json") == {"photos": [name]}


@pytest.mark.parametrize(
    "content", [b"", b"  \n", b'{"epochs": 3, "rea', b"\xff\xfe\x00", b"[1]", b"[" * 100_000]
)
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "trained.json"
    file.write_bytes(content)

    with pytest.raises(DamagedFile) as caught:
        read_json(file, hint="remove it")

    assert str(caught.value).startswith(f"{file} is damaged (")
    assert str(caught.value).endswith("; remove it")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_not_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "nowhere.json")


def test_content_is_on_the_disk_before_its_name_is_and_the_name_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    fsync = os.fsync

    def noted(number: int) -> None:
        what = Path(os.readlink(f"/proc/self/fd/{number}"))
        seen.append(("folder" if what.is_dir() else what.read_text(), (tmp_path / "a").exists()))
        fsync(number)

    monkeypatch.setattr(os, "fsync", noted)
    atomic_write_text(tmp_path / "a", "whole")

    assert seen == [("whole", False), ("folder", True)]
