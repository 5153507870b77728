"""Who may ask a server: those who know its key, and pages of the origins that it names (CORS).

Both are off by default. The page's own files, the documentation, and `/ping` need no key: they hold
nothing of the model, and a load balancer has none.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterable
from pathlib import Path

from breedlab.errors import ServingError

KEY_VARIABLE = "BREEDLAB_API_KEY"
SHORTEST = 16
"""Characters of a key; fewer can be guessed."""
_OPEN = re.compile(r"/|/ping|/page/[^/]*|/docs(/.*)?|/openapi\.json|/static-offline-docs/.*")
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?")

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


class Access:
    """What a server asks of a request besides its content.

    Args:
        key: Its key; None for none.
        origins: Whose pages may ask it, such as `https://dogs.example`.
    """

    def __init__(self, key: str | None = None, origins: Iterable[str] = ()) -> None:
        self.origins = frozenset(origins)
        self._digest = None if key is None else _digest(key.encode())

    def lacks_key(self, path: str, headers: Headers) -> bool:
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

    def shared_with(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """Return the headers by which a browser lets a page of another origin read an answer; none
        if its origin is not named."""
        if not self.origins:
            return []
        origin = dict(headers).get(b"origin", b"")
        vary = [(b"vary", b"Origin")]  # for caches: the answer depends on the origin
        if origin.decode("latin-1").strip().lower() not in self.origins:
            return vary
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b"Retry-After, Server-Timing"),
            *vary,
        ]

    @staticmethod
    def preflight() -> dict[str, str]:
        """Answer a browser's preflight request."""
        return {
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Headers": "Accept, Authorization, Content-Type, X-API-Key",
            "Access-Control-Max-Age": "600",
        }


def _digest(key: bytes) -> bytes:
    """Return a digest, whose length is the same for any key, so that a comparison does not reveal
    the key's length."""
    return hashlib.sha256(key).digest()
