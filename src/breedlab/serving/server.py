"""The endpoint on this machine, on SageMaker's contract: GET /ping, POST /invocations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import prometheus_client as prometheus
from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from breedlab.data.decode import keep_memory
from breedlab.serving import page
from breedlab.serving.invocations import CAPACITY, INVOCATIONS, Access, App, Metrics, refuse
from breedlab.serving.model import Model
from breedlab.serving.openapi import REQUEST_BODY, RESPONSES
from breedlab.serving.refusals import BadRequest, Overloaded
from breedlab.serving.request_parser import MAX_BYTES, MAX_HELD, BodyReader
from breedlab.serving.scoring import Batcher, Scorer


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
        return await server.answer(request)

    app.include_router(page.router(model, reader=reader, scorer=scorer))
    server = App(app, model, reader, scorer, metrics, access or Access(), capacity)
    metrics.open.set_function(lambda: server.open)
    return server
