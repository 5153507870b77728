"""The endpoint on this machine, on SageMaker's contract: GET /ping, POST /invocations."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import prometheus_client as prometheus
from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from breedlab.data.decode import keep_memory
from breedlab.serving import page
from breedlab.serving.access import Access
from breedlab.serving.invocations import (
    CAPACITY,
    MAX_HELD,
    BodyReader,
    Invocations,
    Overloaded,
    refused,
    replied,
)
from breedlab.serving.model import Model
from breedlab.serving.openapi import REQUEST_BODY, RESPONSES
from breedlab.serving.request_parser import MAX_BYTES as MAX_BYTES
from breedlab.serving.request_parser import BadRequest
from breedlab.serving.scoring import Batcher, Scorer

INVOCATIONS = "/invocations"
CLIENT_GONE = 499
"""For the log: the client hung up before it had an answer. nginx's number."""


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


class App:
    """The server's application: it answers `POST /invocations` itself, passes the rest to FastAPI,
    and records every request.

    FastAPI and its layers take as long for a request as everything else except decoding and
    computing, and `/invocations` only needs its documentation.

    Args:
        rest: What answers all other paths.
        invocations: What answers that one.
        metrics: Where requests are recorded.
        access: Whom it answers.
    """

    def __init__(
        self,
        rest: ASGIApp,
        invocations: Callable[[Request], Awaitable[Response]],
        metrics: Metrics,
        access: Access,
    ) -> None:
        self._rest, self._invocations = rest, invocations
        self._metrics, self._access = metrics, access

    def refused(self, status: int) -> None:
        """Record a request that never got this far."""
        self._metrics.record("refused", "other", status, 0.0, {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._rest(scope, receive, send)
        started, status = time.perf_counter(), 0
        reply, shared = self._access.admit(scope["method"], scope["path"], scope["headers"])
        scope["state"] = state = dict(scope.get("state", {}))

        async def timed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                dur = f"total;dur={1000 * (time.perf_counter() - started):.1f}".encode()
                more = [*shared, (b"server-timing", dur)]
                message["headers"] = [*message.get("headers", []), *more]
            await send(message)

        try:
            if reply is not None:
                await replied(*reply)(scope, receive, timed)
            elif scope["path"] == INVOCATIONS and scope["method"] == "POST":
                request = Request(scope, receive)
                try:
                    response = await self._invocations(request)
                except (BadRequest, Overloaded) as error:
                    response = await refuse(request, error)
                await response(scope, receive, timed)
            else:
                await self._rest(scope, receive, timed)
        except ClientDisconnect:
            status = CLIENT_GONE
        except Exception as error:  # reported here, not to the client
            print(
                json.dumps({"error": f"{type(error).__name__}: {error}"}),
                file=sys.stderr,
                flush=True,
            )
            if not status:
                await replied(500, "the server failed; its log says more")(scope, receive, timed)
        # Not the path that the client typed: each of those would become a separate time series.
        path = (
            INVOCATIONS
            if scope["path"] == INVOCATIONS
            else getattr(scope.get("route"), "path", "other")
        )
        seconds = time.perf_counter() - started
        self._metrics.record(scope["method"], path, status or CLIENT_GONE, seconds, state)


def make_app(
    model: Model,
    *,
    max_bytes: int = MAX_BYTES,
    capacity: int = CAPACITY,
    max_held: int = MAX_HELD,
    access: Access | None = None,
) -> App:
    """Return the server's application around a loaded model.

    Args:
        model: What answers.
        max_bytes: Of a request's body.
        capacity: Images worked on or waiting at once; requests beyond it get 503.
        max_held: Bytes of all bodies and fetched images together.
        access: Whom it answers; None for anyone.
    """
    keep_memory()
    batcher, metrics, reader = Batcher(model), Metrics(), BodyReader(max_bytes, max_held)
    scorer = Scorer(model, batcher)
    invocations = Invocations(model, reader, scorer, capacity)
    metrics.open.set_function(lambda: invocations.open)

    @asynccontextmanager
    async def running(_app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        batcher.stop()
        scorer.stop()

    # Its documentation page brings its own scripts; FastAPI's loads them from elsewhere.
    app = FastAPIOffline(title="breedlab", version="1", lifespan=running)

    for kind in (BadRequest, Overloaded, HTTPException):
        app.add_exception_handler(kind, refuse)

    @app.head("/ping", include_in_schema=False)  # as some load balancers ask
    @app.get("/ping")
    async def ping() -> dict[str, str]:
        """Return 200: the model is loaded."""
        return {"status": "healthy"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics_text() -> Response:
        """Return requests, latencies, and open images for Prometheus."""
        return Response(
            prometheus.generate_latest(metrics.registry), media_type=prometheus.CONTENT_TYPE_LATEST
        )

    @app.post(
        INVOCATIONS,
        openapi_extra={"requestBody": REQUEST_BODY},
        responses=RESPONSES,
        summary="Scores",
    )
    async def answer(request: Request) -> Response:
        """Return the scores of an image, or of each in a list.

        Accept: `application/json` (an array of rows), `application/json; verbose=1` (names,
        probabilities, lineage; `?verbose=1` is the same) or `application/x-npy`. In a list, an
        image that cannot be read has its error instead of its row; npy cannot express that
        and is refused.
        """
        return await invocations.answer(request)

    app.include_router(page.router(model, reader=reader, scorer=scorer))
    return App(app, invocations.answer, metrics, access or Access())


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
