"""Which images are computed when, by what part of the cores."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import pytest
import torch

from breedlab.serving.model import Model
from breedlab.serving.scoring import Batcher


@dataclass
class Engine:
    """Scores are the image's first value; computations wait until they may go on, and are noted."""

    parts: int
    calls: list[tuple[str, list[int]]] = field(default_factory=list)
    may_go_on: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def engine(self) -> Engine:
        return self

    def split(self) -> list[Callable[[torch.Tensor], torch.Tensor]]:
        return [partial(self._compute, "a part") for _ in range(self.parts)]

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        return self._compute("all cores", images)

    def _compute(self, way: str, images: torch.Tensor) -> torch.Tensor:
        values = images[:, 0, 0, 0].tolist()
        self.calls.append((way, values))
        assert self.may_go_on.acquire(timeout=20)
        if 113 in values:
            raise RuntimeError("no scores for 113")
        return images[:, 0, 0, :1].float()


@asynccontextmanager
async def batching(engine: Engine) -> AsyncIterator[Callable[[int], asyncio.Future[Any]]]:
    """Gives what hands an image in and returns its future scores."""
    batcher, loop = Batcher(cast(Model, engine)), asyncio.get_running_loop()
    batcher.start()

    def ask(value: int) -> asyncio.Future[Any]:
        scores: asyncio.Future[Any] = loop.create_future()
        batcher.add(torch.full((3, 2, 2), value, dtype=torch.uint8), scores)
        return scores

    try:
        yield ask
    finally:
        for _ in range(50):
            engine.may_go_on.release()
        batcher.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def run(test: Callable[[], Any]) -> None:
    asyncio.run(test())


def test_a_lone_image_has_all_cores_again_and_again() -> None:
    async def test() -> None:
        engine = Engine(parts=2)
        async with batching(engine) as ask:
            for value in (1, 2, 3):
                engine.may_go_on.release()
                assert (await ask(value)).tolist() == [value]
        assert engine.calls == [("all cores", [1]), ("all cores", [2]), ("all cores", [3])]

    run(test)


def test_a_second_image_does_not_wait_for_the_first() -> None:
    async def test() -> None:
        engine = Engine(parts=2)
        async with batching(engine) as ask:
            first = ask(1)
            await until(lambda: len(engine.calls) == 1)
            second = ask(2)
            await until(lambda: len(engine.calls) == 2)
            assert engine.calls == [("all cores", [1]), ("a part", [2])]
            assert not first.done() and not second.done()

    run(test)


def test_parts_take_a_few_each_in_the_order_of_arrival_and_never_more_than_there_are() -> None:
    async def test() -> None:
        engine = Engine(parts=2)
        async with batching(engine) as ask:
            busy = [ask(1)]
            await until(lambda: len(engine.calls) == 1)
            busy += [ask(2), ask(3)]
            await until(lambda: len(engine.calls) == 3)
            waiting = [ask(value) for value in range(20, 32)]
            await asyncio.sleep(0.05)
            assert len(engine.calls) == 3  # all parts have something to do
            for _ in range(50):
                engine.may_go_on.release()
            assert [scores.tolist() for scores in await asyncio.gather(*busy, *waiting)] == [
                [value] for value in (1, 2, 3, *range(20, 32))
            ]
        taken = [values for way, values in engine.calls[3:]]
        assert sorted(value for values in taken for value in values) == list(range(20, 32))
        assert all(values == [*range(values[0], values[0] + len(values))] for values in taken)
        assert max(map(len, taken)) <= 8  # more are no faster, and all would wait for the last

    run(test)


@pytest.mark.parametrize(("there", "share"), [(8, 4), (9, 5), (40, 8)])
def test_a_part_begins_with_its_share_while_others_are_still_being_decoded(
    there: int, share: int
) -> None:
    async def test() -> None:
        engine = Engine(parts=2)
        batcher, loop = Batcher(cast(Model, engine)), asyncio.get_running_loop()
        batcher.start()
        answers: list[asyncio.Future[Any]] = [loop.create_future() for _ in range(there)]

        async def decoded(value: int) -> None:
            image = torch.full((3, 2, 2), value, dtype=torch.uint8)
            await loop.run_in_executor(None, batcher.add_expected, image, answers[value])

        for _ in answers:
            batcher.expect()
        for value in range(share - 1):
            await decoded(value)
        assert engine.calls == []
        ahead = asyncio.create_task(decoded(share - 1))  # which computes, too
        await until(lambda: len(engine.calls) == 1)
        assert engine.calls == [("a part", [*range(share)])]
        for _ in answers:
            engine.may_go_on.release()
        await ahead
        for value in range(share, there):
            await decoded(value)
        assert [row.tolist() for row in await asyncio.gather(*answers)] == [
            [value] for value in range(there)
        ]
        batcher.stop()

    run(test)


def test_an_engine_that_has_no_parts_computes_one_batch_of_all_that_waits() -> None:
    async def test() -> None:
        engine = Engine(parts=0)
        async with batching(engine) as ask:
            first = ask(1)
            await until(lambda: len(engine.calls) == 1)
            others = [ask(value) for value in range(2, 42)]
            await asyncio.sleep(0.05)
            assert len(engine.calls) == 1
            for _ in range(3):
                engine.may_go_on.release()
            await asyncio.gather(first, *others)
        assert engine.calls == [
            ("all cores", [1]),
            ("all cores", [*range(2, 34)]),
            ("all cores", [*range(34, 42)]),
        ]

    run(test)


@pytest.mark.parametrize("parts", [0, 1, 2])
def test_a_batch_that_fails_is_told_and_the_next_is_answered(parts: int) -> None:
    async def test() -> None:
        engine = Engine(parts)
        async with batching(engine) as ask:
            for _ in range(2):
                engine.may_go_on.release()
            with pytest.raises(RuntimeError, match="no scores for 113"):
                await ask(113)
            assert (await ask(7)).tolist() == [7]

    run(test)
