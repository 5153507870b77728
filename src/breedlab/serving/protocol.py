"""HTTP below the application: clients that say little, nothing or nonsense, and say it slowly.

uvicorn closes a connection that idles between requests, and no other; what it refuses itself it
refuses as plain text.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from http import HTTPStatus
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from breedlab.serving.refusals import error_body

HEAD_SECONDS = 10.0
"""Seconds in which a request's head has to come in."""
LINGER_SECONDS = 5.0
"""Seconds for which the rest of a refused body is still read, so that the client gets to read
why."""
MAX_HEAD = 65_536
"""Bytes of a request's first line and headers; and of what may stand between two parts of a chunked
body, or behind
it: extensions and trailers, which nothing here reads and the parser keeps."""
MAX_CONNECTIONS = 512


class GuardedProtocol(HttpToolsProtocol):
    """One connection. `refused` is called with the status of a request that never reached the
    application."""

    refused: Callable[[int], None] = staticmethod(lambda status: None)
    head_seconds, linger_seconds, max_connections = HEAD_SECONDS, LINGER_SECONDS, MAX_CONNECTIONS

    def __init__(self, *args: Any, **words: Any) -> None:
        super().__init__(*args, **words)
        self._limit: asyncio.TimerHandle | None = None
        self._in_head, self._head = False, 0
        self._beside_body = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse(503, "too many connections; try again in a second", b"retry-after: 1\r\n")
        else:
            self._arm(self.head_seconds, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        continued = self._in_head
        self._beside_body += len(data)
        super().data_received(data)
        if self._in_head and continued:
            self._head += len(data)
            if self._head > MAX_HEAD:
                self._refuse(
                    431, f"the request's head is larger than the {MAX_HEAD:,} bytes that are read"
                )
        elif (
            not self._in_head
            and self.busy
            and self.cycle.more_body
            and self._beside_body > MAX_HEAD
        ):
            self._refuse(
                431, f"more than {MAX_HEAD:,} bytes of the request are neither head nor body"
            )
        if not self.busy and self._limit is None and not self.transport.is_closing():
            self._arm(self.head_seconds, self._head_is_late)

    def on_body(self, body: bytes) -> None:
        self._beside_body = 0
        super().on_body(body)

    def on_header(self, name: bytes, value: bytes) -> None:
        # after the body it is a trailer: no header of the request, whatever its name
        if self._in_head:
            super().on_header(name, value)

    def on_message_begin(self) -> None:
        self._in_head, self._head = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._beside_body = False, 0
        self._disarm()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if (
            self.cycle.response_complete
            and self.cycle.more_body
            and not self.transport.is_closing()
        ):
            self._arm(self.linger_seconds, self.transport.abort)

    def on_message_complete(self) -> None:
        if self.cycle.response_complete:  # the rest of a refused body has been discarded
            self.cycle.more_body = False
            self._disarm()
        super().on_message_complete()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection open until the answer is sent: a client may close its half after its
        request. Refuse a request that ends before it is complete."""
        if self._in_head or (
            self.busy and self.cycle.more_body and not self.cycle.response_complete
        ):
            self._refuse(400, "the request ended before it was complete")
        if not self.busy or self.cycle.more_body:
            return False
        self.cycle.keep_alive = False
        return True

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # the client does not read what it asked for
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg.rstrip(".").lower())

    @property
    def busy(self) -> bool:
        """Whether a request is being read or answered."""
        return self.cycle is not None and not (
            self.cycle.response_complete and not self.cycle.more_body
        )

    def _arm(self, seconds: float, then: Callable[[], None]) -> None:
        self._disarm()
        self._limit = self.loop.call_later(seconds, then)

    def _disarm(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _head_is_late(self) -> None:
        if self._in_head:
            self._refuse(
                408, f"the request's head did not come in within {self.head_seconds:g} seconds"
            )
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str, headers: bytes = b"") -> None:
        """Answer without the application, and close the connection."""
        if self.transport.is_closing():
            return
        if not (
            self.cycle is not None
            and self.cycle.response_started
            and not self.cycle.response_complete
        ):
            body = json.dumps(error_body(status, message)).encode()
            head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
            head += b"content-type: application/json\r\nconnection: close\r\n" + headers
            self.transport.write(head + f"content-length: {len(body)}\r\n\r\n".encode() + body)
            self.refused(status)
        self.transport.close()


class Server(uvicorn.Server):
    """A server that first answers open requests when it is stopped, and says so; at a second Ctrl-C
    it ends at once."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        again = self.should_exit
        super().handle_exit(sig, frame)
        if again and sig == signal.SIGINT:
            print("interrupted; open requests were dropped", file=sys.stderr, flush=True)
            # Threads that decode or compute cannot be stopped, and Python would wait for them.
            os._exit(130)
        open_requests = sum(connection.busy for connection in self.server_state.connections)  # type: ignore[union-attr]
        if open_requests and not again:
            seconds = self.config.timeout_graceful_shutdown
            text = (
                f"ends once {open_requests} open requests are answered, in {seconds} seconds at"
                " most"
            )
            print(f"{text}; Ctrl-C (again) ends at once", file=sys.stderr, flush=True)


def settings(app: Any, **words: Any) -> uvicorn.Config:
    """Return uvicorn's config for an application of `server.make_app`."""
    refused = staticmethod(app.refused)
    protocol = type("Protocol", (GuardedProtocol,), {"refused": refused})
    fixed: dict[str, Any] = {
        "log_level": "error",
        "access_log": False,
        "timeout_graceful_shutdown": 30,
    }
    fixed["proxy_headers"] = False  # clients are neither logged nor identified
    return uvicorn.Config(app, http=protocol, ws="none", server_header=False, **{**fixed, **words})
