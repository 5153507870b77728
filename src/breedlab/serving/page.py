"""The page: an image in, the most likely classes and what the model looked at out. Plain files,
nothing from elsewhere.

What the page shows it asks of the same server: `POST /invocations` for the scores, and the routes
here for the rest.
"""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from breedlab.data.decode import ImageError
from breedlab.evaluation.figures import interval, metric, shown_metrics
from breedlab.serving import file_checks
from breedlab.serving.fetch import Address, NotFetched
from breedlab.serving.grad_cam import Explainer, NotExplainable
from breedlab.serving.invocations import refused, replied
from breedlab.serving.model import Model
from breedlab.serving.model_card import tested
from breedlab.serving.refusals import BadImage, BadRequest, Malformed
from breedlab.serving.request_parser import FORM, JSON, BodyReader, parse
from breedlab.serving.scoring import Scorer

_FILES = Path(__file__).with_name("page")
_TYPES = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src"
        " 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_EXPLAIN = {
    "parameters": [{"name": "class", "in": "query", "schema": {"type": "integer", "minimum": 0}}],
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
}
_FETCH = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"url": {"type": "string", "format": "uri"}},
                    "required": ["url"],
                }
            }
        },
    }
}
_WAITING = 4
"""Explanations that are computed or waiting at once; one takes about as long as an answer, and
answers come first."""


def router(model: Model, *, reader: BodyReader, scorer: Scorer) -> APIRouter:
    """Return the page's routes.

    Args:
        model: What the server serves.
        reader: Reads the requests' bodies. The page makes images smaller that are too large for it.
        scorer: Fetches images by their address, and has room for those that are explained.
    """
    routes = APIRouter(tags=["page"])
    explainer = functools.cache(lambda: _explainer(model))
    waiting = 0
    fetches = model.fetch.is_open

    @routes.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(
            (_FILES / "index.html").read_bytes(), media_type="text/html", headers=_HEADERS
        )

    @routes.get("/page/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in _TYPES:
            return replied(404, f"the page has no file {name!r}")
        return Response((_FILES / name).read_bytes(), media_type=_TYPES[name], headers=_HEADERS)

    @routes.get("/model")
    async def about() -> dict[str, Any]:
        """Return which model this is, and what this server does with images."""
        explainable = await run_in_threadpool(explainer)
        test = tested(model)
        return {
            "name": model.network.architecture.name,
            "classes": list(model.classes),
            "engine": str(model.engine.choice),
            "lineage": model.public_lineage(),
            "test": {
                title: metric(name, test["metrics"][name])
                + (f" ({span})" if (span := interval(name, test)) else "")
                for name, title in shown_metrics(test).items()
            },
            "explains": isinstance(explainable, Explainer),
            "max_bytes": reader.max_bytes,
            "max_pixels": file_checks.MAX_PIXELS,
            "urls": fetches,
        }

    @routes.post("/explain", openapi_extra=_EXPLAIN)
    async def explain(request: Request) -> Response:
        """Return where in an image (the body: its bytes) the model saw a class (`?class=INDEX`,
        else the most likely).

        `heat` is Grad-CAM's map, 0 to 1; `box` is the part of the upright image that it covers, in
        fractions.
        """
        nonlocal waiting
        headers = request.headers
        try:
            async with reader.body(request.receive, headers.get("content-length", "")) as body:
                request.state.bytes = len(body)
                image = _single(body, headers.get("content-type", ""), reader.max_bytes)
                request.state.images = 1
                index = _index(request.query_params.get("class"), len(model.classes))
                # counted once all of it is here: half a request takes no slot
                if waiting >= _WAITING:
                    message = "too many explanations at once; try again in a second"
                    return replied(503, message, {"Retry-After": "1"})
                waiting += 1
                try:
                    async with scorer.apart(image):
                        explanation = await run_in_threadpool(
                            lambda: _explain(explainer(), image, index, model.classes)
                        )
                finally:
                    waiting -= 1
            return JSONResponse(explanation)
        except BadRequest as error:
            return refused(error)
        except ImageError as error:
            return refused(BadImage(0, error))

    @routes.post("/photo", openapi_extra=_FETCH)
    async def fetch_image(request: Request) -> Response:
        """Return the image at an address (the body: `{"url": ...}`), fetched by this server under
        its own rules."""
        try:
            if not fetches:
                raise BadRequest(400, "this model fetches no URLs; send the image's bytes")
            length = request.headers.get("content-length", "")
            async with reader.body(request.receive, length) as body:
                content = await scorer.fetch(_address(body))
            await run_in_threadpool(_inspect, content, "the file at that address")
        except BadRequest as error:
            return refused(error)
        except NotFetched as error:
            return refused(BadImage(0, error))
        kind = file_checks.format_of(content).lower()
        return Response(content, media_type=f"image/{kind}", headers=_HEADERS)

    return routes


def _explainer(model: Model) -> Explainer | NotExplainable:
    try:
        return Explainer(model.network, model.transform)
    except NotExplainable as error:
        return error


def _explain(
    explainer: Explainer | NotExplainable, image: bytes, index: int | None, classes: tuple[str, ...]
) -> dict[str, Any]:
    if isinstance(explainer, NotExplainable):
        raise BadRequest(501, str(explainer))
    started = time.perf_counter()
    explanation = explainer.explain(image, index)
    return {
        "class": classes[explanation.index],
        "index": explanation.index,
        "heat": explanation.heat.round(4).tolist(),
        "box": {
            "x": explanation.box.x,
            "y": explanation.box.y,
            "width": explanation.box.width,
            "height": explanation.box.height,
        },
        "photo": {"width": explanation.width, "height": explanation.height},
        "milliseconds": round(1000 * (time.perf_counter() - started), 1),
    }


def _inspect(image: bytes, name: str) -> None:
    try:
        file_checks.inspect(image)
    except ImageError as error:
        raise BadRequest(400, f"{name} {error}", error.code) from error


def _single(body: bytes, content_type: str, max_bytes: int) -> bytes:
    """Return the bytes of the one image of a request, sent in any form that `/invocations`
    reads."""
    # else it is an image, whatever it is called
    is_envelope = content_type.lower().startswith((JSON, FORM))
    images = parse(body, content_type if is_envelope else "application/octet-stream", max_bytes)
    if len(images) != 1 or not isinstance(images[0], bytes):
        raise BadRequest(400, "expected the bytes of one image")
    return images[0]


def _index(word: str | None, classes: int) -> int | None:
    if word is None:
        return None
    if not (word.isascii() and word.isdigit() and len(word) < 10 and int(word) < classes):
        raise BadRequest(
            400, f"class: got {word[:40]!r}; expected a class's index, 0 to {classes - 1}"
        )
    return int(word)


def _address(body: bytes) -> Address:
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed("the body is not JSON") from error
    if not (isinstance(tree, dict) and set(tree) == {"url"} and isinstance(tree["url"], str)):
        raise Malformed('expected {"url": "<address of an image>"}')
    return Address(tree["url"])
