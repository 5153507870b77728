"""What a job would install from a package index, as wheels in its source: for networks in which there is no index.

Which packages those are is read from what is installed here: every requirement of a job, and what they ask for in turn,
in the versions that run here. PyTorch stays out: the image brings it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from breedlab.errors import BackendError

WHEELS = "wheels"
"""The folder in the source; requirements files name it."""

OPTIONS = ("--no-index", f"--find-links {WHEELS}")
"""Lines of a requirements file that have pip look there, and nowhere else; it looks beside that file."""

PYTHONS = ("3.12", "3.13")
"""Of AWS's images for the versions of PyTorch that breedlab runs on."""

_PLATFORMS = (*(f"manylinux_2_{minor}_x86_64" for minor in (34, 31, 28, 27, 26, 24, 17)), "manylinux2014_x86_64")
_THE_IMAGES_OWN = {"torch", "torchvision", "triton"}


def collect(folder: Path, files: Sequence[Path], pythons: Sequence[str] = PYTHONS) -> None:
    """Fill a source's folder of wheels with all that its requirements files need.

    Args:
        folder: The source.
        files: Its requirements files; of one whose name says `no-deps`, nothing but what it names.
        pythons: The Python versions that may run it.

    Raises:
        BackendError: If a package is not installed here, or has no wheel.
    """
    target = folder / WHEELS
    target.mkdir()
    for python in pythons:
        pins = set[str]()
        for file in files:
            lines = [line for line in file.read_text("utf-8").splitlines() if line and not line.startswith("-")]
            pins |= set(lines) if "no-deps" in file.name else set(closure(lines, python))
        _download(target, sorted(pins), python)


def closure(lines: Sequence[str], python: str) -> Iterator[str]:
    """Yield a pin for every package that requirements need, without PyTorch and what comes with it.

    Args:
        lines: Requirements.
        python: The Python version that markers are read for.
    """
    from packaging.markers import default_environment  # not needed where wheels are only installed
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    environment = {str(name): str(value) for name, value in default_environment().items()}
    environment |= {"python_version": python, "python_full_version": f"{python}.0"}
    wanted = [Requirement(line) for line in lines]
    seen: set[tuple[str, frozenset[str]]] = set()
    while wanted:
        need = wanted.pop()
        name, extras = canonicalize_name(need.name), frozenset(need.extras)
        if name in _THE_IMAGES_OWN or name.startswith("nvidia-cu") or (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError as error:
            raise BackendError(
                f"backend.vendor: {need} is not installed here, so that nobody knows what it needs; install it first,"
                " such as with an extra: pip install 'breedlab[timm,pretrained,engines]'"
            ) from error
        yield f"{name}=={found.version.partition('+')[0]}"
        for line in found.requires or []:
            further = Requirement(line)
            asked = [{**environment, "extra": extra} for extra in ("", *extras)]
            if further.marker is None or any(further.marker.evaluate(each) for each in asked):
                wanted.append(further)


def _download(target: Path, pins: Sequence[str], python: str) -> None:
    """Download wheels; what has none is built here, where it is the same for every Python."""
    where = ["--dest", str(target), "--python-version", python]
    for platform in _PLATFORMS:
        where += ["--platform", platform]
    if _pip("download", "--no-deps", "--only-binary", ":all:", *where, *pins) is None:
        return
    for pin in pins:
        if _pip("download", "--no-deps", "--only-binary", ":all:", *where, pin) is None:
            continue
        before = set(target.iterdir())
        reason = _pip("wheel", "--no-deps", "--wheel-dir", str(target), pin)
        built = set(target.iterdir()) - before
        if reason is not None or not all(re.search(r"-none-any\.whl$", wheel.name) for wheel in built):
            raise BackendError(
                f"backend.vendor: {pin} has no wheel for Python {python} on Linux; take an image that holds it"
                + (f"\n{reason}" if reason else "")
            )


def _pip(*words: str) -> str | None:
    """Run pip; return what it has to complain of, None if nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", words[0], "-q", "--disable-pip-version-check", *words[1:]],
        capture_output=True,
        text=True,
    )
    return (done.stderr.strip() or "pip failed") if done.returncode else None
