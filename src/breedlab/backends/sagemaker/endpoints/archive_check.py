"""Whether an archive can be served, found out here: `/ping` of an endpoint is healthy for those
that cannot, too."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from breedlab.backends.base import VERBOSE
from breedlab.backends.sagemaker.endpoints import hidden_home, torchserve
from breedlab.errors import ServingError
from breedlab.serving.description import read_description

_PROBE = Path(__file__).with_name("handler_probe.py")
_NEEDED = ("model.json", "model.safetensors", "code/inference.py", "code/requirements.txt")
_KNOWN = re.compile(r"model\.json|(model|unknown)\.safetensors|engines/.+|code/.+")
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib")
_TIMEOUT_S = 300


@dataclass(frozen=True)
class Answer:
    """What a model said of an image.

    Attributes:
        label: Its most likely class.
        score: That class's probability.
        where: What answered.
    """

    label: str
    score: float
    where: str


def lint(folder: Path, imports: bool = True) -> int:
    """Check an archive's content, and that its code imports where training's packages are missing.

    Args:
        folder: The content, unpacked.
        imports: Whether to import it, which takes seconds.

    Returns:
        Its size in bytes.

    Raises:
        ServingError: Naming everything that is wrong.
    """
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
    }
    problems = [*_missing(files), *_unwanted(files), *_description(folder), *_requirements(folder)]
    if imports and not problems:
        process = _run(folder)
        if process.returncode:
            problems.append(f"code/inference.py: cannot be imported ({_last_line(process.stderr)})")
    if problems:
        raise ServingError(
            "\n".join(["the archive cannot be served:", *(f"  {text}" for text in problems)])
        )
    return sum(path.stat().st_size for path in files.values())


def probe(
    folder: Path,
    image: bytes,
    environment: str | None = None,
    waiting: Callable[[float], None] = lambda _seconds: None,
) -> Answer:
    """Have the archive answer an image under AWS's inference stack, or through its handler if that
    stack is not installed.

    Args:
        folder: An archive's content, unpacked.
        image: Its bytes.
        environment: Of the stack; None looks in the usual places.
        waiting: Called now and then with the seconds so far.

    Raises:
        BreedlabError: If it does not answer, or with anything else than scores of its classes.
    """
    python, missing = torchserve.find_environment(environment)
    if python is None:
        where = (
            "its own handler in a separate process; AWS's inference stack was not tested:"
            f" {missing}"
        )
        return _read(folder, *_ask_handler(folder, image), where)
    with torchserve.running(folder, python, timeout=_TIMEOUT_S, waiting=waiting) as served:
        answer = torchserve.ask(served.url, image, "application/octet-stream", VERBOSE)
    return _read(folder, answer.status, answer.data, "AWS's inference stack on this machine")


def read_answer(classes: tuple[str, ...], status: int, body: bytes, where: str) -> Answer:
    """Return a verbose answer if it comes from a model with these classes.

    Raises:
        ServingError: If it is not.
    """
    try:
        tree = json.loads(body)
        if status == 200 and tuple(tree["classes"]) != classes:
            raise ServingError(
                f"{where}: scores are for other classes ({', '.join(tree['classes'][:3])}, ...)"
            )
        best = tree["predictions"][0]["top"][0]
        return Answer(str(best["class"]), float(best["probability"]), where)
    except (ValueError, LookupError, TypeError) as error:
        text = body.decode(errors="replace")[:300]
        raise ServingError(f"{where}: returned no scores, but status {status}: {text}") from error


def classes_of(folder: Path) -> tuple[str, ...]:
    """Return the names of the classes, in the order of the scores."""
    return tuple(read_description(folder)["classes"])


def _read(folder: Path, status: int, body: bytes, where: str) -> Answer:
    return read_answer(classes_of(folder), status, body, where)


def _ask_handler(folder: Path, image: bytes) -> tuple[int, bytes]:
    with tempfile.NamedTemporaryFile(suffix=".image") as file:
        file.write(image)
        file.flush()
        process = _run(folder, file.name)
    if process.returncode:
        raise ServingError(f"the archive's handler fails: {_last_line(process.stderr)}")
    return 200, process.stdout.strip().splitlines()[-1].encode()


def _run(folder: Path, *image: str) -> subprocess.CompletedProcess[str]:
    """Run the archive's code in a Python process that sees neither this checkout, nor what the
    user's environment adds, nor the user's keys."""
    command = hidden_home.hiding([sys.executable, "-I", _PROBE, folder.resolve(), *image])
    with tempfile.TemporaryDirectory(prefix="breedlab-probe-") as home:
        words: dict[str, Any] = {
            "env": torchserve.scrubbed(home),
            "cwd": home,
            "stdin": subprocess.DEVNULL,
        }
        try:
            return subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT_S, **words
            )
        except subprocess.TimeoutExpired as error:
            raise ServingError(
                f"the archive's code did not answer within {_TIMEOUT_S} seconds"
            ) from error


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"


def _missing(files: dict[str, Path]) -> Iterator[str]:
    nested = next((name for name in files if name.endswith("/model.json")), None)
    for name in _NEEDED:
        if name not in files:
            yield f"{name}: is missing" + (
                f"; it must be at the top level, not at {nested} does" if nested else ""
            )


def _unwanted(files: dict[str, Path]) -> Iterator[str]:
    for name, path in files.items():
        if path.is_symlink():
            yield f"{name}: is a link, which does not work in a container"
        elif path.suffix in _PICKLES and not name.startswith("engines/"):
            yield (
                f"{name}: may be a pickle, which runs code when it is loaded; expected safetensors"
            )
        elif not _KNOWN.fullmatch(name):
            yield f"{name}: does not belong in an archive"


def _description(folder: Path) -> Iterator[str]:
    if (folder / "model.json").is_file():
        try:
            read_description(folder)
        except ServingError as error:
            yield str(error)


def _requirements(folder: Path) -> Iterator[str]:
    path = folder / "code" / "requirements.txt"
    for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
        if re.match(r"(torch|torchvision|numpy)\b(?!-)", line.strip()):
            yield f"code/requirements.txt: {line.strip()} would replace what the image brings"
