"""One model for many requests: alone when it is idle, else together with what has queued. No timer
holds an image back."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Any

import numpy as np
import torch

from breedlab.serving.engines import Compute
from breedlab.serving.model import Model

Scores = asyncio.Future[np.ndarray[Any, Any]]
"""A future of an image's logits (classes,)."""
Answer = np.ndarray[Any, Any] | Exception

_MOST_APART = 4
"""Images in one batch of a part of the cores; more are no faster there, and all wait for the
last."""


class Batcher:
    """A queue of images whose scores are computed on threads, so that the server continues reading
    and decoding.

    A lone image gets all cores. Once there are as many images as parts that the engine splits the
    cores into, each part computes its own batches: no core waits for another, and while one decodes
    the next computes.

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
        if not waiting or (self._waits and self._coming and waiting < self._most):
            return None
        if self._parts and waiting + self._computed >= self._parts:
            if not self._free:
                return None
            # Half of a part's share: the rest balances the load of the parts.
            return min(_MOST_APART, -(-waiting // (2 * self._parts))), True
        if self._computed:
            return None
        return min(self._most, waiting), False

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._next())
                if self._ended:
                    return
            self._run_all()

    def _run_all(self) -> None:
        """Compute on this thread as long as there is something to compute now."""
        while True:
            with self._changed:
                if (following := self._next()) is None:
                    return
                count, apart = following
                batch = [self._queue.popleft() for _ in range(count)]
                compute = self._free.pop() if apart else self._model.engine.scores
                self._computed += count
                self._wake()  # another part may be free, too
            # some clients have gone
            pending = [(image, future) for image, future in batch if not future.done()]
            answer = _answer([image for image, _ in pending], compute) if pending else None
            with self._changed:
                self._computed -= count
                if apart:
                    self._free.append(compute)
            if answer is not None:
                self._loop.call_soon_threadsafe(_deliver, [future for _, future in pending], answer)


def _answer(images: list[torch.Tensor], compute: Compute) -> Answer:
    try:
        # With numpy: to copy so little, torch would wake threads that then keep the cores of others
        # busy.
        return compute(torch.from_numpy(np.stack([image.numpy() for image in images]))).numpy()
    except Exception as error:  # each request gets the error, and the next batch may succeed
        return error


def _deliver(futures: list[Scores], answer: Answer) -> None:
    for number, future in enumerate(futures):
        if future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer[number])
