"""Start Python commands in processes that have torch, Lightning and breedlab imported already.

`Popen` and `run` take what those of `subprocess` take. A fresh interpreter spends 8 seconds of CPU
on imports before the command does anything; here, a server that has imported everything forks one
for each command. It is a process like any other, with arguments, environment, working directory,
pipes, signals, process group and exit code of its own, and a child of the test's process.

A command that this cannot stand in for gets a fresh interpreter: another program, a `preexec_fn`,
or an environment that is read while modules are imported, which is all but the few `_LATE` names.
What is *about* a fresh interpreter (which modules a command imports, the seed of hashes) is for
`FreshPopen`, or `subprocess.run`.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import multiprocessing.process
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import unsynced  # noqa: F401 - in what is forked, too

_LATE = ("AWS_", "BREEDLAB_", "HYDRA_FULL_ERROR", "KINETO_", "PYTEST_", "TMPDIR")
_LATE += ("CUBLAS_", "PL_", "PYTORCH_NVML_", "TORCHINDUCTOR_")  # set by Lightning and torch
_LATE += ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")  # set by scikit-learn
_LATE += ("GROUP_", "LOCAL_", "MASTER_", "RANK", "ROLE_", "TORCHELASTIC_", "TORCH_NCCL_", "WORLD_")
"""How names of the environment begin that nothing reads while it is imported; the last are
torchrun's."""

_ENVIRONMENT = dict(os.environ)  # conftest.py imports this before any test changes something

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_MOST_BYTES = 200_000  # of a request


class FreshPopen(subprocess.Popen[Any]):
    """A `subprocess.Popen` whose process is killed when the test's process ends, however that
    ends."""

    def _execute_child(  # type: ignore[override]
        self, args: Any, executable: Any, preexec_fn: Any, *rest: Any
    ) -> None:
        before = preexec_fn or _ending_with(os.getpid())
        super()._execute_child(args, executable, before, *rest)  # type: ignore[misc]


class Popen(FreshPopen):
    """One that forks a preloaded interpreter where it can."""

    def _execute_child(  # type: ignore[override]
        self,
        args: Any,
        executable: Any,
        preexec_fn: Any,
        close_fds: bool,
        pass_fds: Any,
        cwd: Any,
        env: Any,
        startupinfo: Any,
        creationflags: int,
        shell: bool,
        *rest: Any,
    ) -> None:
        *pipes, _, gid, gids, uid, umask, new_session, group = rest
        words = [] if isinstance(args, str | bytes) else [os.fspath(word) for word in args]
        special = (preexec_fn, pass_fds, shell, executable, gid, gids, uid, umask >= 0, group >= 0)
        environment = dict(os.environ if env is None else env)
        if any(value not in (None, False, ()) for value in special) or not can_stand_in(
            words, environment
        ):
            super()._execute_child(
                args,
                executable,
                preexec_fn,
                close_fds,
                pass_fds,
                cwd,
                env,
                startupinfo,
                creationflags,
                shell,
                *rest,
            )
            return
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = pipes
        streams = [
            own if given == -1 else given for own, given in enumerate((p2cread, c2pwrite, errwrite))
        ]
        request = {
            "words": words[1:],
            "env": environment,
            "cwd": os.path.abspath(cwd or "."),
            "new_session": bool(new_session),
            "parent": os.getpid(),
        }
        try:
            self.pid = _server().fork(request, streams)
            self._child_created = True
        finally:
            self._close_pipe_fds(  # type: ignore[attr-defined]
                p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite
            )


def run(*args: Any, **options: Any) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run`, in a preloaded interpreter."""
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    check, timeout = options.pop("check", False), options.pop("timeout", None)
    if (said := options.pop("input", None)) is not None:
        options["stdin"] = subprocess.PIPE
    with Popen(*args, **options) as process:
        try:
            out, err = process.communicate(said, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def can_stand_in(words: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a fork would do what a fresh interpreter does with these words and this
    environment."""
    if not sys.platform.startswith("linux") or words[:1] != [sys.executable]:
        return False
    rest = [word for word in words[1:3] if word != "-u"]
    if not rest or (rest[0].startswith("-") and rest[0] not in ("-m", "-c")):
        return False
    ours = _ENVIRONMENT
    different = {name for name in {*ours, *environment} if ours.get(name) != environment.get(name)}
    return all(name.startswith(_LATE) for name in different)


class Server:
    """The process that forks, and our end of the socket that it is asked through."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            if _preloaded:
                self._fork(theirs)
            else:
                subprocess.Popen(
                    [sys.executable, "-u", __file__, str(theirs.fileno())],
                    env=_ENVIRONMENT,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )

    def _fork(self, theirs: socket.socket) -> None:
        """Let a fork of this process be the server: what it forks ends here, as a process."""
        if os.fork() == 0:
            self._socket.close()
            request = _serve(theirs)
            _become(request)
            sys.exit()

    def fork(self, request: Mapping[str, Any], streams: Sequence[int]) -> int:
        """Start a command; returns the id of its process, which is a child of this one."""
        with self._lock, _adopting():
            socket.send_fds(self._socket, [json.dumps(request).encode()], streams)
            answer = self._socket.recv(64)
        if not answer:
            raise RuntimeError("the server of preloaded interpreters has ended")
        return int(answer)


_started: Server | None = None
_preloaded = False
"""Whether this process has all imported that commands import."""


def _server() -> Server:
    """This process's server, started when it is first needed."""
    global _started
    if _started is None:
        _started = Server()
    return _started


@contextmanager
def _adopting() -> Any:
    """Make orphans of descendants our children, instead of init's."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _ending_with(parent: int) -> Callable[[], None] | None:
    """What a process calls to be killed when its parent ends, however that ends: pytest's own limit
    (`faulthandler_timeout`) ends it at once, and would leave servers and searches running."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def end_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return end_with_parent


def _end_with(parent: int) -> None:
    """Be killed when the test's process ends, once that has adopted this one."""
    deadline = time.monotonic() + 10
    while os.getppid() != parent and time.monotonic() < deadline:
        time.sleep(0.001)
    if end_with_parent := _ending_with(parent):
        end_with_parent()


def count_no_frozen_objects() -> None:
    """Answer "some" to a search that asks whether objects were frozen before it freezes its own:
    counting two million of them takes half a second each time."""
    gc.get_freeze_count = lambda: 1


def _preload() -> None:
    """Import what commands import, none of which may start a thread: it would be missing after a
    fork."""
    import breedlab

    gc.disable()
    for name in ("lightning", "torch.utils.tensorboard", "altair", "jinja2", "vl_convert"):
        importlib.import_module(name)
    for module in pkgutil.walk_packages(breedlab.__path__, "breedlab."):
        if not module.name.endswith("__main__") and ".sagemaker" not in module.name:
            with suppress(ImportError):  # of an extra that is not installed
                importlib.import_module(module.name)
    global _preloaded
    _preloaded = True
    gc.collect()
    gc.freeze()
    count_no_frozen_objects()
    gc.enable()
    threads = {(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()}
    threads -= {"python", "jemalloc_bg_thd"}  # jemalloc's, which pandas brings, minds forks itself
    assert not threads, f"what was imported has started threads: {threads}"


def _serve(asked: socket.socket) -> dict[str, Any]:
    """Fork for each request; only what was forked returns, with the request."""
    while True:
        data, streams, _, _ = socket.recv_fds(asked, _MOST_BYTES, 3)
        if not data:
            os._exit(0)
        read, write = os.pipe()
        between = os.fork()
        if between == 0:
            # The command's parent ends at once, and the test's process adopts the command.
            if child := os.fork():
                os.write(write, str(child).encode())
                os._exit(0)
            os.close(read)
            os.close(write)
            asked.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            for stream in streams:
                os.close(stream)
            return dict(json.loads(data))
        for number in (write, *streams):
            os.close(number)
        os.waitpid(between, 0)
        asked.send(os.read(read, 64))
        os.close(read)


def _become(request: Mapping[str, Any]) -> None:
    """Be the interpreter that was asked for."""
    _end_with(request["parent"])
    if request["new_session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    multiprocessing.process.ORIGINAL_DIR = os.getcwd()
    tempfile.tempdir = None
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    words = [word for word in request["words"][:1] if word != "-u"] + request["words"][1:]
    if words[:2] == ["-m", "torch.distributed.run"]:
        _preload_workers()
    if words[0] == "-m":
        sys.path[0], sys.argv = os.getcwd(), words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.path[0], sys.argv = "", ["-c", *words[2:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(words[1], main.__dict__)
    else:
        sys.path[0], sys.argv = str(Path(words[0]).resolve().parent), words
        runpy.run_path(words[0], run_name="__main__")


def _preload_workers() -> None:
    """Have torchrun, which this process is to be, fork its processes, too."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    global _started
    _started = None
    sys.modules.pop("torch.distributed.run", None)  # runpy warns of what is imported already
    vars(subprocess_handler)["Popen"] = Popen
    _server()


if __name__ == "__main__":
    sys.modules["preloaded"] = sys.modules["__main__"]  # which a command takes the place of
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _preload()
    with socket.socket(fileno=int(sys.argv[1])) as own:
        _request = _serve(own)
    _become(_request)
