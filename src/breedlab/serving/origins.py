"""Who may ask a server that is meant for this machine: no web page but its own.

A browser sends what any page tells it to, also to loopback. A page of another origin is known by
its Origin header; one whose name was pointed at 127.0.0.1 once it was loaded (DNS rebinding) by the
Host header, which still has that name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from breedlab.commands import command

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::\d{1,5})?")

Headers = Iterable[tuple[bytes, bytes]]


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
        if _HOST.fullmatch(name) is None or "/" in name or _name(name) != name:
            raise ValueError(name)
    if not names and not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return None
    return frozenset((*names, *LOOPBACK, f"[{address}]" if ":" in address else address))


def refusal(
    headers: Headers, hosts: frozenset[str] | None, allowed: frozenset[str] = frozenset()
) -> tuple[int, str] | None:
    """Return the status and the message with which a request is refused, or None if it is not.

    Args:
        headers: The request's.
        hosts: From `allowed_hosts`.
        allowed: Other origins whose pages may ask.
    """
    if hosts is None:
        return None
    host, origin = "", None
    for name, value in headers:
        if name == b"host":
            host = value.decode("latin-1").strip().lower()
        elif name == b"origin":
            origin = value.decode("latin-1").strip().lower()
    if host and _name(host) not in hosts:  # browsers always send one
        return (
            421,
            (
                f"{host[:80]!r} is not a host that this server answers as; {command('serve')}"
                " --allowed-hosts adds one"
            ),
        )
    if (
        origin is not None
        and origin not in allowed
        and (not host or origin.partition("://")[2] != host)
    ):
        return 403, "a page of another origin may not ask this server"
    return None


def _name(host: str) -> str:
    """Return a Host header without its port."""
    match = _HOST.fullmatch(host)
    return match[1].rstrip(".") if match else ""
