"""One model for many requests: alone when idle, what has queued together when not. No timer holds a photo back."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Any

import numpy as np
import torch

from breedlab.serving.handler import Model

Scores = asyncio.Future[np.ndarray[Any, Any]]
"""Will hold a photo's logits (classes,)."""


class Batcher:
    """Computes scores on a thread of its own, so that the server goes on reading and decoding.

    Threads that decode hand their photos over themselves, and a batch's answers go back together: each way through
    the event loop would cost every photo as much as all the rest of serving it.

    Args:
        model: Whose `scores` are wanted.
        most: Photos in one batch.
    """

    def __init__(self, model: Model, most: int = 32) -> None:
        self._model, self._most = model, most
        self._queue: deque[tuple[torch.Tensor, Scores]] = deque()
        self._coming = 0
        self._computing = False
        # On a CPU, a pass that starts while the next photos are being decoded takes its cores from them, and they miss
        # it; a GPU has nothing better to do.
        self._waits = model.device.type == "cpu"
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="model")

    def start(self) -> None:
        """Begins to answer; call it inside the running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Ends; call it once no request is open any more."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def expect(self) -> None:
        """Says that a photo is being decoded, for which a batch that is not yet full may wait."""
        with self._changed:
            self._coming += 1

    def withdraw(self) -> None:
        """Says that a photo which was expected does not come."""
        with self._changed:
            self._coming -= 1
            self._wake()

    def add(self, photo: torch.Tensor, scores: Scores) -> None:
        """Takes a photo, uint8 (3, side, side), whose scores are wanted; from any thread."""
        with self._changed:
            self._queue.append((photo, scores))
            self._wake()

    def add_expected(self, photo: torch.Tensor, scores: Scores) -> None:
        """As `add`, of a photo that was expected; from a thread that decodes, on which a lone photo is computed, too.

        Waking another thread for it would cost a few percent of its time.
        """
        with self._changed:
            self._coming -= 1
            self._queue.append((photo, scores))
            if not (self._model.engine.brings_threads and len(self._queue) == 1 and self._may_begin()):
                return self._wake()
            batch = self._take()
        self._run(batch)

    def _wake(self) -> None:
        if self._may_begin():
            self._changed.notify()

    def _may_begin(self) -> bool:
        if self._computing or not self._queue:
            return False
        return not (self._waits and self._coming and len(self._queue) < self._most)

    def _take(self) -> list[tuple[torch.Tensor, Scores]]:
        self._computing = True
        return [self._queue.popleft() for _ in range(min(self._most, len(self._queue)))]

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._may_begin() or self._ended)
                if self._ended:
                    return
                batch = self._take()
            self._run(batch)

    def _run(self, batch: list[tuple[torch.Tensor, Scores]]) -> None:
        try:
            self._compute(batch)
        finally:
            with self._changed:
                self._computing = False
                self._wake()

    def _compute(self, batch: list[tuple[torch.Tensor, Scores]]) -> None:
        batch = [(photo, future) for photo, future in batch if not future.done()]  # some clients have gone
        if not batch:
            return
        try:
            # By numpy: for copying so little, torch would wake threads that then burn the cores of others.
            photos = torch.from_numpy(np.stack([photo.numpy() for photo, _ in batch]))
            answer: np.ndarray[Any, Any] | Exception = self._model.scores(photos).numpy()
        except Exception as error:  # each of them is told, and the next batch may fare better
            answer = error
        self._loop.call_soon_threadsafe(_deliver, [future for _, future in batch], answer)


def _deliver(futures: list[Scores], answer: np.ndarray[Any, Any] | Exception) -> None:
    for number, future in enumerate(futures):
        if future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer[number])
