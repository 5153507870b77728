"""The endpoint on this machine, on SageMaker's contract: GET /ping, POST /invocations."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import prometheus_client as prometheus
import torch
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from breedlab.serving import handler, page
from breedlab.serving.batching import Batcher
from breedlab.serving.handler import BadRequest, Model

MAX_BYTES = 6_000_000
"""Of a request's body; what a SageMaker endpoint takes, too."""
CAPACITY = 128
"""Photos being worked on or waiting; above it a client is asked to come again."""

_PHOTO = {"type": "string", "format": "binary"}
_REQUEST_BODY = {
    "required": True,
    "content": {
        **{kind: {"schema": _PHOTO} for kind in handler.PHOTO_TYPES},
        handler.JSON: {"example": {"image": "<base64>"}, "schema": {"type": "object"}},
    },
}


class Overloaded(Exception):
    """More photos than are taken on."""


class Metrics:
    """What /metrics tells Prometheus."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "breedlab_requests", "Answered requests.", ["path", "status"], registry=self.registry
        )
        self.seconds = prometheus.Histogram(
            "breedlab_request_seconds", "From request to answer.", ["path"], registry=self.registry
        )
        self.photos = prometheus.Counter("breedlab_photos", "Photos taken on.", registry=self.registry)
        self.open = prometheus.Gauge("breedlab_open_photos", "Photos worked on or waiting.", registry=self.registry)


def make_app(model: Model, *, max_bytes: int = MAX_BYTES, capacity: int = CAPACITY) -> FastAPI:
    """The server's application around a loaded model.

    Args:
        model: What answers.
        max_bytes: Of a request's body.
        capacity: Photos worked on or waiting at once; requests beyond it get 503.
    """
    batcher, metrics = Batcher(model), Metrics()
    decoders = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode")
    open_photos = 0

    @asynccontextmanager
    async def running(_app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await batcher.stop()
        decoders.shutdown()

    # Its documentation page brings its own scripts; FastAPI's loads them from elsewhere.
    app = FastAPIOffline(title="breedlab", version="1", lifespan=running)

    @app.middleware("http")
    async def record(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        started = time.perf_counter()
        try:
            response = await proceed(request)
        except Exception as error:  # told here, not to the client
            response = _refusal(500, "the server failed; its log says more")
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=sys.stderr, flush=True)
        seconds = time.perf_counter() - started
        route = request.scope.get("route")
        path = getattr(route, "path", "other")  # not what the client typed: each name would be a series of its own
        metrics.requests.labels(path, response.status_code).inc()
        metrics.seconds.labels(path).observe(seconds)
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "method": request.method,
            "path": path,
            "status": response.status_code,
            "ms": round(1000 * seconds, 1),
            "bytes": getattr(request.state, "bytes", 0),
            "photos": getattr(request.state, "photos", 0),
        }
        print(json.dumps(line), flush=True)
        return response

    @app.exception_handler(BadRequest)
    async def bad_request(_request: Request, error: BadRequest) -> Response:
        return _refusal(error.status, str(error))

    @app.exception_handler(Overloaded)
    async def overloaded(_request: Request, _error: Overloaded) -> Response:
        return _refusal(503, "too many photos at once; try again in a second", {"Retry-After": "1"})

    @app.exception_handler(HTTPException)
    async def unknown(_request: Request, error: HTTPException) -> Response:
        return _refusal(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.get("/ping")
    async def ping() -> dict[str, str]:
        """Says that the model is loaded and answers."""
        return {"status": "healthy"}

    @app.get("/metrics")
    async def figures() -> Response:
        """Requests, latencies and open photos for Prometheus."""
        return Response(prometheus.generate_latest(metrics.registry), media_type=prometheus.CONTENT_TYPE_LATEST)

    @app.post("/invocations", openapi_extra={"requestBody": _REQUEST_BODY})
    async def invocations(request: Request) -> Response:
        """Scores of a photo, or of each in a list.

        Accept: `application/json` (an array of rows), `application/json; verbose=1` (names, probabilities, lineage)
        or `application/x-npy`.
        """
        nonlocal open_photos
        if open_photos >= capacity:
            raise Overloaded  # before its body is read
        body = await _body(request, max_bytes)
        request.state.bytes = len(body)
        photos = handler.input_fn(body, request.headers.get("content-type", ""))
        request.state.photos = len(photos)
        if open_photos + len(photos) > capacity:
            raise Overloaded
        open_photos += len(photos)
        metrics.open.set(open_photos)
        metrics.photos.inc(len(photos))
        try:
            answer = handler.Answer((await _scores(photos)).numpy(), model)
        finally:
            open_photos -= len(photos)
            metrics.open.set(open_photos)
        content, kind = handler.output_fn(answer, request.headers.get("accept", ""))
        return Response(content, media_type=kind)

    app.include_router(page.router(model, max_bytes=max_bytes))

    async def _scores(photos: list[bytes]) -> torch.Tensor:
        jobs = [
            decoders.submit(handler.prepare, model, photo, number, len(photos))
            for number, photo in enumerate(photos, 1)
        ]
        return await batcher.scores(list(await asyncio.gather(*map(asyncio.wrap_future, jobs))))

    return app


async def _body(request: Request, limit: int) -> bytes:
    """A request's body, read no further than the limit."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise BadRequest(413, f"the body is larger than the {limit:,} bytes that are read")
        parts.append(part)
    return b"".join(parts)


def _refusal(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status_code=status, headers=headers)
