"""Hostile files, bodies and connections at a server that goes on answering everyone else."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import psutil
import pytest
import uvicorn
from hostile import png, refused_bodies, refused_images, requests, saved
from hypothesis import HealthCheck, given
from PIL import Image
from test_fetch import PUBLIC, Host, says
from test_server import Server, encoded, scores

from breedlab.serving import grad_cam, request_parser
from breedlab.serving.fetch import Fetcher
from breedlab.serving.model import Model
from breedlab.serving.protocol import GuardedProtocol, settings
from breedlab.serving.request_parser import MAX_BYTES
from breedlab.serving.server import make_app


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    made = Server(folder)
    yield made
    made.stop()
    assert "Traceback" not in "".join(made.lines)


def alive(server: Server, model: Model, image: bytes) -> None:
    np.testing.assert_allclose(server.ask(image).json(), scores(model, image), rtol=1e-4, atol=1e-5)


def test_every_hostile_file_and_body_is_told_what_is_wrong_with_it(
    server: Server, model: Model, image: bytes
) -> None:
    process = psutil.Process(server.process.pid)
    server.ask(image)
    before = process.memory_info().rss
    cases = {
        name: (body, "application/octet-stream", 400, code, named)
        for name, (body, code, named) in refused_images().items()
    }
    for name, (body, kind, status, code, named) in [*cases.items(), *refused_bodies().items()]:
        answer = server.ask(body, kind)
        assert (answer.status, answer.json()["code"]) == (status, code), (name, answer.data)
        assert set(answer.json()) == {"error", "code"} and named in answer.json()["error"], name
        assert "Traceback" not in answer.json()["error"], name
        assert answer.headers["content-type"] == "application/json"
    alive(server, model, image)
    assert process.memory_info().rss - before < 200e6


def test_a_refused_body_is_one_line_and_one_count(server: Server, image: bytes) -> None:
    before = len(server.lines)
    raw = Raw(server.port, head(MAX_BYTES + 1, kind="image/png"), bytes(100_000))
    assert raw.read()[0] == 413
    raw.socket.close()
    server.ask(image)
    while '"status": 200' not in "".join(server.lines[before:]):
        time.sleep(0.01)
    assert [json.loads(line)["status"] for line in server.lines[before:]] == [413, 200]


@hypothesis.settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(sent=requests())
def test_any_request_gets_an_answer_in_the_form_it_should_have(
    server: Server, sent: tuple[bytes, str, str]
) -> None:
    body, kind, accept = sent
    plain = [word if word.isascii() and word.isprintable() else "" for word in (kind, accept)]
    answer = server.ask(body, plain[0] or None, plain[1] or None)
    assert answer.status in (200, 400, 406, 413, 415)
    assert answer.status == 200 or set(answer.json()) == {"error", "code"}


def test_large_images_are_answered_and_hold_up_no_small_one(
    server: Server, model: Model, image: bytes
) -> None:
    """Of 48 megapixels each; decoded apart, a few at a time."""
    large = png(8000, 6000, 8, 6)
    process = psutil.Process(server.process.pid)
    before, most = process.memory_info().rss, 0
    with ThreadPoolExecutor(9) as clients:
        asked = [clients.submit(server.ask, large, "image/png") for _ in range(4)]
        waited = []
        while not all(one.done() for one in asked):
            started = time.perf_counter()
            alive(server, model, image)
            waited.append(time.perf_counter() - started)
            most = max(most, process.memory_info().rss)
        assert {one.result().status for one in asked} == {200}
    assert np.median(waited) < 0.3
    assert most - before < 0.7e9  # one takes 0.35, and they are let in one at a time


class Raw:
    """A connection that says what it likes, when it likes."""

    def __init__(self, port: int, *parts: bytes, pause: float = 0.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        for part in parts:
            self.socket.sendall(part)
            time.sleep(pause)

    def read(self) -> tuple[int, dict[str, Any]]:
        """Status and JSON of what comes until the server hangs up or goes silent; 0 if nothing
        does."""
        found = b""
        try:
            while b"}" not in found and b"]]" not in found and (part := self.socket.recv(1 << 16)):
                found += part
        except ConnectionResetError:
            pass
        if not found:
            return 0, {}
        head, _, body = found.partition(b"\r\n\r\n")
        assert b"application/json" in head.lower(), found
        return int(found.split()[1]), json.loads(body)

    def hung_up(self) -> bool:
        try:
            return not self.socket.recv(1)
        except ConnectionResetError:
            return True

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def head(length: int | str, *more: str, kind: str = "image/jpeg") -> bytes:
    lines = ["POST /invocations HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", *more]
    lines += [f"Content-Length: {length}"] if length != "" else []
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@pytest.mark.parametrize(
    ("sent", "status", "text"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "invalid"),  # TLS
        (b"SSH-2.0-OpenSSH_9.2\r\n", 400, "invalid"),
        (b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "invalid"),
        (b"GET /ping HTTP/9.9\r\nHost: localhost\r\n\r\n", 400, "invalid"),
        (head("-1"), 400, "invalid"),
        (head("x"), 400, "invalid"),
        (head(5, "Content-Length: 6"), 400, "invalid"),
        (head(5, "Transfer-Encoding: chunked"), 400, "invalid"),
        (head("", "Transfer-Encoding: chunked") + b"zz\r\n", 400, "invalid"),
        (head(10**12), 413, "larger"),
        (head("9" * 30), 400, "invalid"),
        (b"POST /invocations HTTP/1.1\r\nHost: localhost\r\n\r\n", 415, "the body is empty"),
        (b"BREW /invocations HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "invalid"),
        (b"DELETE /invocations HTTP/1.1\r\nHost: localhost\r\n\r\n", 405, "Not Allowed"),
        (b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\n", 431, "head"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 50_000, 431, "head"),
    ],
)
def test_what_is_no_sound_request_is_refused_in_json(
    server: Server, model: Model, image: bytes, sent: bytes, status: int, text: str
) -> None:
    with Raw(server.port) as client:
        for at in range(0, len(sent), 10_000):
            try:
                client.socket.sendall(sent[at : at + 10_000])
            except OSError:  # it has heard enough
                break
            time.sleep(0.001)
        got, said = client.read()
    assert got == status and text in said["error"]
    alive(server, model, image)


def test_a_chunked_body_over_the_limit_is_refused_while_it_comes(server: Server) -> None:
    with Raw(server.port, head("", "Transfer-Encoding: chunked")) as client:
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        for _ in range(MAX_BYTES // 0x10000 + 8):
            client.socket.sendall(chunk)
        status, said = client.read()
    assert status == 413 and "larger" in said["error"]


@pytest.mark.parametrize(
    "filler",
    [b"x: " + b"y" * 1000 + b"\r\n", b"y" * 1000],
    ids=["many trailers", "one trailer without end"],
)
def test_what_stands_behind_a_chunked_body_is_counted(
    server: Server, model: Model, image: bytes, filler: bytes
) -> None:
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    whole = f"{len(image):x}\r\n".encode() + image + b"\r\n0\r\n"
    with Raw(server.port, head("", "Transfer-Encoding: chunked") + whole) as client:
        with contextlib.suppress(OSError):  # it hangs up long before
            for _ in range(60):
                client.socket.sendall(filler * 1000)
        sent = client.read()
    assert sent[0] in (0, 431)  # a reset may overtake the answer
    assert process.memory_info().rss - before < 50e6
    with Raw(
        server.port, head("", "Transfer-Encoding: chunked") + whole + b"Content-Type: x/y\r\n\r\n"
    ) as client:
        assert client.read()[0] == 200  # a trailer is no header
    alive(server, model, image)


def test_half_of_a_request_holds_no_place_for_explanations(quick: int, image: bytes) -> None:
    explained = head(len(image)).replace(b"/invocations", b"/explain")
    held = [Raw(quick, explained, image[:100]) for _ in range(10)]
    with Raw(quick, explained + image) as client:
        client.socket.settimeout(60)
        assert b" 200 OK" in client.socket.recv(1 << 16)
    for one in held:
        one.socket.close()


def test_large_images_are_explained_one_at_a_time(
    model: Model, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many pixels at once as `/invocations` decodes, and in turn with those."""
    large, at_once, most, lock = png(7000, 6000), 0, 0, threading.Lock()
    decode = grad_cam.decode

    def counted(data: bytes) -> Any:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.2)
        with lock:
            at_once -= 1
        return decode(image)

    monkeypatch.setattr(grad_cam, "decode", counted)
    with running(settings(make_app(model))) as port, ThreadPoolExecutor(3) as clients:

        def ask(_number: int) -> bytes:
            with Raw(
                port, head(len(large)).replace(b"/invocations", b"/explain") + large
            ) as client:
                return client.socket.recv(1 << 16)

        assert all(b" 200 OK" in answer for answer in clients.map(ask, range(3)))
    assert most == 1


def test_a_client_that_closes_its_half_still_gets_its_answer(server: Server, image: bytes) -> None:
    with Raw(server.port, head(len(image)) + image) as client:
        client.socket.shutdown(socket.SHUT_WR)
        assert client.read()[0] == 200
    for cut in (head(len(image))[:-2], head(len(image)), head(len(image)) + image[:-1]):
        with Raw(server.port, cut) as client:
            client.socket.shutdown(socket.SHUT_WR)
            status, said = client.read()
            assert status == 400 and "ended before" in said["error"]


def test_clients_that_vanish_leave_nothing_behind(
    server: Server, model: Model, image: bytes
) -> None:
    for _ in range(50):
        Raw(server.port, head(len(image)) + image[: len(image) // 2]).socket.close()
        Raw(server.port, head(len(image)) + image).socket.close()
    alive(server, model, image)
    deadline = time.monotonic() + 20
    while "breedlab_open_photos 0.0" not in _metrics(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "breedlab_open_photos 0.0" in _metrics(server)
    assert len(psutil.Process(server.process.pid).net_connections()) < 10


def _metrics(server: Server) -> str:
    text: str = server.http.request("GET", f"{server.url}/metrics").data.decode()
    return text


@pytest.fixture
def quick(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server of little patience; its port."""
    monkeypatch.setattr(request_parser, "BODY_SECONDS", 0.5)
    monkeypatch.setattr(GuardedProtocol, "head_seconds", 0.5)
    monkeypatch.setattr(GuardedProtocol, "linger_seconds", 0.5)
    monkeypatch.setattr(GuardedProtocol, "max_connections", 20)
    with running(settings(make_app(model), timeout_keep_alive=1)) as port:
        yield port


class running:  # noqa: N801
    """A server in a thread of this process."""

    def __init__(self, config: uvicorn.Config) -> None:
        self._server = uvicorn.Server(config)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}
        )

    def __enter__(self) -> int:
        self._thread.start()
        port: int = self._listener.getsockname()[1]
        return port

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()


def test_slow_heads_and_bodies_are_not_waited_for(quick: int, image: bytes) -> None:
    """Slow loris: each byte in good time, all of them never."""
    with (
        Raw(quick) as silent,
        Raw(quick, b"POST /invocations HTTP/1.1\r\n", b"X: y\r\n", pause=0.2) as slow,
    ):
        dripping = Raw(quick, head(len(image)), image[:10], image[10:20], pause=0.1)
        blank = Raw(quick, *[b"\r\n"] * 4, pause=0.2)
        assert slow.read()[0] == dripping.read()[0] == 408
        assert silent.hung_up() and blank.hung_up()
        dripping.socket.close()
        blank.socket.close()
    with Raw(quick, head(len(image)) + image) as client:
        assert client.read()[0] == 200


def test_a_refused_body_is_let_by_for_a_while_and_no_longer(quick: int, image: bytes) -> None:
    with Raw(quick, head(10**9)) as client:
        assert client.read()[0] == 413
        with pytest.raises(OSError):
            for _ in range(200):
                client.socket.sendall(bytes(1000))
                time.sleep(0.02)
    with Raw(quick, head(MAX_BYTES + 1)) as client:  # one that ends is a connection like any other
        assert client.read()[0] == 413
        client.socket.sendall(bytes(MAX_BYTES + 1) + head(len(image)) + image)
        assert client.read()[0] == 200


def test_more_connections_than_are_taken_are_told_so(quick: int, image: bytes) -> None:
    held = [Raw(quick) for _ in range(20)]
    time.sleep(0.1)
    with Raw(quick, head(len(image)) + image) as client:
        status, said = client.read()
        assert status in (0, 503) and (not said or "connections" in said["error"])
    for one in held:
        one.socket.close()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with Raw(quick, head(len(image)) + image) as client:
            if (status := client.read()[0]) == 200:
                break
        time.sleep(0.1)
    assert status == 200


def test_requests_behind_one_another_are_all_answered(quick: int, image: bytes) -> None:
    with Raw(quick, (head(len(image)) + image) * 5) as client:
        found = b""
        while found.count(b"HTTP/1.1 200 OK") < 5 and (part := client.socket.recv(1 << 16)):
            found += part
        assert found.count(b"HTTP/1.1 200 OK") == 5


def test_bodies_together_take_no_more_memory_than_allowed(model: Model, image: bytes) -> None:
    app = make_app(model, max_held=len(image) + 100)
    with (
        running(settings(app)) as port,
        Raw(port, head(len(image)), image[: len(image) // 2]) as first,
    ):
        time.sleep(1)
        for path in (b"/invocations", b"/explain"):
            with Raw(port, head(len(image)).replace(b"/invocations", path) + image) as second:
                assert second.read()[0] == 503
        first.socket.sendall(image[len(image) // 2 :])
        assert first.read()[0] == 200


def test_addresses_are_fetched_beside_the_images_of_others(model: Model, image: bytes) -> None:
    """A slow host holds up who asked for it and nobody else."""

    def answer(connection: socket.socket, asked: str) -> None:
        if "/slow" in asked:
            time.sleep(3)
        elif "/html" in asked:
            return says(b"<html>", kind="text/html")(connection, asked)
        elif "/words" in asked:
            return says(b"words")(connection, asked)
        return says(image)(connection, asked)

    host, before = Host(answer), model.fetch
    model.fetch = Fetcher(
        "public",
        resolve=lambda name, _: [name if name[0].isdigit() else PUBLIC],
        connect=host.connect,
    )
    try:
        with running(settings(make_app(model))) as port, ThreadPoolExecutor(20) as clients:

            def ask(path: str, url: str, count: int = 1) -> tuple[int, Any]:
                items = [{"url": url}] * count
                body = json.dumps(items if count > 1 else items[0]).encode()
                request = (
                    head(len(body), kind="application/json").replace(b"/invocations", path.encode())
                    + body
                )
                with Raw(port, request) as client:
                    return client.read()

            slow = [clients.submit(ask, "/invocations", "http://a.example/slow") for _ in range(12)]
            time.sleep(0.2)
            started = time.perf_counter()
            with Raw(port, head(len(image)) + image) as client:
                assert client.read()[0] == 200
            assert time.perf_counter() - started < 2.5
            assert {one.result()[0] for one in slow} == {200}
            status, rows = ask("/invocations", "http://a.example/photo.jpg", 3)
            assert status == 200
            np.testing.assert_allclose(
                rows, np.repeat(scores(model, image), 3, axis=0), rtol=1e-4, atol=1e-5
            )
            for url, status, text in (
                ("http://a.example/html", 400, "text/html"),
                ("http://a.example/words", 400, "not an image"),
                ("http://127.0.0.1/", 403, "public internet"),
                ("file:///etc/passwd", 400, "http://"),
            ):
                for path in ("/invocations", "/photo"):
                    got, said = ask(path, url)
                    assert (got, text in said["error"]) == (status, True), (url, said)
    finally:
        model.fetch = before
        host.close()


def test_scores_are_the_same_through_server_and_handler_for_every_kind_of_image(
    server: Server, model: Model
) -> None:
    image = Image.radial_gradient("L").convert("RGB").resize((90, 70))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "image/jpeg": [
            saved(image, "JPEG"),
            saved(image, "JPEG", exif=exif),
            saved(image.convert("CMYK"), "JPEG"),
        ],
        "image/png": [saved(image, "PNG"), saved(image.convert("RGBA"), "PNG"), png(50, 40)],
        "image/webp": [saved(image, "WEBP")],
        "application/x-image": [saved(image, "GIF"), saved(image, "TIFF")],
    }
    for kind, files in kinds.items():
        for file in files:
            np.testing.assert_allclose(
                server.ask(file, kind).json(), scores(model, file), rtol=1e-4, atol=1e-5
            )
    several = [file for files in kinds.values() for file in files]
    answer = server.ask(encoded(*several), "application/json").json()
    np.testing.assert_allclose(answer, scores(model, *several), rtol=1e-4, atol=1e-5)
