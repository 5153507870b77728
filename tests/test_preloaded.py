"""Commands in preloaded interpreters are what they are in fresh ones, but for the time that it
takes."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import preloaded
import pytest

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="elsewhere every interpreter is a fresh one"
)


@pytest.fixture(autouse=True)
def as_preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take back what libraries left in the environment in earlier tests of this process: with it
    commands get fresh interpreters."""
    for name in os.environ.keys() - preloaded._ENVIRONMENT.keys():
        monkeypatch.delenv(name)


PROBE = """
import os, signal, sys
print(__name__, sys.argv, sys.path[0], os.getcwd(), sys.stdin.read(), os.environ.get("AWS_REGION"))
print(sorted(os.environ), os.getsid(0) == os.getpid(), signal.getsignal(signal.SIGINT))
print("aside", file=sys.stderr)
"""


@pytest.mark.parametrize("new_session", [False, True])
@pytest.mark.parametrize("kind", ["-c", "-m", "script"])
def test_a_command_sees_what_it_would_see_in_a_fresh_interpreter(
    tmp_path: Path, kind: str, new_session: bool
) -> None:
    (tmp_path / "probe.py").write_text(PROBE)
    command = {"-c": ["-c", PROBE], "-m": ["-m", "probe"], "script": [str(tmp_path / "probe.py")]}
    answers = [
        run(
            [sys.executable, "-u", *command[kind], "one", "two words"],
            input="typed",
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "AWS_REGION": "eu-west-1"},
            start_new_session=new_session,
        )
        for run in (subprocess.run, preloaded.run)
    ]
    fresh, forked = ((done.returncode, done.stdout, done.stderr) for done in answers)
    assert forked == fresh
    assert "typed eu-west-1" in fresh[1]


def test_it_is_a_child_with_all_imported_and_ends_by_signals_as_any_other() -> None:
    program = "import os, sys, time; print('torch' in sys.modules, flush=True); time.sleep(60)"
    for number in (signal.SIGTERM, signal.SIGKILL):
        command = [sys.executable, "-c", program]
        with preloaded.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "True\n"
            assert f"PPid:\t{os.getpid()}\n" in Path(f"/proc/{process.pid}/status").read_text()
            process.send_signal(number)
            assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == -number


def test_codes_and_tracebacks_are_the_interpreters() -> None:
    assert preloaded.run([sys.executable, "-c", "raise SystemExit(7)"]).returncode == 7
    done = preloaded.run([sys.executable, "-c", "1 / 0"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize("name", ["PYTHONPATH", "COLUMNS", "OMP_NUM_THREADS", "LC_ALL"])
def test_what_is_read_while_modules_are_imported_takes_a_fresh_interpreter(name: str) -> None:
    program = f"import os, sys; print('torch' in sys.modules, os.environ[{name!r}])"
    done = preloaded.run(
        [sys.executable, "-c", program], env={**os.environ, name: "3"}, capture_output=True
    )
    assert done.stdout == b"False 3\n"


CUT_OFF = """
import os, sys
sys.path.insert(0, sys.argv[1])
import preloaded
command = [sys.executable, "-c", "import time; print('started', flush=True); time.sleep(600)"]
environment = {**os.environ, sys.argv[2]: "1"} if sys.argv[2] else None
process = preloaded.Popen(command, env=environment, stdout=preloaded.subprocess.PIPE, text=True)
assert process.stdout.readline() == "started\\n"
print(process.pid, flush=True)
os._exit(1)  # as faulthandler does after pytest's limit
"""


@pytest.mark.parametrize("variable", ["", "OMP_NUM_THREADS"], ids=["preloaded", "fresh"])
def test_a_command_ends_with_the_test_that_started_it(variable: str) -> None:
    words = [sys.executable, "-c", CUT_OFF, str(Path(__file__).parent), variable]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1, ended.stderr
    (pid,) = map(int, ended.stdout.split())
    deadline = time.monotonic() + 10
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(pid)


def test_no_test_starts_a_process_that_outlives_it() -> None:
    started = {
        path.name
        for path in Path(__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "subprocess.Popen"
    }
    assert started == {"preloaded.py"}  # whose server ends with its socket


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
