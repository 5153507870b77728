"""What the command line makes of terminals and disks as they are."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
from codes import check_names
from torch.utils.data import DataLoader, Dataset

from breedlab import cli
from breedlab.version import __version__


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp932", "cp1252", "utf-8"])
@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_help_is_printed_on_every_terminal(command: str, encoding: str) -> None:
    if encoding in ("cp1252", "latin-1") and command not in ("", "launch"):
        pytest.skip("as for the others")
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    words = [sys.executable, "-m", "breedlab.cli", *([command] if command else []), "--help"]
    told = subprocess.run(words, env=environment, capture_output=True, check=False)
    assert told.returncode == 0, told.stderr
    assert b"Traceback" not in told.stderr and told.stdout.decode(encoding)


def test_what_a_terminal_lacks_is_printed_plainly() -> None:
    program = (
        "from breedlab.cli import degrade_terminal; degrade_terminal()\n"
        "from breedlab.console import console, stage, table\n"
        "stage('Data'); console.print(table('T', ['a', 'b'], [['\\u2605', 'Spitz \\u72d7']]))"
    )
    words = [sys.executable, "-c", program]
    told = subprocess.run(
        words, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=True
    )
    lines = told.stdout.decode("ascii").splitlines()
    assert lines[0] == "> Data"
    assert "*" in lines[-1] and "Spitz ?" in lines[-1]


Usage = namedtuple("Usage", "total used free")


def full(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> str:
    def fail(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr("breedlab.cli.report.main", fail)
    with pytest.raises(SystemExit) as caught:
        cli.run("report")
    assert caught.value.code == 1
    return capsys.readouterr().err


def test_a_full_disk_is_the_one_with_the_file_and_not_that_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "mount" / "runs"
    there.mkdir(parents=True)
    small, large = Usage(24_000_000, 24_000_000, 0), Usage(10**12, 0, 10**12)
    monkeypatch.setattr(
        cli.shutil, "disk_usage", lambda path: small if str(path).startswith(str(there)) else large
    )
    monkeypatch.setattr(
        cli.os.path, "ismount", lambda path: Path(path) in (tmp_path / "mount", Path("/"))
    )
    told = full(
        monkeypatch,
        capsys,
        OSError(errno.ENOSPC, "No space left on device", str(there / "x" / "last.ckpt")),
    )
    assert told.startswith("[BL301] ") and told.count("\n") == 1
    check_names(told, (there, "0 of 24 MB", tmp_path / "mount"))


def test_a_disk_that_is_empty_again_was_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """'is full (6 of 6 MB are free)': the checkpoint that did not fit had been removed."""
    monkeypatch.setattr(cli.shutil, "disk_usage", lambda path: Usage(6_000_000, 0, 6_000_000))
    error = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "last.ckpt"))
    told = full(monkeypatch, capsys, error)
    assert told.startswith("[BL301] ") and "6 of 6 MB" in told and "is full" not in told


def test_a_full_quota_is_no_disk_with_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli.shutil, "disk_usage", lambda path: Usage(10**12, 0, 10**12))
    told = full(
        monkeypatch, capsys, OSError(errno.EDQUOT, "Disk quota exceeded", str(tmp_path / "a"))
    )
    assert told.startswith("[BL301] ") and told.count("\n") == 1
    check_names(told, ("quota", tmp_path / "a"))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unable to write to file </torch_4242_1_7>: No space left on device (28)"),
        RuntimeError(
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that"
            " dataloader's workers are out of shared memory. Please try to raise your shared memory"
            " limit."
        ),
    ],
)
def test_full_shared_memory_is_no_disk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    """The texts are PyTorch's."""
    monkeypatch.setattr(cli.shutil, "disk_usage", lambda path: Usage(64_000_000, 64_000_000, 0))
    told = full(monkeypatch, capsys, error)
    assert told.startswith("[BL305] ") and "64 MB" in told and "/dev/shm" in told
    assert "--shm-size" in told and "data.num_workers=0" in told and "disk" not in told


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_loading_process_that_the_system_killed_is_told_in_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """PyTorch's own error was a traceback: what the kernel does to a container out of memory."""
    loader = DataLoader(KilledWhileLoading(number), batch_size=1, num_workers=1)
    with pytest.raises(RuntimeError) as caught:
        list(loader)
    told = full(monkeypatch, capsys, caught.value)
    assert told.startswith("[BL306] ")
    assert "data.num_workers=0" in told and told.count("\n") == 1


class KilledWhileLoading(Dataset[int]):
    """Images whose process is killed while it loads the first."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), self.number)
        time.sleep(60)
        return index


@pytest.mark.parametrize("command", ["report", "predict", "launch"])
def test_what_has_an_accent_is_read_and_told_where_the_locale_is_c(
    golden: Path, command: str
) -> None:
    """As in a bare container or a cron job, where Python takes files for ASCII."""
    run = golden / "runs" / "golden" / "complete"
    words = {
        "report": ["report", str(run)],
        "predict": ["predict", str(run), str(next((golden / "photos").rglob("*.jpg")))],
        "launch": ["launch", f"resume={run}", "dry_run=true"],
    }[command]
    record = run / "overrides.yaml"
    record.write_text(f"{record.read_text('utf-8')}# Hündin\n", "utf-8")
    bare = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    told = subprocess.run(
        [sys.executable, "-m", "breedlab.cli", *words],
        cwd=golden,
        env={**os.environ, **bare},
        capture_output=True,
    )
    assert b"Traceback" not in told.stderr, told.stderr[-2000:]
    assert told.returncode == 0 and told.stdout.isascii(), told.stderr


def test_the_version_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["breedlab", "--version"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code and capsys.readouterr().out == f"breedlab {__version__}\n"
