"""Hide the user's keys from an archive's code, where the system lets an ordinary user do that."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_SECRETS = (".aws", ".config", ".docker", ".gnupg", ".kube", ".netrc", ".ssh")
"""Where keys and tokens are in a home folder: AWS's, git's and gcloud's, registries', SSH's."""

_NAMED = ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE")

_COVER = """
set -e
unshare=$1 mount=$2; shift 2
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then
    "$mount" -t tmpfs -o size=4k,mode=755 none "$1"
  else
    "$mount" --bind /dev/null "$1"
  fi
  shift
done
exec "$unshare" --user --map-root-user --mount "$@"
"""
"""Covers each path in a mount namespace, then runs a command in one below it, which cannot take a
cover off."""

_TRY_S = 10


def hiding(command: Sequence[object]) -> list[str]:
    """Return a command that runs another with the user's keys out of its sight; the other itself
    where that fails.

    Its process stays the same one, so that the process that starts it can end it.
    """
    plain = [str(word) for word in command]
    paths = _secrets(os.environ)
    return [*_cover(paths), "--", *plain] if paths and _is_allowed() else plain


def exposed() -> str:
    """Return what of the user's keys an archive's code can read here, in words; empty if
    nothing."""
    paths = _secrets(os.environ)
    if not paths or _is_allowed():
        return ""
    return (
        "the archive's code runs here without the variables that hold keys, but it could read"
        f" {', '.join(paths)}: this system does not let `unshare` create a mount namespace to hide"
        " them; deploy only archives that you trust"
    )


def _secrets(environment: Mapping[str, str]) -> list[str]:
    """Return the files and folders to hide that exist, by their real paths."""
    paths = [Path.home() / name for name in _SECRETS] + [
        Path(environment[n]) for n in _NAMED if environment.get(n)
    ]
    return list(dict.fromkeys(os.path.realpath(path) for path in paths if path.exists()))


def _cover(paths: Sequence[str]) -> list[str]:
    unshare, mount = (shutil.which(name) or name for name in ("unshare", "mount"))
    shell = ["/bin/sh", "-c", _COVER, "sh", unshare, mount, *paths]
    return [unshare, "--user", "--map-root-user", "--mount", *shell]


@functools.cache
def _is_allowed() -> bool:
    """Return whether namespaces can be made here: not on macOS, nor in most containers and on some
    distributions."""
    try:
        args = [*_cover([os.devnull]), "--", "/bin/sh", "-c", ":"]
        return subprocess.run(args, capture_output=True, timeout=_TRY_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
