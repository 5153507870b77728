"""One model for many requests: alone when idle, what has queued together when not. No timer holds a photo back."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

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
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue()
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

    async def scores(self, photos: list[torch.Tensor]) -> torch.Tensor:
        """Logits (n, classes) of uint8 photos (3, side, side)."""
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in photos]
        for item in zip(photos, futures, strict=True):
            self._queue.put_nowait(item)
        return torch.stack(await asyncio.gather(*futures))

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self.most and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            wanted = [(photo, future) for photo, future in batch if not future.done()]  # some clients have gone
            if not wanted:
                continue
            try:
                stacked = torch.stack([photo for photo, _ in wanted])
                rows = await loop.run_in_executor(self._thread, self.model.scores, stacked)
            except Exception as error:  # each of them is told, and the next batch may fare better
                for _, future in wanted:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), row in zip(wanted, rows, strict=True):
                if not future.done():
                    future.set_result(row)
