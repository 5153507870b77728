"""What a server is told of who may ask it: its key, the origins of pages besides its own (CORS),
and the hosts that it answers as. `invocations.Access` asks each request for them.

Key and origins are off by default.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path

from breedlab.errors import ServingError

KEY_VARIABLE = "BREEDLAB_API_KEY"
SHORTEST = 16
"""Characters of a key; fewer can be guessed."""
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::\d{1,5})?")
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?")


def read_key(file: Path | None) -> str | None:
    """Return the key that a server is given, or None if it has none.

    Args:
        file: The file that holds it; None takes the variable BREEDLAB_API_KEY.

    Raises:
        ServingError: If the file cannot be read, or does not hold a key. No message holds it.
    """
    if file is None:
        if KEY_VARIABLE not in os.environ:
            return None
        where, text = KEY_VARIABLE, os.environ[KEY_VARIABLE]
    else:
        where = f"--api-key-file {file}"
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ServingError(f"{where}: cannot be read ({reason})") from error
    key = text.strip()
    if not re.fullmatch(rf"[!-~]{{{SHORTEST},}}", key):
        raise ServingError(
            f"{where}: expected a key of at least {SHORTEST} letters, digits, and signs, without"
            " spaces; make one with: openssl rand -hex 32"
        )
    return key


def read_origins(words: Iterable[str]) -> frozenset[str]:
    """Return the origins of `--cors`.

    Raises:
        ServingError: If one of them is none.
    """
    origins = [one.strip().lower() for text in words for one in text.split(",") if one.strip()]
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ServingError(
                f"--cors: got {origin!r}; expected an origin such as https://dogs.example, without"
                " a path"
            )
    return frozenset(origins)


def allowed_hosts(address: str, words: str | None) -> frozenset[str] | None:
    """Return the hosts that a server answers as, or None for any.

    Args:
        address: The IP address that it listens on.
        words: `--allowed-hosts`: names separated by commas, or `*`; None if it was not given.

    Raises:
        ValueError: If one of the names is not a host's name.
    """
    if words == "*":
        return None
    names = [name.strip().lower() for name in (words or "").split(",") if name.strip()]
    for name in names:
        match = HOST.fullmatch(name)
        if match is None or "/" in name or match[1].rstrip(".") != name:
            raise ValueError(name)
    if not names and not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return None
    return frozenset((*names, *LOOPBACK, f"[{address}]" if ":" in address else address))
