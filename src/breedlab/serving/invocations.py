"""`POST /invocations`, from a request to its answer: its body is read, within limits; the images in
it are parsed and scored; the scores are written as the client accepts them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from breedlab.serving.model import Model
from breedlab.serving.request_parser import MAX_BYTES as MAX_BYTES
from breedlab.serving.request_parser import BadRequest, error_body, parse
from breedlab.serving.response import answered
from breedlab.serving.scoring import Scorer

BODY_SECONDS = 30.0
"""A body that has not come in by then is not waited for."""
MAX_HELD = 256_000_000
"""Bytes of all bodies and fetched images together, before they are decoded."""
CAPACITY = 128
"""Images in progress or queued; above it a client is asked to try again."""


class Overloaded(Exception):
    """More than is taken on."""


class Invocations:
    """The path of a request: body, images, scores, answer.

    It passes each stage once and calls it; no stage calls one before it.

    Args:
        model: What answers.
        reader: Reads the bodies.
        scorer: Computes the scores.
        capacity: Images in progress or queued at once; requests beyond it are refused.

    Attributes:
        open: Number of images in progress or queued.
    """

    def __init__(
        self, model: Model, reader: BodyReader, scorer: Scorer, capacity: int = CAPACITY
    ) -> None:
        self._model, self._reader, self._scorer = model, reader, scorer
        self._capacity = capacity
        self.open = 0

    async def answer(self, request: Request) -> Response:
        """Return the answer to a request.

        Raises:
            BadRequest: If it cannot be answered.
            Overloaded: If more is open than is taken on.
            ClientDisconnect: If the client hung up.
        """
        if self.open >= self._capacity:
            raise Overloaded  # before its body is read
        verbose, accept = _verbose(request), request.headers.get("accept", "")
        async with self._reader.body(request) as body:
            request.state.bytes = len(body)
            _refuse_other_encodings(request)
            images = parse(body, request.headers.get("content-type", ""), self._reader.max_bytes)
            request.state.images = count = len(images)
            if self.open + count > self._capacity:
                raise Overloaded
            request.state.accepted = count
            self.open += count
            try:
                results = await self._scorer.scores(images)
            finally:
                self.open -= count
        content, kind = answered(results, self._model).written(accept, verbose)
        return Response(content, media_type=kind)


def _refuse_other_encodings(request: Request) -> None:
    """Raise BadRequest for an encoding that is not read. Gzip is detected later by the first bytes,
    whatever the header says."""
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity", "gzip", "x-gzip"):
        raise BadRequest(
            415, f"content encoding {coding[:40]!r} is not read; send gzip, or the body as it is"
        )


def _verbose(request: Request) -> bool:
    # Parsing the query takes as long as writing the answer.
    if b"verbose=" not in request.scope["query_string"]:
        return False
    return request.query_params.get("verbose") in ("1", "true")


class BodyReader:
    """A reader of requests' bodies, within limits.

    Args:
        max_bytes: Of a body.
        max_held: Bytes of all bodies that are held at once.
        seconds: The time in which a body has to come in.
    """

    def __init__(
        self, max_bytes: int, max_held: int = MAX_HELD, seconds: float | None = None
    ) -> None:
        self.max_bytes, self._max_held = max_bytes, max_held
        self._seconds = BODY_SECONDS if seconds is None else seconds
        self.open_bytes = 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Read a request's body when the context is entered, and hold it until the context ends.

        Raises:
            BadRequest: 413 if it is too large, 408 if it does not come in.
            Overloaded: If too much is held already.
            ClientDisconnect: If the client hung up.
        """
        if _announced(request) > self.max_bytes:
            raise self._too_large()
        parts, size, more = [], 0, True
        try:
            try:
                async with asyncio.timeout(self._seconds):
                    while more:
                        message = await request.receive()
                        if message["type"] == "http.disconnect":
                            raise ClientDisconnect
                        part = message.get("body", b"")
                        size += len(part)
                        self.open_bytes += len(part)
                        if size > self.max_bytes:
                            raise self._too_large()
                        if self.open_bytes > self._max_held:
                            raise Overloaded
                        parts.append(part)
                        more = message.get("more_body", False)
            except TimeoutError as error:
                reason = f"the body did not come in within {self._seconds:g} seconds"
                raise BadRequest(408, reason) from error
            yield parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            self.open_bytes -= size

    def _too_large(self) -> BadRequest:
        return BadRequest(
            413, f"the body is larger than the {self.max_bytes:,} bytes that are read"
        )


def _announced(request: Request) -> int:
    word = request.headers.get("content-length", "0")
    return int(word) if word.isascii() and word.isdigit() else 0


def refused(error: BadRequest) -> Response:
    """Return the response to a request that cannot be answered."""
    return JSONResponse(error.answer(), status_code=error.status)


def replied(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response without an answer; without a message, it has no body."""
    if not message:
        return Response(status_code=status, headers=headers)
    return JSONResponse(error_body(status, message), status_code=status, headers=headers)
