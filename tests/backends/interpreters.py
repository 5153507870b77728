"""Other Pythons that this machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def interpreter(version: str) -> str:
    """Return a Python of a version on this machine."""
    # GitHub's and pyenv's lie beside the one that runs here, and are not on the PATH.
    versions = Path(sys.base_prefix).parent
    beside = [*versions.glob(f"{version}.*/bin"), *versions.parent.glob(f"{version}.*/x64/bin")]
    path = os.pathsep.join([*map(str, beside), os.environ.get("PATH", "")])
    command = shutil.which(f"python{version}", path=path)
    # pyenv has a command for each version that it knows, which may not start one here
    if command is None or subprocess.run([command, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"there is no Python {version} on this machine")
    return command
