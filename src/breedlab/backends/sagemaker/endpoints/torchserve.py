"""AWS's inference stack on this machine: the toolkit and TorchServe, as SageMaker's PyTorch
container starts them."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import urllib3

from breedlab.backends.sagemaker.endpoints.hidden_home import hiding
from breedlab.errors import BackendError

ENVIRONMENT_VARIABLE = "BREEDLAB_INFERENCE_ENV"
_START = Path(__file__).with_name("torchserve_start.py")
_TROUBLE = (
    "Load model failed",
    "Failed to run command",
    "Worker died",
    "failed to install",
    "Traceback (most recent",
)
"""What the stack prints where a package cannot be served; it keeps trying, and reports itself
healthy."""

_ERROR = re.compile(r"[\w.]+(Error|Exception)\b")
"""How a traceback's last line begins."""


_KEPT = re.compile(
    r"PATH|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|JAVA_HOME|\w+_NUM_THREADS|CUDA_\w+|PIP_\w+|SSL_CERT_\w+"
)
"""What an archive's code gets of the environment: how to run, and for the stack where pip finds
packages."""


def scrubbed(home: str) -> dict[str, str]:
    """Return an environment for code that may be anyone's: no keys, no tokens, a home folder of
    its own.

    The account's credentials are in variables, in files of the home folder, and behind addresses
    that variables name.
    """
    environment = {name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)}
    return {**environment, "HOME": home, "AWS_EC2_METADATA_DISABLED": "true"}


class PortTaken(BackendError):
    """Another program took a port between the look and the start."""

    code = "BL405"


class Stack:
    """A running TorchServe with one model behind it, on loopback.

    Args:
        folder: An archive's content, unpacked.
        python: Of the environment that requirements/inference.txt makes.
        workers: Processes that answer.

    Attributes:
        url: Where `/ping` and `/invocations` are.
    """

    def __init__(self, folder: Path, python: Path, workers: int = 1) -> None:
        self._base = Path(tempfile.mkdtemp(prefix="breedlab-stack-"))
        (self._base / "model").symlink_to(folder.resolve(), target_is_directory=True)
        self._log = self._base / "log"
        overlay = _overlay(self._base / "env", python)
        port = _free_ports(4)
        self.url = f"http://127.0.0.1:{port}"
        home = self._base / "home"
        home.mkdir()
        clean = scrubbed(str(home))
        environment = {
            **clean,
            "PATH": os.pathsep.join([str(overlay.parent), clean.get("PATH", "")]),
            "PYTHONNOUSERSITE": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "SAGEMAKER_PROGRAM": "inference.py",
            "SAGEMAKER_MODEL_SERVER_WORKERS": str(workers),
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                hiding([overlay, _START, self._base, port]),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Java leaves its parent, but not its group: that is how all of it is ended
                start_new_session=True,
            )

    def wait(
        self, timeout: float = 180.0, waiting: Callable[[float], None] = lambda _seconds: None
    ) -> None:
        """Wait until a worker has loaded the model.

        `/ping` does not show it: it is healthy while a worker fails to load, again and again.

        Args:
            timeout: Seconds.
            waiting: Called twice a second with the seconds so far.

        Raises:
            BackendError: If the model cannot be loaded; it says why, from the stack's own log.
        """
        started = time.monotonic()
        while (spent := time.monotonic() - started) < timeout:
            waiting(spent)
            log = self.log()
            if "Address already in use" in log:
                raise PortTaken(f"{self.url}: another program is listening there")
            if any(words in log for words in _TROUBLE) or self.process.poll() is not None:
                self._hear_out()
                raise BackendError(
                    f"AWS's inference stack cannot load the model:\n{self.trouble()}"
                )
            if self._loaded():
                return
            time.sleep(0.5)
        raise BackendError(
            f"AWS's inference stack had not loaded the model after {timeout:.0f}"
            f" s:\n{self.trouble()}"
        )

    def _loaded(self) -> bool:
        """Return whether a worker is ready, by the management address."""
        try:
            answer = urllib3.request(
                "GET", f"{self.url}/models/model", timeout=5, retries=False
            ).json()
            return any(worker["status"] == "READY" for worker in answer[0]["workers"])
        except (urllib3.exceptions.HTTPError, ValueError, LookupError, TypeError):
            return False  # not there yet

    def _hear_out(self) -> None:
        """Wait for the reason, which a busy machine logs a little later."""
        for _ in range(20):
            time.sleep(0.5)
            if any(_ERROR.match(line.rpartition(" - ")[2]) for line in self.log().splitlines()):
                time.sleep(0.5)
                return

    def log(self) -> str:
        """Return everything that it printed."""
        return self._log.read_text(errors="replace")

    def trouble(self) -> str:
        """Return the part of the log that names the cause, else its end."""
        messages = [line.rpartition(" - ")[2] for line in self.log().splitlines() if line.strip()]
        lines = [line for line in messages if not re.search(r"\|#Level:|^/127\.|HTTP/1", line)]
        start = next((n for n, line in enumerate(lines) if line.startswith("Traceback")), None)
        if start is None:
            return "\n".join(f"  {line}" for line in lines[-15:])
        # One attempt's traceback, of more than one part where one error led to another; its last
        # error is the reason.
        end = next(
            (n for n in range(start, len(lines)) if lines[n].startswith("Stopped Scanner")),
            len(lines),
        )
        errors = [line for line in lines[start:end] if _ERROR.match(line)]
        return "\n".join(
            f"  {line}" for line in (*errors[-1:], *lines[start : min(end, start + 30)])
        )

    def stop(self) -> None:
        """Stop the server, its Java process, and its workers, and delete their folder."""
        for how, patience in ((signal.SIGTERM, 3), (signal.SIGKILL, 3)):
            try:
                os.killpg(self.process.pid, how)
                self.process.wait(patience)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        shutil.rmtree(self._base, ignore_errors=True)


@contextmanager
def running(
    folder: Path,
    python: Path,
    workers: int = 1,
    *,
    timeout: float = 180.0,
    waiting: Callable[[float], None] = lambda _seconds: None,
) -> Iterator[Stack]:
    """Give a stack once it has loaded the model, and stop it at the end; the arguments are those of
    `Stack` and of its `wait`."""
    stack = Stack(folder, python, workers)
    try:
        for more in (True, True, False):
            try:
                stack.wait(timeout, waiting)
                break
            except PortTaken:
                stack.stop()
                if not more:
                    raise
                stack = Stack(folder, python, workers)
        yield stack
    finally:
        stack.stop()


def find_environment(path: str | None = None) -> tuple[Path | None, str]:
    """Return the Python of the stack's environment, or None and the reason.

    Args:
        path: Where it is; else $BREEDLAB_INFERENCE_ENV, else `.venv-inference` here.
    """
    folder = Path(path or os.environ.get(ENVIRONMENT_VARIABLE) or ".venv-inference").absolute()
    python = folder / "bin" / "python"
    if not python.is_file():
        return None, f"no environment {os.path.relpath(folder)} (run `make inference`)"
    if shutil.which("java") is None:
        return None, "no Java (apt-get install openjdk-17-jre-headless)"
    return python, ""


def ask(
    url: str, body: bytes, kind: str, accept: str, timeout: float = 60.0
) -> urllib3.BaseHTTPResponse:
    """Send one POST to `/invocations`, and return its response.

    Raises:
        BackendError: If there is no answer.
    """
    try:
        return urllib3.request(
            "POST",
            f"{url}/invocations",
            body=body,
            headers={"Content-Type": kind, "Accept": accept},
            timeout=timeout,
            retries=False,
        )
    except urllib3.exceptions.HTTPError as error:
        raise BackendError(f"{url}/invocations: no answer ({type(error).__name__})") from error


def _overlay(folder: Path, python: Path) -> Path:
    """Return an environment on top of the stack's, holding only what the container would install
    for this archive."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True, env=bare)
    link = folder / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    below, above = (
        subprocess.run(
            [each, "-I", "-c", code], check=True, capture_output=True, text=True
        ).stdout.strip()
        for each in (python, link)
    )
    Path(above, "stack.pth").write_text(f"{below}\n")
    # TorchServe starts its workers with the Python that it was started by.
    launcher = folder / "bin" / "torchserve"
    launcher.write_text(f"#!{link}\nfrom ts.model_server import start\n\nstart()\n")
    launcher.chmod(0o755)
    return link


def _free_ports(count: int) -> int:
    """Return the first of several adjacent free ports, below those that the system assigns
    itself."""
    for _ in range(50):
        start = random.randrange(10_000, 30_000)
        try:
            for port in range(start, start + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return start
    raise BackendError("found no free ports on this machine")
