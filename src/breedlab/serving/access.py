"""Who may ask a server: those who know its key, its own page, and pages of the origins that it
names (CORS).

Key and origins are off by default. The page's own files, the documentation, and `/ping` need no
key: they hold nothing of the model, and a load balancer has none.

A browser sends what any page tells it to, also to loopback. A page of another origin is known by
its Origin header; one whose name was pointed at 127.0.0.1 once it was loaded (DNS rebinding) by the
Host header, which still has that name.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from breedlab.commands import command
from breedlab.errors import ServingError

KEY_VARIABLE = "BREEDLAB_API_KEY"
SHORTEST = 16
"""Characters of a key; fewer can be guessed."""
_OPEN = re.compile(r"/|/ping|/page/[^/]*|/docs(/.*)?|/openapi\.json|/static-offline-docs/.*")
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::\d{1,5})?")
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?")
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Accept, Authorization, Content-Type, X-API-Key",
    "Access-Control-Max-Age": "600",
}

Headers = Iterable[tuple[bytes, bytes]]


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
        if _HOST.fullmatch(name) is None or "/" in name or _name(name) != name:
            raise ValueError(name)
    if not names and not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return None
    return frozenset((*names, *LOOPBACK, f"[{address}]" if ":" in address else address))


class Reply(NamedTuple):
    """What a request is answered without a look at its body.

    Attributes:
        status: HTTP's.
        message: What a client is told; empty if that is nothing.
        headers: Of the answer.
    """

    status: int
    message: str
    headers: Mapping[str, str]


class Access:
    """What a server asks of a request besides its content.

    Args:
        key: Its key; None for none.
        origins: Whose pages may ask it, such as `https://dogs.example`.
        hosts: The only names that requests may ask for, from `allowed_hosts`; None for any.
    """

    def __init__(
        self,
        key: str | None = None,
        origins: Iterable[str] = (),
        hosts: frozenset[str] | None = None,
    ) -> None:
        self._origins, self._hosts = frozenset(origins), hosts
        self._digest = None if key is None else _digest(key.encode())

    def admit(
        self, method: str, path: str, headers: Headers
    ) -> tuple[Reply | None, list[tuple[bytes, bytes]]]:
        """Return the reply to a request that goes no further, None if it does; and headers for the
        answer, by which a browser lets a page of another origin read it."""
        shared = self._shared_with(headers) if self._origins else []
        reply = None if self._hosts is None else self._foreign(headers, self._hosts)
        if reply is None and method == "OPTIONS" and shared:
            reply = Reply(204, "", _PREFLIGHT)
        if reply is None and method != "OPTIONS" and self._lacks_key(path, headers):
            message = "the API key is missing or wrong; send it as X-API-Key, or as Bearer token"
            reply = Reply(401, message, {"WWW-Authenticate": "Bearer"})
        return reply, shared

    def _foreign(self, headers: Headers, hosts: frozenset[str]) -> Reply | None:
        """Return the reply to a page that may not ask this server; None to all others."""
        host, origin = "", None
        for name, value in headers:
            if name == b"host":
                host = value.decode("latin-1").strip().lower()
            elif name == b"origin":
                origin = value.decode("latin-1").strip().lower()
        if host and _name(host) not in hosts:  # browsers always send one
            message = (
                f"{host[:80]!r} is not a host that this server answers as; {command('serve')}"
                " --allowed-hosts adds one"
            )
            return Reply(421, message, {})
        if origin is None or origin in self._origins:
            return None
        if host and origin.partition("://")[2] == host:
            return None
        return Reply(403, "a page of another origin may not ask this server", {})

    def _lacks_key(self, path: str, headers: Headers) -> bool:
        """Return whether a request must be refused for the key that it has, or has not."""
        if self._digest is None or _OPEN.fullmatch(path):
            return False
        key = b""
        for name, value in headers:
            if name == b"x-api-key":
                key = value
            elif name == b"authorization" and value[:7].lower() == b"bearer ":
                key = key or value[7:].strip()
        return not hmac.compare_digest(_digest(key), self._digest)

    def _shared_with(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        origin = dict(headers).get(b"origin", b"")
        vary = [(b"vary", b"Origin")]  # for caches: the answer depends on the origin
        if origin.decode("latin-1").strip().lower() not in self._origins:
            return vary
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b"Retry-After, Server-Timing"),
            *vary,
        ]


def _digest(key: bytes) -> bytes:
    """Return a digest, whose length is the same for any key, so that a comparison does not reveal
    the key's length."""
    return hashlib.sha256(key).digest()


def _name(host: str) -> str:
    """Return a Host header without its port."""
    match = _HOST.fullmatch(host)
    return match[1].rstrip(".") if match else ""
