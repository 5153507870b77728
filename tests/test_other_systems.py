"""What other systems lack or do otherwise, as far as it shows on Linux: modules that Windows does
not have, and processes that are spawned and not forked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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


_SPAWNED = """
import multiprocessing, sys

def main():
    multiprocessing.set_start_method("spawn")  # as on Windows and macOS
    import breedlab
    from breedlab.cli.evaluate import main as evaluate
    run = breedlab.run(*sys.argv[3:])
    (answer,) = breedlab.load(run.path).predict(sys.argv[1])
    print("predicted", sum(answer.probabilities.values()), len(run.trials))
    assert evaluate([str(run.path), sys.argv[2], "--json"]) == 0
    print("start method", multiprocessing.get_start_method())

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_loading_search_and_prediction_work_in_spawned_processes(
    words: Callable[..., list[str]], photos: Path, here: Path
) -> None:
    script = here / "spawned.py"
    script.write_text(_SPAWNED)
    photo = next((photos / "test").rglob("*.jpg"))
    typed = words(
        "experiment=resnet34",
        "cache.mode=off",  # so that images are loaded in each epoch
        "data.num_workers=2",
        "trainer.max_epochs=1",
        "tuner=random",
        "tuner.trials=2",
        "tuner.parallel=2",
        "tuner.max_epochs=1",
        "tuner.space={optim.lr:[0.001,0.01]}",
    )
    ended = subprocess.run(
        [sys.executable, script, photo, photos / "test", *typed],
        capture_output=True,
        text=True,
        cwd=here,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "start method spawn" in ended.stdout
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("predicted")]
    assert float(line.split()[1]) == pytest.approx(1) and line.split()[2] == "2"
