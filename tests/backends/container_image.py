"""The Python environment of the container that jobs run in: AWS's training toolkit, and PyTorch
lent from the tests' own environment, since it is 5 GB."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path(__file__).resolve().parents[2] / "requirements" / "training-toolkit.txt"
LENT = ("torch", "torchvision")


def build_image(folder: Path, python: str | None = None) -> Path:
    """Make the container's Python environment; return its bin folder.

    Args:
        folder: Where to make it.
        python: Another Python to make it of, such as the 3.13 of AWS's newest images; packages that
            are compiled for it are downloaded then, PyTorch among them. By default
            BREEDLAB_TEST_PYTHON, or else this one.
    """
    own = python or os.environ.get("BREEDLAB_TEST_PYTHON", sys.executable)
    subprocess.run([own, "-m", "venv", str(folder)], check=True)
    interpreter = str(folder / "bin" / "python")
    pip = [interpreter, "-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check"]
    subprocess.run([*pip, "--require-hashes", "-r", str(LOCK)], check=True)
    compiled = _lend(
        folder,
        {
            canonicalize_name(d.metadata["Name"])
            for d in metadata.distributions(path=[str(_site(folder))])
        },
    )
    if compiled:
        subprocess.run([*pip, "--no-deps", *compiled], check=True)
    torchrun = folder / "bin" / "torchrun"
    torchrun.write_text(f"#!{interpreter}\nfrom torch.distributed.run import main\nmain()\n")
    torchrun.chmod(0o755)
    return folder / "bin"


def _site(folder: Path) -> Path:
    return next(folder.glob("lib/python3*/site-packages"))


def _lend(folder: Path, there: set[str]) -> list[str]:
    """Links torch and what it needs. In a folder of its own, where pip lists it and removes nothing
    from it.

    Returns:
        Pins of what is compiled for our Python and not for the container's.
    """
    lent = folder / "lent"
    lent.mkdir()
    same = _site(folder).parent.name == f"python{sys.version_info.major}.{sys.version_info.minor}"
    compiled = []
    wanted = [Requirement(name) for name in LENT]
    done: set[str] = set()
    while wanted:
        need = wanted.pop()
        name = canonicalize_name(need.name)
        if str(need) in done or name in there or name in ("numpy", "pillow", "setuptools"):
            continue
        done.add(str(need))
        found = metadata.distribution(name)
        for line in found.requires or []:
            further = Requirement(line)
            extras = [{"extra": extra} for extra in ("", *need.extras)]
            if further.marker is None or any(further.marker.evaluate(extra) for extra in extras):
                wanted.append(further)
        if not same and "\nTag: cp" in (found.read_text("WHEEL") or ""):
            compiled.append(f"{name}=={found.version.partition('+')[0]}")
            continue
        for top in {Path(file).parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            link = lent / top
            if not link.exists():
                link.symlink_to(Path(str(found.locate_file(top))).resolve())
    (_site(folder) / "lent.pth").write_text(f"{lent}\n")
    return compiled
