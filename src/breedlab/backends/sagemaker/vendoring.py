"""What a job or an endpoint would install from a package index, as wheels: for networks in which
there is no index.

Which packages those are is read from what is installed here: every requirement of a job, and what
they ask for in turn, in the versions that run here. PyTorch stays out: the image brings it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from breedlab.errors import BackendError

WHEELS = "wheels"
"""The folder in the source; requirements files name it."""

OPTIONS = ("--no-index", f"--find-links {WHEELS}")
"""Lines of a requirements file that have pip look there, and nowhere else; the path is relative to
that file."""

PYTHONS = ("3.12", "3.13")
"""Of AWS's images for the versions of PyTorch that breedlab runs on."""

_LIBCS = ("2_34", "2_31", "2_28", "2_27", "2_26", "2_24", "2_17", "2014")
_THE_IMAGES_OWN = {"torch", "torchvision", "triton"}


def add_to_archive(content: Path, python: str, machine: str) -> int:
    """Add to a model's content what its endpoint would install, and have pip look nowhere else.

    Args:
        content: An archive's content, unpacked; it is changed.
        python: The Python version of the endpoint's image.
        machine: Its processors, as wheels name them.

    Returns:
        How many wheels travel.

    Raises:
        BackendError: If a package is not installed here, or has no wheel.
    """
    code = content / "code"
    requirements = code / "requirements.txt"
    lines = [line for line in requirements.read_text("utf-8").splitlines() if line not in OPTIONS]
    shutil.rmtree(code / WHEELS, ignore_errors=True)
    collect(code, [requirements], (python,), machine, "--vendor")
    requirements.write_text("".join(f"{line}\n" for line in (*OPTIONS, *lines)), "utf-8")
    return sum(1 for _ in (code / WHEELS).iterdir())


def collect(
    folder: Path,
    files: Sequence[Path],
    pythons: Sequence[str] = PYTHONS,
    machine: str = "x86_64",
    asked_by: str = "backend.vendor",
) -> None:
    """Fill a source's folder of wheels with everything that its requirements files need.

    Args:
        folder: The source.
        files: Its requirements files; of one whose name says `no-deps`, nothing but what it names.
        pythons: The Python versions that may run it.
        machine: The processors, as wheels name them.
        asked_by: What a user asked for this by.

    Raises:
        BackendError: If a package is not installed here, or has no wheel.
    """
    target = folder / WHEELS
    target.mkdir()
    for python in pythons:
        pins = set[str]()
        for file in files:
            lines = [
                line
                for line in file.read_text("utf-8").splitlines()
                if line and not line.startswith("-")
            ]
            pins |= set(lines) if "no-deps" in file.name else set(closure(lines, python, asked_by))
        _download(target, sorted(pins), python, machine, asked_by)


def closure(lines: Sequence[str], python: str, asked_by: str = "backend.vendor") -> Iterator[str]:
    """Yield a pin for every package that requirements need, without PyTorch and what comes with it.

    Args:
        lines: Requirements.
        python: The Python version that markers are read for.
        asked_by: What a user asked for this by.
    """
    from packaging.markers import default_environment  # not needed where wheels are only installed
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    environment = {str(name): str(value) for name, value in default_environment().items()}
    environment |= {"python_version": python, "python_full_version": f"{python}.0"}
    requirements = [Requirement(line) for line in lines]
    visits: set[tuple[str, frozenset[str]]] = set()
    while requirements:
        need = requirements.pop()
        name, extras = canonicalize_name(need.name), frozenset(need.extras)
        if name in _THE_IMAGES_OWN or name.startswith("nvidia-cu") or (name, extras) in visits:
            continue
        visits.add((name, extras))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError as error:
            raise BackendError(
                f"{asked_by}: {need} is not installed here, so its dependencies are unknown;"
                " install it first, for example with an extra: pip install"
                " 'breedlab[timm,pretrained,engines]'"
            ) from error
        yield f"{name}=={distribution.version.partition('+')[0]}"
        for line in distribution.requires or []:
            further = Requirement(line)
            environments = [{**environment, "extra": extra} for extra in ("", *extras)]
            marker = further.marker
            if marker is None or any(map(marker.evaluate, environments)):
                requirements.append(further)


def _download(target: Path, pins: Sequence[str], python: str, machine: str, asked_by: str) -> None:
    """Download wheels; a package without one is built here if its wheel is the same for every
    Python."""
    where = ["--dest", str(target), "--python-version", python]
    for libc in _LIBCS:
        platform = "manylinux2014" if libc == "2014" else f"manylinux_{libc}"
        where += ["--platform", f"{platform}_{machine}"]
    if _pip("download", "--no-deps", "--only-binary", ":all:", *where, *pins) is None:
        return
    for pin in pins:
        if _pip("download", "--no-deps", "--only-binary", ":all:", *where, pin) is None:
            continue
        before = set(target.iterdir())
        reason = _pip("wheel", "--no-deps", "--wheel-dir", str(target), pin)
        built = set(target.iterdir()) - before
        if reason is not None or not all(
            re.search(r"-none-any\.whl$", wheel.name) for wheel in built
        ):
            raise BackendError(
                f"{asked_by}: {pin} has no wheel for Python {python} on Linux; use an image that"
                " has it" + (f"\n{reason}" if reason else "")
            )


def _pip(*words: str) -> str | None:
    """Run pip; return its error output, None if it succeeds."""
    process = subprocess.run(
        [sys.executable, "-m", "pip", words[0], "-q", "--disable-pip-version-check", *words[1:]],
        capture_output=True,
        text=True,
    )
    return (process.stderr.strip() or "pip failed") if process.returncode else None
