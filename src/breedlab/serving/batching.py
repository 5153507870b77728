"""One model for many requests: alone when idle, what has queued together when not. No timer holds a photo back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch

from breedlab.serving.handler import Model

Waiting = tuple[torch.Tensor, "asyncio.Future[torch.Tensor]"]


class Batcher:
    """Computes scores on a thread of its own, so that the server goes on reading and decoding.

    Args:
        model: Whose `scores` are wanted.
        most: Photos in one batch.
    """

    def __init__(self, model: Model, most: int = 32) -> None:
        self.model, self.most = model, most
        self._queue: deque[Waiting] = deque()
        self._coming = 0
        # On a CPU, a pass that starts while the next photos are being decoded takes its cores from them, and they miss
        # it; a GPU has nothing better to do.
        self._waits = model.device.type == "cpu"
        self._changed = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to answer; call it inside the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._serve())

    async def stop(self) -> None:
        """Ends once no request is open any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown()

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """While it is open a photo is being decoded that a batch which is not yet full may wait for."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1
            self._changed.set()

    async def scores(self, photos: list[torch.Tensor]) -> torch.Tensor:
        """Logits (n, classes) of uint8 photos (3, side, side)."""
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in photos]
        self._queue.extend(zip(photos, futures, strict=True))
        self._changed.set()
        return torch.stack(await asyncio.gather(*futures))

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._queue or (self._waits and self._coming and len(self._queue) < self.most):
                self._changed.clear()
                await self._changed.wait()
            batch = [self._queue.popleft() for _ in range(min(self.most, len(self._queue)))]
            wanted = [(photo, future) for photo, future in batch if not future.done()]  # some clients have gone
            if not wanted:
                continue
            try:
                # By numpy: for copying so little, torch would wake threads that then burn the cores of others.
                stacked = torch.from_numpy(np.stack([photo.numpy() for photo, _ in wanted]))
                rows = await loop.run_in_executor(self._thread, self.model.scores, stacked)
            except Exception as error:  # each of them is told, and the next batch may fare better
                for _, future in wanted:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), row in zip(wanted, rows, strict=True):
                if not future.done():
                    future.set_result(row)
