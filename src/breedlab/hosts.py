"""Names of hosts, as `serving.allow_urls` lists them."""

from __future__ import annotations

import re

_LABEL = r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?"
HOST = re.compile(rf"(?=.{{1,253}}$)(?:{_LABEL}\.)*{_LABEL}")


def check_host(entry: str) -> str:
    """Return an entry of `allow_urls` if it names a host, perhaps with a port.

    Raises:
        ValueError: If it does not; its text says what is expected.
    """
    name, _, port = entry.partition(":")
    if not HOST.fullmatch(name) or (port and not (port.isdigit() and 0 < int(port) < 65536)):
        raise ValueError("the name of a host, such as images.example.com, perhaps with a port")
    return entry
