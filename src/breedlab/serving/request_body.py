"""What comes in, within limits: bodies of requests, images by their URL, images being decoded."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import torch
from starlette.requests import ClientDisconnect, Request

from breedlab import hardware
from breedlab.data.decode import ImageError
from breedlab.serving import file_checks
from breedlab.serving.batching import Batcher, Scores
from breedlab.serving.fetch import Address, NotFetched
from breedlab.serving.model import Model
from breedlab.serving.request_parser import BadImage, BadRequest, RequestImage
from breedlab.serving.response import Answer, answered

BODY_SECONDS = 30.0
"""A body that has not come in by then is not waited for."""
MAX_HELD = 256_000_000
"""Bytes of all bodies and fetched images together, before they are decoded."""
MAX_FETCHES = 8
"""Images fetched at once."""
_LARGE = 4_000_000
"""Pixels above which an image is decoded separately: it must not hold up the others."""
_LARGE_TOGETHER = 50_000_000
"""Pixels of all large images being decoded at once; each may take a dozen bytes."""


class Overloaded(Exception):
    """More than is taken on."""


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

    def body(self, request: Request) -> Body:
        """Read a request's body when the context is entered, and hold it until the context ends."""
        return Body(self, request)

    async def read(self, body: Body, request: Request) -> bytes:
        """Read a body, and count the bytes held.

        Raises:
            BadRequest: 413 if it is too large, 408 if it does not come in.
            Overloaded: If too much is held already.
            ClientDisconnect: If the client hung up.
        """
        if _announced(request) > self.max_bytes:
            raise self._too_large()
        parts = []
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    part = message.get("body", b"")
                    body.size += len(part)
                    self.open_bytes += len(part)
                    if body.size > self.max_bytes:
                        raise self._too_large()
                    if self.open_bytes > self._max_held:
                        raise Overloaded
                    parts.append(part)
                    if not message.get("more_body"):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError as error:
            raise BadRequest(
                408, f"the body did not come in within {self._seconds:g} seconds"
            ) from error

    def _too_large(self) -> BadRequest:
        return BadRequest(
            413, f"the body is larger than the {self.max_bytes:,} bytes that are read"
        )


class Body:
    """The context of `BodyReader.body`."""

    def __init__(self, reader: BodyReader, request: Request) -> None:
        self._reader, self._request = reader, request
        self.size = 0

    async def __aenter__(self) -> bytes:
        try:
            return await self._reader.read(self, self._request)
        except BaseException:
            self._release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        self._reader.open_bytes -= self.size


def _announced(request: Request) -> int:
    word = request.headers.get("content-length", "0")
    return int(word) if word.isascii() and word.isdigit() else 0


class Preprocessor:
    """The path from a request's images to their scores: fetched, decoded and resized on threads,
    then batched.

    Args:
        model: Whose transform and rules of fetching apply.
        batcher: Computes the scores; it is told which images are about to arrive.
    """

    def __init__(self, model: Model, batcher: Batcher) -> None:
        self._model, self._batcher = model, batcher
        count = hardware.available()
        self._fetching = ThreadPoolExecutor(MAX_FETCHES, thread_name_prefix="fetch")
        self._decoding = decoders(count, "decode")
        self._decoding_large = decoders(count, "decode-large")
        self._gate = _Gate(_LARGE_TOGETHER)

    def stop(self) -> None:
        """End the threads."""
        for threads in (self._fetching, self._decoding, self._decoding_large):
            threads.shutdown(cancel_futures=True)

    async def answer(self, images: Sequence[RequestImage]) -> Answer:
        """Return the scores of a request's images; one that fails does not affect the others.

        Raises:
            BadRequest: 4xx if not one of them is an image, or they must not or cannot be fetched.
        """
        count = len(images)
        if count == 1:
            return answered([await self._tried(images[0], 0, 1)], self._model)
        jobs = [
            asyncio.ensure_future(self._tried(image, index, count))
            for index, image in enumerate(images)
        ]
        try:
            return answered(await asyncio.gather(*jobs), self._model)
        finally:
            for job in jobs:  # the client has gone, or the server failed
                job.cancel()

    async def _tried(
        self, image: RequestImage, index: int, count: int
    ) -> np.ndarray[Any, Any] | BadImage:
        """Return an image's scores, or why it has none."""
        if isinstance(image, BadImage):
            return image
        try:
            return await self._score(image)
        except (ImageError, NotFetched) as error:
            return BadImage(index, error, count)

    async def fetch(self, address: Address) -> bytes:
        """Return the bytes of the image at an address.

        Raises:
            NotFetched: If they must not or cannot be fetched.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._fetching, self._model.fetch, address.url)

    @asynccontextmanager
    async def apart(self, image: bytes) -> AsyncIterator[None]:
        """Wait until there is room to decode an image next to the large ones.

        Raises:
            ImageError: If it is not an image that should be decoded.
        """
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(self._decoding, file_checks.inspect, image)
        async with self._gate.passage(pixels):
            yield

    async def _score(self, image: bytes | Address) -> np.ndarray[Any, Any]:
        loop = asyncio.get_running_loop()
        content = image if isinstance(image, bytes) else await self.fetch(image)
        scores: Scores = loop.create_future()
        self._batcher.expect()
        self._decoding.submit(self._decode, content, scores, loop)
        try:
            return await scores
        except _Large as large:
            pixels = large.pixels
        async with self._gate.passage(pixels):
            prepared = await loop.run_in_executor(self._decoding_large, self._prepare, content)
        scores = loop.create_future()
        self._batcher.add(prepared, scores)
        return await scores

    def _decode(self, image: bytes, scores: Scores, loop: asyncio.AbstractEventLoop) -> None:
        try:
            if scores.done():  # another of the request's images was bad, and this one not begun
                raise asyncio.CancelledError
            pixels = file_checks.inspect(image)
            if pixels > _LARGE:
                raise _Large(pixels)
            prepared = self._prepare(image)
        except BaseException as error:
            self._batcher.withdraw()
            loop.call_soon_threadsafe(_fail, scores, error)
        else:
            self._batcher.add_expected(prepared, scores)

    def _prepare(self, image: bytes) -> torch.Tensor:
        # Laid out here, on one of many threads, since the batcher would do it on its single one.
        return self._model.prepare(image).contiguous()


class _Large(Exception):
    """An image that is too large to be decoded with the others."""

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels


def _fail(scores: Scores, error: BaseException) -> None:
    if not scores.done():
        scores.set_exception(error)


def decoders(count: int, name: str) -> ThreadPoolExecutor:
    """Return threads on which torch uses one core: an image is too little work for two, and the
    second would burn its core waiting."""
    before, ready = torch.get_num_threads(), threading.Barrier(count + 1)

    def begin() -> None:
        torch.set_num_threads(1)  # of this thread, and of all that start later
        ready.wait()

    threads = ThreadPoolExecutor(count, thread_name_prefix=name)
    for _ in range(count):
        threads.submit(begin)
    ready.wait()
    torch.set_num_threads(before)
    return threads


class _Gate:
    """A gate that lets through as many as weigh at most `limit` together, in the order in which
    they came."""

    def __init__(self, limit: int) -> None:
        self._free, self._limit = limit, limit
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def passage(self, weight: int) -> AsyncIterator[None]:
        weight = min(weight, self._limit)
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((weight, mine))
        self._open()
        try:
            await mine
            yield
        finally:
            if mine.done() and not mine.cancelled():
                self._free += weight
            self._open()

    def _open(self) -> None:
        while self._waiting:
            weight, first = self._waiting[0]
            if not first.cancelled():
                if weight > self._free:
                    return
                self._free -= weight
                first.set_result(None)
            self._waiting.popleft()
