"""A request to the server, from its arrival to its answer: who may ask is let in, the body is read
and parsed, its images are scored, and the scores are written as the client accepts them.

Each stage is passed once and called from here; no stage calls one before it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import sys
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import prometheus_client as prometheus
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from breedlab.commands import command
from breedlab.serving.access import HOST
from breedlab.serving.model import Model
from breedlab.serving.refusals import BadRequest, ClientGone, Overloaded, error_body
from breedlab.serving.request_parser import BodyReader, parse
from breedlab.serving.response import answered
from breedlab.serving.scoring import Scorer

INVOCATIONS = "/invocations"
CAPACITY = 128
"""Images in progress or queued; above it a client is asked to try again."""
CLIENT_GONE = 499
"""For the log: the client hung up before it had an answer. nginx's number."""
_OPEN = re.compile(r"/|/ping|/page/[^/]*|/docs(/.*)?|/openapi\.json|/static-offline-docs/.*")
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Accept, Authorization, Content-Type, X-API-Key",
    "Access-Control-Max-Age": "600",
}

Headers = Iterable[tuple[bytes, bytes]]


class Metrics:
    """The metrics that /metrics reports to Prometheus."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "breedlab_requests", "Answered requests.", ["path", "status"], registry=self.registry
        )
        self.seconds = prometheus.Histogram(
            "breedlab_request_seconds", "From request to answer.", ["path"], registry=self.registry
        )
        self.images = prometheus.Counter(
            "breedlab_photos", "Images accepted.", registry=self.registry
        )
        self.open = prometheus.Gauge(
            "breedlab_open_photos", "Images in progress or queued.", registry=self.registry
        )

    def record(
        self, method: str, path: str, status: int, seconds: float, state: Mapping[str, int]
    ) -> None:
        """Count a request, and print its log line."""
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)
        self.images.inc(state.get("accepted", 0))
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "method": method,
            "path": path,
            "status": status,
            "ms": round(1000 * seconds, 1),
            "bytes": state.get("bytes", 0),
            "photos": state.get("images", 0),
        }
        print(json.dumps(line), flush=True)


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

    The page's own files, the documentation, and `/ping` need no key: they hold nothing of the
    model, and a load balancer has none.

    A browser sends what any page tells it to, also to loopback. A page of another origin is known
    by its Origin header; one whose name was pointed at 127.0.0.1 once it was loaded (DNS rebinding)
    by the Host header, which still has that name.

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
    match = HOST.fullmatch(host)
    return match[1].rstrip(".") if match else ""


class App:
    """The server's application: it answers `POST /invocations` itself, passes the rest to FastAPI,
    and records every request.

    FastAPI and its layers take as long for a request as everything else except decoding and
    computing, and `/invocations` only needs its documentation.

    Args:
        rest: What answers all other paths.
        model: What answers that one.
        reader: Reads the bodies.
        scorer: Computes the scores.
        metrics: Where requests are recorded.
        access: Whom it answers.
        capacity: Images in progress or queued at once; requests beyond it are refused.

    Attributes:
        open: Number of images in progress or queued.
    """

    def __init__(
        self,
        rest: ASGIApp,
        model: Model,
        reader: BodyReader,
        scorer: Scorer,
        metrics: Metrics,
        access: Access,
        capacity: int = CAPACITY,
    ) -> None:
        self._rest, self._model, self._reader, self._scorer = rest, model, reader, scorer
        self._metrics, self._access, self._capacity = metrics, access, capacity
        self.open = 0

    def refused(self, status: int) -> None:
        """Record a request that never got this far."""
        self._metrics.record("refused", "other", status, 0.0, {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._rest(scope, receive, send)
        started, status = time.perf_counter(), 0
        reply, shared = self._access.admit(scope["method"], scope["path"], scope["headers"])
        scope["state"] = state = dict(scope.get("state", {}))

        def more() -> list[tuple[bytes, bytes]]:
            """Return what every answer's head says besides its own headers."""
            milliseconds = 1000 * (time.perf_counter() - started)
            return [*shared, (b"server-timing", f"total;dur={milliseconds:.1f}".encode())]

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *more()]
            await send(message)

        async def respond(response: Response) -> None:
            nonlocal status
            status = response.status_code
            response.raw_headers += more()
            await response(scope, receive, send)

        try:
            if reply is not None:
                await respond(replied(*reply))
            elif scope["path"] == INVOCATIONS and scope["method"] == "POST":
                request = Request(scope, receive)
                try:
                    response = await self.answer(request)
                except (BadRequest, Overloaded) as error:
                    response = await refuse(request, error)
                await respond(response)
            else:
                await self._rest(scope, receive, noted)
        except (ClientGone, ClientDisconnect):
            status = CLIENT_GONE
        except Exception as error:  # reported here, not to the client
            print(
                json.dumps({"error": f"{type(error).__name__}: {error}"}),
                file=sys.stderr,
                flush=True,
            )
            if not status:
                await respond(replied(500, "the server failed; its log says more"))
        # Not the path that the client typed: each of those would become a separate time series.
        path = (
            INVOCATIONS
            if scope["path"] == INVOCATIONS
            else getattr(scope.get("route"), "path", "other")
        )
        seconds = time.perf_counter() - started
        self._metrics.record(scope["method"], path, status or CLIENT_GONE, seconds, state)

    async def answer(self, request: Request) -> Response:
        """Return the answer to `POST /invocations`.

        Raises:
            BadRequest: If it cannot be answered.
            Overloaded: If more is open than is taken on.
            ClientGone: If the client hung up.
        """
        if self.open >= self._capacity:
            raise Overloaded  # before its body is read
        headers, state = request.headers, request.state
        verbose, accept = _verbose(request), headers.get("accept", "")
        kind, encoding = headers.get("content-type", ""), headers.get("content-encoding", "")
        async with self._reader.body(request.receive, headers.get("content-length", "")) as body:
            state.bytes = len(body)
            images = parse(body, kind, self._reader.max_bytes, encoding)
            state.images = count = len(images)
            if self.open + count > self._capacity:
                raise Overloaded
            state.accepted = count
            self.open += count
            try:
                results = await self._scorer.scores(images)
            finally:
                self.open -= count
        content, media_type = answered(results, self._model).written(accept, verbose)
        return Response(content, media_type=media_type)


def _verbose(request: Request) -> bool:
    # Parsing the query takes as long as writing the answer.
    if b"verbose=" not in request.scope["query_string"]:
        return False
    return request.query_params.get("verbose") in ("1", "true")


async def refuse(_request: Request, error: Exception) -> Response:
    """Return the error response for a client."""
    match error:
        case BadRequest():
            return refused(error)
        case HTTPException():
            return replied(error.status_code, str(error.detail), dict(error.headers or {}))
        case _:
            return replied(
                503,
                "too many images at once; try again in a second",
                {"Retry-After": "1"},
            )


def refused(error: BadRequest) -> Response:
    """Return the response to a request that cannot be answered."""
    return JSONResponse(error.answer(), status_code=error.status)


def replied(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response without an answer; without a message, it has no body."""
    if not message:
        return Response(status_code=status, headers=headers)
    return JSONResponse(error_body(status, message), status_code=status, headers=headers)
