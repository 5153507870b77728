"""Fetch images by their URL, without giving anyone a way into the network that the server is in.

A request names the URL, so it is hostile until shown otherwise: what may be asked is narrow
(RFC 3986 host names, two ports), every address that the name resolves to has to be a public one,
and the connection goes to exactly the address that was checked, so that a name that resolves
differently the second time gains nothing. The connection uses the standard library, whose HTTP
client knows of no proxies, cookies, redirects or compression, all of which would need guarding.
"""

from __future__ import annotations

import functools
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from breedlab.errors import ServingError
from breedlab.hosts import HOST, check_host
from breedlab.serving.public_addresses import is_public

MAX_BYTES = 6_000_000
"""Of an image; as many as a request's body may have."""
SECONDS = 5.0
"""From the look-up of the name to the last byte, redirects included."""
REDIRECTS = 3
MAX_URL = 2048

Allowed = str | tuple[str, ...]
"""`none`, `public`, or names of hosts, each perhaps with a port: `images.example.com:8443`."""
Resolve = Callable[[str, int], Iterable[str]]
"""Returns the IP addresses of a host's name and a port; raises OSError."""
Connect = Callable[[str, int, float], socket.socket]
"""Opens a TCP connection to an IP address and a port within that many seconds; raises OSError."""

_PORTS = {"http": 80, "https": 443}
# the last is S3's default
_IMAGE_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
_CHUNK = 65_536
_BAD_ANSWER = "BL515"
_LOOK_UPS = threading.BoundedSemaphore(32)
"""A look-up cannot be canceled: one that hangs continues in its thread, so their number is
limited."""


class NotFetched(ServingError):
    """An image must not or cannot be fetched. `status` is an HTTP status; the text reveals nothing
    about what answers inside."""

    code = "BL503"

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message, code)
        self.status = status


@dataclass(frozen=True)
class Address:
    """An image that a request names by its URL."""

    url: str


def resolve(host: str, port: int) -> list[str]:
    """Return all IP addresses of a host, as the system resolves them."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def connect(address: str, port: int, seconds: float) -> socket.socket:
    """Connect to that address; raise ConnectionRefusedError if it leads back to this machine."""
    connection = socket.create_connection((address, port), timeout=seconds)
    if connection.getsockname()[0] == connection.getpeername()[0]:
        connection.close()
        raise ConnectionRefusedError("this machine")
    return connection


class Fetcher:
    """A fetcher of images under the rules of `serving.allow_urls`. Safe to call from many threads.

    Args:
        allowed: Which hosts may be asked. `public` and names alike: only on public addresses.
        max_bytes: Of an image.
        seconds: For everything together, redirects included.
        resolve: How names become addresses.
        connect: How connections are made.
    """

    def __init__(
        self,
        allowed: Allowed,
        *,
        max_bytes: int = MAX_BYTES,
        seconds: float = SECONDS,
        resolve: Resolve = resolve,
        connect: Connect = connect,
    ) -> None:
        self.allowed = allowed
        self._max_bytes, self._seconds = max_bytes, seconds
        self._resolve, self._connect = resolve, connect

    @property
    def is_open(self) -> bool:
        """Whether anything may be fetched at all."""
        return self.allowed != "none"

    def __call__(self, url: str) -> bytes:
        """Fetch the image at a URL without decoding it.

        Raises:
            NotFetched: 403 for a URL that must not be asked, 400 for one that is not valid or did
                not answer with an image in time, 413 for an image that is too large.
        """
        if not self.is_open:
            raise NotFetched(400, "this model fetches no URLs; send the image's bytes")
        deadline = time.monotonic() + self._seconds
        try:
            for _ in range(REDIRECTS + 1):
                answer = self._ask(url, deadline)
                if isinstance(answer, bytes):
                    return answer
                if url.lower().startswith("https:") and not answer.lower().startswith("https:"):
                    raise NotFetched(403, "its host redirects from https to something else")
                url = answer
        except (OSError, http.client.HTTPException, ValueError) as error:
            if time.monotonic() >= deadline or isinstance(error, TimeoutError):
                raise NotFetched(
                    400, f"its host did not send it within {self._seconds:g} seconds", _BAD_ANSWER
                ) from error
            reason = (
                "has no valid certificate"
                if isinstance(error, ssl.SSLCertVerificationError)
                else "cannot be asked"
            )
            raise NotFetched(400, f"its host {reason}", _BAD_ANSWER) from error
        raise NotFetched(400, f"its host redirects more than {REDIRECTS} times", _BAD_ANSWER)

    def _ask(self, url: str, deadline: float) -> bytes | str:
        """Return the image from one exchange, or the URL that it redirects to."""
        scheme, host, port, target = self._target(url)
        address = self._checked(host, port, deadline)
        bracketed = f"[{host}]" if ":" in host else host
        with self._connection(scheme, host, address, port, deadline) as (connection, cut):
            connection.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
            host_header = bracketed if port == _PORTS[scheme] else f"{bracketed}:{port}"
            for name, value in (
                ("Host", host_header),
                ("Accept", "image/*"),
                ("Accept-Encoding", "identity"),
            ):
                connection.putheader(name, value)
            connection.putheader("User-Agent", "breedlab")
            connection.putheader("Connection", "close")
            connection.endheaders()
            answer = connection.getresponse()
            if answer.status in (301, 302, 303, 307, 308) and (
                place := answer.getheader("Location")
            ):
                return urljoin(url, place.encode("latin-1").decode("utf-8", "replace"))
            image = self._read(answer)
            if cut.is_set():  # a body without a length looks complete wherever it ends
                raise TimeoutError
            return image

    def _target(self, url: str) -> tuple[str, str, int, str]:
        """Return scheme, host, port and request target of a URL; raise NotFetched if it must not be
        asked."""
        if len(url) > MAX_URL:
            raise NotFetched(400, f"the URL is longer than {MAX_URL:,} characters")
        if re.search(r"[\x00-\x20\x7f\\]", url):
            raise NotFetched(400, "the URL holds spaces, control characters or backslashes")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise NotFetched(400, "it is not a URL") from error
        if parts.scheme not in _PORTS:
            raise NotFetched(400, "the URL does not begin with http:// or https://")
        if "@" in parts.netloc:
            raise NotFetched(400, "the URL holds a user name or password")
        host = _host(parts)
        port = _PORTS[parts.scheme] if port is None else port
        if self.allowed == "public":
            if port not in _PORTS.values():
                raise NotFetched(403, f"port {port} is not asked; only 80 and 443 are")
        elif not (
            f"{host}:{port}" in self.allowed or (host in self.allowed and port in _PORTS.values())
        ):
            raise NotFetched(403, "its host is not one that this model fetches from")
        target = parts.path or "/"
        if parts.query:
            target += f"?{parts.query}"
        return parts.scheme, host, port, "".join(map(_percent_encoded, target))

    def _checked(self, host: str, port: int, deadline: float) -> str:
        """Return an address of the host after checking that all of them are public."""
        addresses = list(dict.fromkeys(self._look_up(host, port, deadline)))
        if not addresses:
            raise OSError("no address")
        if not all(map(is_public, addresses)):
            raise NotFetched(403, "its host is not on the public internet")
        # IPv4 first: many networks have only that, and a connection is tried once.
        return min(addresses, key=lambda address: ":" in address)

    def _look_up(self, host: str, port: int, deadline: float) -> Iterable[str]:
        """Return the host's addresses; raise TimeoutError at the deadline, since the system's own
        timeout is longer."""
        if not _LOOK_UPS.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        future: Future[Iterable[str]] = Future()

        def work() -> None:
            try:
                future.set_result(list(self._resolve(host, port)))
            except Exception as error:
                future.set_exception(error)
            finally:
                _LOOK_UPS.release()

        threading.Thread(target=work, name="look-up", daemon=True).start()
        try:
            return future.result(max(0.0, deadline - time.monotonic()))
        except FutureTimeout as error:
            raise TimeoutError from error

    @contextmanager
    def _connection(
        self, scheme: str, host: str, address: str, port: int, deadline: float
    ) -> Iterator[tuple[http.client.HTTPConnection, threading.Event]]:
        """Open an HTTP connection over a socket that is shut down at the deadline, even while bytes
        trickle in; the event tells whether it was."""
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        plain, cut = self._connect(address, port, seconds), threading.Event()
        # TLS wraps the socket in another object, but the file below, which the duplicate shares,
        # stays the same.
        watched = plain.dup()

        def end() -> None:
            cut.set()
            with suppress(OSError):  # it may be closed already
                watched.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(max(0.0, deadline - time.monotonic()), end)
        timer.daemon = True
        timer.start()
        connection = http.client.HTTPConnection(host, port)
        try:
            connection.sock = plain
            if scheme == "https":
                connection.sock = _trust().wrap_socket(plain, server_hostname=host)
            yield connection, cut
        finally:
            timer.cancel()
            connection.close()
            plain.close()
            watched.close()

    def _read(self, answer: http.client.HTTPResponse) -> bytes:
        if answer.status != 200:
            raise NotFetched(400, f"its host answered {answer.status}", _BAD_ANSWER)
        kind = answer.getheader("Content-Type", "").split(";")[0].strip().lower()
        if not kind.startswith(_IMAGE_TYPES):
            raise NotFetched(400, f"its host sends {kind[:60]!r}, not an image", _BAD_ANSWER)
        if answer.getheader("Content-Encoding", "identity").strip().lower() != "identity":
            raise NotFetched(400, "its host sends it compressed, unasked", _BAD_ANSWER)
        too_large = NotFetched(413, f"it is larger than {self._max_bytes:,} bytes", "BL206")
        if (answer.length or 0) > self._max_bytes:
            raise too_large
        parts, size = [], 0
        while part := answer.read(min(_CHUNK, self._max_bytes + 1 - size)):
            size += len(part)
            if size > self._max_bytes:
                raise too_large
            parts.append(part)
        if answer.length:
            raise OSError("broken off")
        return b"".join(parts)


def _percent_encoded(character: str) -> str:
    if character.isascii():
        return character
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "replace"))


@functools.cache
def _trust() -> ssl.SSLContext:
    """Return a TLS context with the system's certificate authorities, read once."""
    return ssl.create_default_context()


def _host(parts: SplitResult) -> str:
    """Return the host as for DNS and TLS: ASCII, lower case, without a final dot; or a plain IP
    address."""
    name = (parts.hostname or "").removesuffix(".")
    wrong = NotFetched(400, "the URL's host is not a name or an address as it is commonly written")
    if ":" in name:
        try:
            address = ipaddress.IPv6Address(name)
        except ValueError as error:
            raise wrong from error
        if address.scope_id is not None:
            raise wrong
        return str(address)
    try:
        host = name.encode("idna").decode("ascii").lower()
    except UnicodeError as error:
        raise wrong from error
    if not HOST.fullmatch(host):
        raise wrong
    # A host that ends in a number is an address: 127.1, 0x7f.1, 017700000001 and 2130706433 are all
    # loopback.
    if re.fullmatch(r"\d+|0x[0-9a-f]*", host.rsplit(".", 1)[-1]):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError as error:
            raise wrong from error
    return host


def allowed_from(value: Any) -> Allowed:
    """Parse `allow_urls` from model.json or a command line.

    Raises:
        ValueError: If it is neither `none` nor `public` nor names of hosts; its text says what is
            expected.
    """
    if value in ("none", "public"):
        return str(value)
    return tuple(
        map(check_host, value if isinstance(value, list | tuple) else str(value).split(","))
    )
