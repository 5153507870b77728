"""From a request's images to their scores: they are fetched, decoded, and computed together with
what else is waiting.

An image is decoded on one of several threads, which then computes, too. One model serves many
requests: an image alone when the model is idle, else with what has queued. No timer holds an image
back.
"""

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

from breedlab import hardware
from breedlab.data.decode import ImageError, decode
from breedlab.serving import file_checks
from breedlab.serving.engine_kinds import Compute
from breedlab.serving.fetch import Address, NotFetched
from breedlab.serving.model import Model
from breedlab.serving.refusals import BadImage
from breedlab.serving.request_parser import RequestImage

MAX_FETCHES = 8
"""Images fetched at once."""
_LARGE = 4_000_000
"""Pixels above which an image is decoded separately: it must not hold up the others."""
_LARGE_TOGETHER = 50_000_000
"""Pixels of all large images being decoded at once; each may take a dozen bytes."""

Scores = asyncio.Future[np.ndarray[Any, Any]]
"""A future of an image's row of the model's engine."""
Result = np.ndarray[Any, Any] | BadImage
Computed = np.ndarray[Any, Any] | Exception

_MOST_APART = 8
"""The largest batch for one part of the cores. On processors with AMX an image of eight takes a
tenth less time than one of four; in a larger batch each image would wait for the last."""


class Batcher:
    """A queue of images whose scores are computed on threads, so that the server continues reading
    and decoding.

    A lone image gets all cores. Once there are as many images as parts that the engine splits the
    cores into, each part computes its own batches, of its share of the images or of
    `_MOST_APART`: no core waits for another, and while one decodes the next computes.

    Threads that decode add their images themselves, and then compute what can be computed; a
    batch's answers go back together: each trip through the event loop, or to another thread, would
    cost an image as much as all the rest of serving it.

    Args:
        model: Whose scores are wanted.
        most: Images in one batch of all cores.
    """

    def __init__(self, model: Model, most: int = 32) -> None:
        self._model, self._most = model, most
        self._free = model.engine.split()
        self._parts = len(self._free)
        self._queue: deque[tuple[torch.Tensor, Scores]] = deque()
        self._coming = 0
        self._computed = 0  # images that are being computed
        # On a CPU, a pass that starts while the next images are being decoded takes cores from
        # them, and they miss the batch; a GPU would only idle.
        self._waits = model.device.type == "cpu"
        self._ended = False
        self._changed = threading.Condition()
        names = ["model", *(f"model-{part}" for part in range(self._parts))]
        self._threads = [threading.Thread(target=self._serve, name=name) for name in names]

    def start(self) -> None:
        """Start answering; call this inside the running loop."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads; call this once no request is open any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def expect(self) -> None:
        """Announce an image that is being decoded, so that a batch that is not full may wait for
        it."""
        with self._changed:
            self._coming += 1

    def withdraw(self) -> None:
        """Announce that an expected image does not come."""
        with self._changed:
            self._coming -= 1
            self._wake()

    def add(self, image: torch.Tensor, scores: Scores) -> None:
        """Queue an image, uint8 (3, side, side), for scoring; from any thread."""
        with self._changed:
            self._queue.append((image, scores))
            self._wake()

    def add_expected(self, image: torch.Tensor, scores: Scores) -> None:
        """Queue an image that was expected, as `add` does; from a thread that decodes, which then
        computes, too."""
        with self._changed:
            self._coming -= 1
            self._queue.append((image, scores))
            if not self._parts:  # torch has only one thread here
                return self._wake()
        self._run_all()

    def _wake(self) -> None:
        if self._next():
            self._changed.notify()

    def _next(self) -> tuple[int, bool] | None:
        """Return how many images to compute now, and whether on one part of the cores instead of
        all; None if it is not yet time."""
        waiting = len(self._queue)
        if not waiting:
            return None
        known = waiting + self._coming + self._computed
        if not self._parts or known < self._parts:
            is_time = not self._computed and not self._is_early(self._most)
            return (min(self._most, waiting), False) if is_time else None
        share = min(_MOST_APART, -(-known // self._parts))
        if not self._free or self._is_early(share):
            return None
        if not self._coming:  # no part is left idle
            share = min(_MOST_APART, -(-waiting // len(self._free)))
        return share, True

    def _is_early(self, full: int) -> bool:
        """Return whether a batch should wait for images that are being decoded."""
        return self._waits and self._coming > 0 and len(self._queue) < full

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._next())
                if self._ended:
                    return
            self._run_all()

    def _run_all(self) -> None:
        """Compute on this thread as long as there is something to compute now."""
        with self._changed:
            taken = self._take()
        while taken is not None:
            batch, compute, apart = taken
            # some clients have gone
            pending = [(image, future) for image, future in batch if not future.done()]
            answer = self._rows(compute, [image for image, _ in pending]) if pending else None
            with self._changed:
                self._computed -= len(batch)
                if apart:
                    self._free.append(compute)
                taken = self._take()
            if answer is not None:
                self._loop.call_soon_threadsafe(_deliver, [future for _, future in pending], answer)

    def _take(self) -> tuple[list[tuple[torch.Tensor, Scores]], Compute, bool] | None:
        """Take from the queue what to compute now; return it, what computes it, and whether that is
        one part of the cores. None if it is not yet time."""
        if (following := self._next()) is None:
            return None
        count, apart = following
        batch = [self._queue.popleft() for _ in range(count)]
        compute = self._free.pop() if apart else self._model.engine.scores
        self._computed += count
        self._wake()  # another part may be free, too
        return batch, compute, apart

    def _rows(self, compute: Compute, images: list[torch.Tensor]) -> Computed:
        try:
            # With numpy: to copy so little, torch would wake threads that then keep the cores of
            # others busy.
            return compute(torch.from_numpy(np.stack([image.numpy() for image in images]))).numpy()
        except Exception as error:  # each request gets the error, and the next batch may succeed
            return error


def _deliver(futures: list[Scores], answer: Computed) -> None:
    for number, future in enumerate(futures):
        if future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer[number])


class Scorer:
    """The path from a request's images to their scores.

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

    async def scores(self, images: Sequence[RequestImage]) -> list[Result]:
        """Return the scores of each of a request's images, or why it has none; one that fails does
        not affect the others."""
        count = len(images)
        if count == 1:
            return [await self._tried(images[0], 0, 1)]
        jobs = [
            asyncio.ensure_future(self._tried(image, index, count))
            for index, image in enumerate(images)
        ]
        try:
            return await asyncio.gather(*jobs)
        finally:
            for job in jobs:  # the client has gone, or the server failed
                job.cancel()

    async def _tried(self, image: RequestImage, index: int, count: int) -> Result:
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
            prepared = await loop.run_in_executor(
                self._decoding_large, lambda: self._model.transform(decode(content))
            )
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
            # Laid out here, on one of many threads, since a batch is put together on one of few.
            prepared = self._model.transform(decode(image)).contiguous()
        except BaseException as error:
            self._batcher.withdraw()
            loop.call_soon_threadsafe(_fail, scores, error)
        else:
            self._batcher.add_expected(prepared, scores)


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
