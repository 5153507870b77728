"""What other systems lack or do otherwise, as far as it shows on Linux: modules that Windows does
not have, and processes that are spawned and not forked."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from breedlab.config import Config
from breedlab.pipeline.checked_images import checked_photos
from breedlab.training.context import prepare

ROOT = Path(__file__).resolve().parents[1]

_ONLY_UNIX = ("fcntl", "pwd", "grp", "resource", "termios", "tty", "pty", "syslog", "uvloop")
_IMPORT_ALL = f"""
import sys, pkgutil, importlib, os
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in {_ONLY_UNIX!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
import torch, lightning, optuna, hydra, torchvision  # what they need is theirs to have on Windows
try:
    import boto3, sagemaker, smdebug, openvino, mlflow, fastapi, uvicorn, tensorboard, absl.logging
except ImportError:
    pass
for name in {_ONLY_UNIX!r}:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Refuse())
for name in ("fork", "forkpty", "register_at_fork", "pidfd_open", "getuid", "geteuid", "killpg",
             "sched_getaffinity", "setsid", "posix_fallocate", "statvfs"):
    if hasattr(os, name):
        delattr(os, name)
import signal
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
            prepared = prepare(config, checked_photos(config))
            batches.append(next(iter(prepared.data(config).test_dataloader())))
    finally:
        multiprocessing.set_start_method(method, force=True)
    (here, labels), (there, same) = batches
    assert torch.equal(here, there) and torch.equal(labels, same)
