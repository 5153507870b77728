"""What comes in, within limits: bodies of requests, photos by their address, and photos being decoded."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import torch
from fastapi import Request

from breedlab.serving import handler
from breedlab.serving.batching import Batcher
from breedlab.serving.handler import BadRequest, Model, Photo

BODY_SECONDS = 30.0
"""A body that has not come in by then is not waited for."""
MAX_HELD = 256_000_000
"""Bytes of all bodies and fetched photos together, before they are decoded."""
MAX_FETCHES = 8
"""Photos fetched at once."""
_LARGE = 4_000_000
"""Pixels from which on a photo is decoded apart: it must not hold up the others."""
_LARGE_TOGETHER = 50_000_000
"""Pixels of all large photos being decoded at once; each may take a dozen bytes."""


class Overloaded(Exception):
    """More than is taken on."""


class Intake:
    """Reads the bodies of requests.

    Args:
        max_bytes: Of a body.
        max_held: Bytes of all that is held at once.
        seconds: In which a body has to come in.
    """

    def __init__(self, max_bytes: int, max_held: int = MAX_HELD, seconds: float | None = None) -> None:
        self.max_bytes, self._max_held = max_bytes, max_held
        self._seconds = BODY_SECONDS if seconds is None else seconds
        self._held = 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """A request's body, held as long as the context is open.

        Raises:
            BadRequest: 413 if it is too large, 408 if it does not come in.
            Overloaded: If too much is held already.
        """
        size, parts = 0, []
        try:
            if _announced(request) > self.max_bytes:
                raise self._too_large()
            try:
                async with asyncio.timeout(self._seconds):
                    async for part in request.stream():
                        size += len(part)
                        self._held += len(part)
                        if size > self.max_bytes:
                            raise self._too_large()
                        if self._held > self._max_held:
                            raise Overloaded
                        parts.append(part)
            except TimeoutError as error:
                raise BadRequest(408, f"the body did not come in within {self._seconds:g} seconds") from error
            yield b"".join(parts)
        finally:
            self._held -= size

    def _too_large(self) -> BadRequest:
        return BadRequest(413, f"the body is larger than the {self.max_bytes:,} bytes that are read")


def _announced(request: Request) -> int:
    word = request.headers.get("content-length", "0")
    return int(word) if word.isascii() and word.isdigit() else 0


class Preparation:
    """From photos as a request names them to what the network takes: fetched, decoded, resized, on threads.

    Args:
        model: Whose transform and rules of fetching apply.
        batcher: Is told how many photos will be with it in a moment.
    """

    def __init__(self, model: Model, batcher: Batcher) -> None:
        self._model, self._batcher = model, batcher
        cores = os.cpu_count() or 1
        self._fetching = ThreadPoolExecutor(MAX_FETCHES, thread_name_prefix="fetch")
        self._decoding = decoders(cores, "decode")
        self._decoding_large = decoders(cores, "decode-large")
        self._gate = _Gate(_LARGE_TOGETHER)

    def stop(self) -> None:
        """Ends the threads."""
        for threads in (self._fetching, self._decoding, self._decoding_large):
            threads.shutdown(cancel_futures=True)

    async def prepare(self, photos: Sequence[Photo]) -> list[torch.Tensor]:
        """One uint8 (3, side, side) a photo.

        Raises:
            BadRequest: 4xx if one of them is none, or must not or cannot be fetched.
        """
        count = len(photos)
        if count == 1:
            return [await self._prepare(photos[0], 1, 1)]
        jobs = [asyncio.ensure_future(self._prepare(photo, n, count)) for n, photo in enumerate(photos, 1)]
        try:
            return list(await asyncio.gather(*jobs))
        finally:
            for job in jobs:  # one bad photo, and the others are not worth the work
                job.cancel()

    async def fetch(self, photo: Photo, number: int = 1, count: int = 1) -> bytes:
        """The bytes of a photo, fetched if need be."""
        if isinstance(photo, bytes):
            return photo
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._fetching, handler.fetched, self._model, photo, number, count)

    async def _prepare(self, photo: Photo, number: int, count: int) -> torch.Tensor:
        loop = asyncio.get_running_loop()
        content = await self.fetch(photo, number, count)
        with self._batcher.expecting():
            found = await loop.run_in_executor(self._decoding, self._unless_large, content, number, count)
        if isinstance(found, torch.Tensor):
            return found
        async with self._gate.passage(found):
            return await loop.run_in_executor(self._decoding_large, self._whole, content, number, count)

    def _unless_large(self, photo: bytes, number: int, count: int) -> torch.Tensor | int:
        pixels = handler.inspect(photo, number, count)
        return pixels if pixels > _LARGE else self._whole(photo, number, count)

    def _whole(self, photo: bytes, number: int, count: int) -> torch.Tensor:
        # Laid out here, on one of many threads, as the batcher's single one would have to.
        return handler.prepare(self._model, photo, number, count).contiguous()


def decoders(count: int, name: str) -> ThreadPoolExecutor:
    """Threads on which torch computes alone: a photo is no work for two, and the second burns its core waiting."""
    before, ready = torch.get_num_threads(), threading.Barrier(count + 1)

    def begin() -> None:
        torch.set_num_threads(1)  # this thread's, and that of all that begin later
        ready.wait()

    threads = ThreadPoolExecutor(count, thread_name_prefix=name)
    for _ in range(count):
        threads.submit(begin)
    ready.wait()
    torch.set_num_threads(before)
    return threads


class _Gate:
    """Lets through as many as weigh no more than `limit` together, in the order in which they came."""

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
