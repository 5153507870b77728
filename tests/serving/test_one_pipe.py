"""A request goes through the server from one file to the next, and hardly ever back."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from starlette.testclient import TestClient

import breedlab
from breedlab.serving import handler
from breedlab.serving.access import allowed_hosts
from breedlab.serving.invocations import Access
from breedlab.serving.model import Model
from breedlab.serving.scoring import Batcher
from breedlab.serving.server import make_app

ROOT = str(Path(breedlab.__file__).parent) + "/"
KEY = "a-key-of-these-tests-0123456789"
TO_THE_ENGINE = [
    "serving/file_checks.py",
    "data/decode.py",
    "data/transforms.py",
]
ENGINES = {
    "eager fp32": [
        "serving/engine_output.py",
        "serving/engines/eager.py",
        "models/classifier.py",
    ],
    "openvino fp32": ["serving/engine_output.py", "serving/engines/openvino.py"],
}


class Route:
    """The files of breedlab that calls lead to, in order; what a file calls of its own is no
    move, nor is what it goes on to do once a call has come back."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self._known: dict[int, FrameType] = {}  # a coroutine that goes on is not called again

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        file = _ours(frame)
        if event != "call" or file is None or id(frame) in self._known:
            return
        # A thread that looks for its next batch serves no request.
        if frame.f_code is Batcher._next.__code__:
            return
        self._known[id(frame)] = frame
        if file not in (_caller(frame), *self.files[-1:]):
            self.files.append(file)


def _ours(frame: FrameType) -> str | None:
    """Return the file of breedlab that a frame runs; None if it is not breedlab's."""
    file = frame.f_code.co_filename
    return file.removeprefix(ROOT) if file.startswith(ROOT) else None


def _caller(frame: FrameType) -> str | None:
    """Return the file of breedlab that a call comes from, through whatever is between; None on a
    thread, or a turn of the event loop, that it begins."""
    back = frame.f_back
    while back is not None:
        if file := _ours(back):
            return file
        back = back.f_back
    return None


@contextmanager
def followed(route: Route) -> Iterator[None]:
    """Note calls on this thread, and on those that start meanwhile."""
    threading.setprofile(route.note)
    sys.setprofile(route.note)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


@pytest.fixture(params=ENGINES)
def served(request: pytest.FixtureRequest, folder: Path) -> Model:
    made = folder if request.param == "eager fp32" else request.getfixturevalue("with_openvino")
    model = Model(made)
    assert str(model.engine.choice) == request.param
    return model


def test_a_request_passes_each_stage_in_turn(served: Model, image: bytes) -> None:
    access = Access(KEY, hosts=allowed_hosts("127.0.0.1", "testserver"))
    sent = {"Content-Type": "image/jpeg", "X-API-Key": KEY}
    route, routes = Route(), []
    with followed(route), TestClient(make_app(served, access=access)) as client:
        for _ in range(20):
            route.files.clear()
            assert client.post("/invocations", content=image, headers=sent).status_code == 200
            routes.append(list(route.files))
    # The first one sets much up, and other threads may come in between.
    assert min(routes, key=len) == [
        "serving/invocations.py",
        "serving/request_parser.py",
        "serving/scoring.py",
        *TO_THE_ENGINE,
        *ENGINES[str(served.engine.choice)],
        "serving/scoring.py",  # from the thread that computed back to the request
        "serving/response.py",
    ]


def test_it_does_so_in_a_container_too(served: Model, image: bytes) -> None:
    route = Route()
    with followed(route):
        images = handler.input_fn(image, "image/jpeg")
        handler.output_fn(handler.predict_fn(images, served), "application/json")
    # The container calls three functions.
    assert route.files == [
        "serving/handler.py",
        "serving/request_parser.py",
        "serving/handler.py",
        *TO_THE_ENGINE,
        *ENGINES[str(served.engine.choice)],
        "serving/response.py",
        "serving/handler.py",
        "serving/response.py",
    ]
