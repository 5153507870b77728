"""A request goes through the server from one file to the next, and hardly ever back."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from starlette.testclient import TestClient

import breedlab
from breedlab.serving import handler
from breedlab.serving.model import Model
from breedlab.serving.server import make_app

ROOT = str(Path(breedlab.__file__).parent) + "/"
STAGES = [
    "serving/server.py",
    "serving/access.py",
    "serving/invocations.py",
    "serving/request_parser.py",
    "serving/file_checks.py",
    "serving/scoring.py",
    "serving/structure.py",
    "serving/model.py",
    "data/decode.py",
    "data/transforms.py",
    "serving/engines.py",
    "serving/answers.py",
    "serving/response.py",
]
"""In the order in which a request first comes to them."""
AGAIN = {
    # The answer goes out where the request came in; between its last steps, another thread may be
    # seen.
    "serving/server.py": 4,
    "serving/file_checks.py": 2,  # its content type first, all else on a thread that may take long
    "serving/scoring.py": 5,  # to that thread, to the engine, back to the loop; on to the next
}


class Route:
    """The files of breedlab that calls lead to, in order; a call in the same file is no move."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self._known: dict[int, FrameType] = {}  # a coroutine that goes on is not called again

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(ROOT) or id(frame) in self._known:
            return
        if code.co_name.startswith("<"):  # a comprehension
            return
        self._known[id(frame)] = frame
        file = code.co_filename.removeprefix(ROOT)
        if not self.files or self.files[-1] != file:
            self.files.append(file)


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


def test_a_request_passes_each_stage_in_turn(model: Model, image: bytes) -> None:
    route = Route()
    with followed(route), TestClient(make_app(model)) as client:
        for _ in range(2):  # the first one sets much up
            route.files.clear()
            answer = client.post(
                "/invocations", content=image, headers={"Content-Type": "image/jpeg"}
            )
        files = list(route.files)  # before the server stops
    assert answer.status_code == 200
    assert list(dict.fromkeys(file for file in files if file in STAGES)) == STAGES
    again = {file: n for file, n in Counter(files).items() if n > AGAIN.get(file, 1)}
    assert again == {}, files


def test_it_does_so_in_a_container_too(model: Model, image: bytes) -> None:
    route = Route()
    with followed(route):
        images = handler.input_fn(image, "image/jpeg")
        handler.output_fn(handler.predict_fn(images, model), "application/json")
    again = {file: count for file, count in Counter(route.files).items() if count > 1}
    # The container calls three functions; the second one computes once all images are prepared.
    assert again == {
        "serving/handler.py": 3,
        "serving/file_checks.py": 2,
        "serving/model.py": 2,
        "serving/response.py": 2,
    }
