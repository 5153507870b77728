"""What other systems lack or do otherwise, as far as it shows on Linux: modules that Windows does
not have, and processes that are spawned and not forked."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import preloaded
import pytest
import torch

from breedlab.config import Config
from breedlab.pipeline.checked_images import checked_images
from breedlab.pipeline.current_run import link_latest
from breedlab.training.preparation import prepare

ROOT = Path(__file__).resolve().parents[1]

_ONLY_UNIX = ("fcntl", "pwd", "grp", "resource", "termios", "tty", "pty", "syslog", "uvloop")
_AS_ON_WINDOWS = f"""
import os, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in {_ONLY_UNIX!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
def as_on_windows():
    # what they need is theirs to have on Windows
    import hydra, lightning, optuna, psutil, torch, torch.utils.tensorboard, torchvision
    try:
        import absl.logging, boto3, fastapi, mlflow, openvino, sagemaker, smdebug, uvicorn
    except ImportError:
        pass
    for name in {_ONLY_UNIX!r}:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Refuse())
    for name in ("fork", "forkpty", "register_at_fork", "pidfd_open", "getuid", "geteuid",
                 "killpg", "sched_getaffinity", "setsid", "posix_fallocate", "statvfs"):
        if hasattr(os, name):
            delattr(os, name)
"""
_IMPORT_ALL = f"""
{_AS_ON_WINDOWS}
import importlib, pkgutil, signal
as_on_windows()
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGQUIT"):
    if hasattr(signal, name):
        delattr(signal, name)
import breedlab
failed = []
for module in pkgutil.walk_packages(breedlab.__path__, "breedlab."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except Exception as error:
        failed.append(f"{{module.name}}: {{type(error).__name__}}: {{error}}")
print("\\n".join(failed) or "all imported")
"""


_LAUNCH = f"""
import multiprocessing
{_AS_ON_WINDOWS}
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    as_on_windows()
    from breedlab.cli import launch
    sys.exit(launch.main(sys.argv[1:]))
"""


def test_no_module_needs_what_only_unix_has() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL], capture_output=True, text=True, cwd=ROOT
    )
    assert ended.stdout.strip().splitlines()[-1:] == ["all imported"], ended.stdout + ended.stderr


def test_a_spawned_process_loads_the_same_images(configure: Callable[..., Config]) -> None:
    """On Windows and macOS loading processes are spawned: what they get has to be pickled."""
    method = multiprocessing.get_start_method()
    batches = []
    multiprocessing.set_start_method("spawn", force=True)
    try:
        for workers in (0, 1):
            config = configure(f"data.num_workers={workers}")
            context = prepare(config, checked_images(config))
            batches.append(next(iter(context.data(config).test_dataloader())))
    finally:
        multiprocessing.set_start_method(method, force=True)
    (here, labels), (there, same) = batches
    assert torch.equal(here, there) and torch.equal(labels, same)


def test_a_spawned_process_imports_what_it_needs_and_not_lightning() -> None:
    """Each of them would take seconds for it."""
    script = "import sys; from breedlab.data import dataset; print('lightning' in sys.modules)"
    ended = preloaded.FreshPopen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert ended.communicate()[0].strip() == "False"


def test_a_run_does_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on Windows without developer mode and on exFAT, where it ended in a traceback."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    link_latest(tmp_path, tmp_path / "dogs" / "2026-01-01_00-00-00")
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path / "dogs" / "2026-01-01_00-00-00") in capsys.readouterr().out


def test_the_link_to_the_latest_run_is_replaced_where_links_to_folders_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(5, "Access is denied", str(self), None, str(target))

    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    link_latest(tmp_path, tmp_path / "first")
    monkeypatch.setattr(Path, "replace", refuse)
    link_latest(tmp_path, tmp_path / "second")
    assert (tmp_path / "latest").resolve() == tmp_path / "second"
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second", "latest"}


@pytest.mark.slow
def test_a_whole_run_needs_neither_fork_nor_what_only_unix_has(
    words: Callable[..., list[str]], here: Path
) -> None:
    """Train all layers from spawned loading processes, test, export, report."""
    (here / "main.py").write_text(_LAUNCH)
    live = ["model.freeze=none", "data.num_workers=1", "trainer.max_epochs=1", "name=windows"]
    ended = preloaded.run(
        [sys.executable, "main.py", *words(*live)], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    run = here / "runs" / "latest"
    metrics = json.loads((run / "metrics.json").read_text())
    assert 0 <= metrics["test"]["metrics"]["top1"] <= 1
    assert (run / "model.tar.gz").is_file() and (run / "report.html").is_file()
