"""The server in a process of its own, asked over loopback as a client would."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import preloaded
import pytest
import urllib3
import uvicorn
from codes import check_names
from hostile import png

from breedlab.serving import handler
from breedlab.serving.model import Model
from breedlab.serving.request_parser import IMAGE_TYPES
from breedlab.serving.server import MAX_BYTES, make_app

ROOT = Path(__file__).resolve().parents[2]


class Server:
    """A running serve.py and what it prints."""

    def __init__(self, folder: Path, *words: str) -> None:
        command = [
            sys.executable,
            str(ROOT / "scripts" / "serve.py"),
            str(folder),
            "--port",
            "0",
            *words,
        ]
        self.process = preloaded.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"listening on (http://\S+:\d+)", line):
                self.url = found[1]
                break
        else:
            pytest.fail("".join(self.lines))
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.http = urllib3.PoolManager(maxsize=64, retries=False, timeout=60)
        self.port = int(self.url.rsplit(":", 1)[1])

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    def ask(self, body: bytes, kind: str | None = "image/jpeg", accept: str | None = None) -> Any:
        headers = {"Content-Type": kind, "Accept": accept}
        named = {name: value for name, value in headers.items() if value is not None}
        return self.http.request("POST", f"{self.url}/invocations", body=body, headers=named)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        code = self.process.wait(60)
        self._reader.join()
        return code


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    made = Server(folder)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def files(image_folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((image_folder / "test").rglob("*.jpg"))][:12]


def scores(model: Model, *files: bytes) -> np.ndarray[Any, Any]:
    return handler.predict_fn(files, model).scores


def encoded(*files: bytes) -> bytes:
    return json.dumps([{"image": base64.b64encode(file).decode()} for file in files]).encode()


def test_bytes_and_json_get_the_handlers_own_scores(
    server: Server, model: Model, files: list[bytes]
) -> None:
    one = server.ask(files[0])
    assert (one.status, one.headers["content-type"]) == (200, "application/json")
    np.testing.assert_allclose(one.json(), scores(model, files[0]), rtol=1e-4, atol=1e-5)
    several = server.ask(encoded(*files[:3]), "application/json", "application/x-npy")
    assert several.headers["content-type"] == "application/x-npy"
    np.testing.assert_allclose(
        np.load(io.BytesIO(several.data)), scores(model, *files[:3]), rtol=1e-4, atol=1e-5
    )


def test_a_verbose_answer_names_the_classes(
    server: Server, model: Model, files: list[bytes]
) -> None:
    answer = server.ask(files[0], accept="application/json; verbose=1").json()
    own = scores(model, files[0])[0]
    prediction = answer["predictions"][0]
    assert answer["classes"] == list(model.classes) and answer["lineage"] == {
        "run": "test",
        "architecture": "resnet18",
    }
    assert answer["engine"] == "eager fp32"
    assert prediction["top"][0]["class"] == model.classes[int(own.argmax())]
    assert [entry["index"] for entry in prediction["top"]] == np.argsort(-own).tolist()[:5]
    assert sum(prediction["probabilities"]) == pytest.approx(1)
    np.testing.assert_allclose(
        np.exp(own) / np.exp(own).sum(), prediction["probabilities"], rtol=1e-3
    )


@pytest.mark.parametrize("engine", ["eager", "openvino"])
def test_clients_one_after_another_or_side_by_side_each_get_their_own_images_scores(
    engine: str, server: Server, with_openvino: Path, model: Model, files: list[bytes]
) -> None:
    expected = [scores(model, file) for file in files]
    with contextlib.ExitStack() as stack:
        if engine == "openvino":  # computes a lone image on the thread that decoded it
            server = Server(with_openvino)
            stack.callback(server.stop)
        answers = [server.ask(files[number % len(files)]) for number in range(24)]
        with ThreadPoolExecutor(16) as clients:
            answers += clients.map(lambda number: server.ask(files[number % len(files)]), range(96))
        answers += [server.ask(files[number % len(files)]) for number in range(12)]
    assert {answer.status for answer in answers} == {200}
    for number, answer in enumerate(answers):
        np.testing.assert_allclose(
            answer.json(), expected[number % len(files)], rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize(
    ("body", "kind", "accept", "status", "code", "named"),
    [
        (b"", "image/jpeg", None, 400, "BL205", "the image"),
        (b"no photo", "image/png", None, 400, "BL208", "the image"),
        (b"a,b", "text/csv", None, 415, "BL512", "text/csv"),
        (b"a,b", None, None, 415, "BL512", "image/jpeg"),
        (b"a,b", "application/x-www-form-urlencoded", None, 415, "BL512", "image/jpeg"),
        (b"{", "application/json", None, 400, "BL514", "JSON"),
        (b"[" * 100_000, "application/json", None, 400, "BL514", "JSON"),
        (b"[]", "application/json", None, 400, "BL514", "0 images"),
        (b'{"image": "%%%"}', "application/json", None, 400, "BL502", "base64"),
        (b'{"photo": "x"}', "application/json", None, 400, "BL502", '{"image": '),
        (b'{"url": "http://127.0.0.1/"}', "application/json", None, 400, "BL503", "URL"),
        (b"\xff\xd8\xff" + bytes(MAX_BYTES), "image/jpeg", None, 413, "BL511", f"{MAX_BYTES:,}"),
    ],
)
def test_what_cannot_be_answered_is_told_in_words(
    server: Server,
    files: list[bytes],
    body: bytes,
    kind: str | None,
    accept: str | None,
    status: int,
    code: str,
    named: str,
) -> None:
    answer = server.ask(body, kind, accept)
    assert (answer.status, answer.json()["code"]) == (status, code), answer.data
    assert named in answer.json()["error"]
    assert server.ask(files[0]).status == 200


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "application/json;q=0",
        "application/x-npy; q=0.0, image/*",
        "text/html;q=0.1," * 3000 + "*/*",
    ],
)
def test_a_type_that_is_not_written_or_not_wanted_is_refused(
    server: Server, files: list[bytes], accept: str
) -> None:
    assert server.ask(files[0], accept=accept).status == 406


@pytest.mark.parametrize(
    ("accept", "written"),
    [
        ("text/html, application/x-npy;q=0.9, */*;q=0.1", "application/x-npy"),
        ("application/json; q=0.2, application/x-npy; q=0.8", "application/x-npy"),
        ("application/x-npy, application/json", "application/x-npy"),
        ("application/x-npy;q=much;verbose=1, application/json", "application/x-npy"),
        ("*/*, application/x-npy;q=0.9", "application/json"),
    ],
)
def test_of_several_types_the_best_liked_is_written(
    server: Server, files: list[bytes], accept: str, written: str
) -> None:
    assert server.ask(files[0], accept=accept).headers["content-type"] == written


def test_one_bad_image_of_a_list_is_answered_as_such(
    server: Server, model: Model, files: list[bytes]
) -> None:
    expected = scores(model, files[0], files[1])
    items = json.loads(encoded(files[0], b"no photo", files[1]))
    for bad in (
        items[1],
        {"image": "%%%"},
        {"image": base64.b64encode(files[0][:200]).decode()},
        {"url": "http://a/"},
        {"image": 3},
        {"photo": "of another API"},
        None,
    ):
        body = json.dumps([items[0], bad, items[2]]).encode()
        verbose = server.ask(body, "application/json", "application/json; verbose=1")
        assert verbose.status == 200, verbose.data
        good, error, other = verbose.json()["predictions"]
        np.testing.assert_allclose(
            [good["scores"], other["scores"]], expected, rtol=1e-3, atol=1e-4
        )
        assert set(error) == {"error", "code"} and error["error"].startswith("image 2 of 3")
        rows = server.ask(body, "application/json").json()
        np.testing.assert_allclose([rows[0], rows[2]], expected, rtol=1e-3, atol=1e-4)
        assert rows[1] == error
        # who takes the argmax without a look does not get a class
        with pytest.raises((TypeError, ValueError)):
            np.argmax(np.array(rows), axis=1)
        binary = server.ask(body, "application/json", "application/x-npy")
        assert binary.status >= 400 and binary.json() == error


def test_a_load_balancer_may_ask_with_head(server: Server) -> None:
    answer = server.http.request("HEAD", server.url + "/ping")
    assert (answer.status, answer.data) == (200, b"")


def test_other_paths_and_methods_are_refused_in_json(server: Server) -> None:
    for method, path, status in (
        ("GET", "/nowhere", 404),
        ("GET", "/invocations", 405),
        ("POST", "/ping", 405),
    ):
        answer = server.http.request(method, server.url + path)
        assert answer.status == status and answer.json()["error"]


def test_ping_metrics_and_documentation(server: Server, files: list[bytes]) -> None:
    assert server.http.request("GET", f"{server.url}/ping").status == 200
    before = _count(server)
    server.ask(files[0])
    assert _count(server) == before + 1
    for path in ("/docs", "/redoc"):
        page = server.http.request("GET", server.url + path)
        assert page.status == 200
        loaded = re.findall(r"""(?:src|href)=["'](https?:[^"']+)""", page.data.decode())
        assert not loaded, loaded
    described = server.http.request("GET", f"{server.url}/openapi.json").json()
    asked = described["paths"]["/invocations"]["post"]
    assert "image/jpeg" in asked["requestBody"]["content"]
    assert {"200", "400", "413", "415", "503"} <= set(asked["responses"])
    explained = described["paths"]["/explain"]["post"]
    assert [parameter["name"] for parameter in explained["parameters"]] == ["class"] and explained[
        "requestBody"
    ]


def _count(server: Server) -> float:
    text = server.http.request("GET", f"{server.url}/metrics").data.decode()
    found = re.search(r'breedlab_requests_total\{path="/invocations",status="200"\} (\S+)', text)
    return float(found[1]) if found else 0.0


def test_the_page_brings_everything_with_it(server: Server) -> None:
    page = server.http.request("GET", server.url + "/")
    assert page.status == 200 and "default-src 'none'" in page.headers["content-security-policy"]
    own = re.findall(r'(?:src|href)="([^"]+)"', page.data.decode())
    assert len(own) >= 3
    for name in own:
        assert server.http.request("GET", f"{server.url}/{name}").status == 200, name
    for name in ("../page.py", "%2e%2e%2fpage.py", "nothing.js"):
        assert server.http.request("GET", f"{server.url}/page/{name}").status == 404


def test_the_page_learns_which_model_this_is(server: Server, model: Model) -> None:
    about = server.http.request("GET", f"{server.url}/model").json()
    assert about["classes"] == list(model.classes) and about["lineage"]["run"] == "test"
    assert about["engine"] == "eager fp32"
    assert (about["explains"], about["urls"], about["max_bytes"]) == (True, False, MAX_BYTES)
    refused = server.http.request(
        "POST", f"{server.url}/photo", body=b'{"url": "http://127.0.0.1/"}'
    )
    assert refused.status == 400 and "fetches no URLs" in refused.json()["error"]


def test_a_image_is_explained(server: Server, model: Model, files: list[bytes]) -> None:
    found = server.http.request("POST", f"{server.url}/explain", body=files[0]).json()
    assert (
        found["index"] == int(scores(model, files[0]).argmax())
        and found["class"] == model.classes[found["index"]]
    )
    assert np.array(found["heat"]).ndim == 2 and 0 < found["box"]["width"] <= 1
    assert (
        server.http.request("POST", f"{server.url}/explain?class=2", body=files[0]).json()["index"]
        == 2
    )
    for path, body in (
        ("/explain?class=4", files[0]),
        ("/explain?class=x", files[0]),
        ("/explain", b"no photo"),
    ):
        refused = server.http.request("POST", server.url + path, body=body)
        assert refused.status == 400 and refused.json()["error"]


def test_each_request_is_one_line_without_the_image(server: Server, files: list[bytes]) -> None:
    server.ask(files[0])
    server.ask(b"secret words", "text/plain")
    deadline = time.monotonic() + 20
    while (
        not any('"status": 415' in line for line in server.lines[-3:])
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    last = [json.loads(line) for line in server.lines[-2:]]
    assert [line["status"] for line in last] == [200, 415]
    assert last[0]["bytes"] == len(files[0]) and last[0]["photos"] == 1 and last[0]["ms"] > 0
    assert "secret" not in "".join(server.lines)


def test_the_line_of_an_explanation_counts_its_bytes(server: Server, files: list[bytes]) -> None:
    server.http.request("POST", f"{server.url}/explain", body=files[0])
    deadline = time.monotonic() + 20
    while '"/explain"' not in server.lines[-1] and time.monotonic() < deadline:
        time.sleep(0.05)
    line = json.loads(server.lines[-1])
    assert line["bytes"] == len(files[0]) and line["photos"] == 1


def test_broken_requests_get_an_answer_each_and_harm_no_good_one(
    server: Server, model: Model, files: list[bytes]
) -> None:
    chance = random.Random(2026)
    seen: dict[int, int] = {}
    for _ in range(500):
        body, kind = _broken(chance, files)
        answer = server.ask(body, kind)
        seen[answer.status] = seen.get(answer.status, 0) + 1
        assert answer.status in (200, 400, 413, 415), (answer.status, kind, body[:200])
        assert answer.status == 200 or set(answer.json()) == {"error", "code"}
    assert seen[400] > 150
    np.testing.assert_allclose(
        server.ask(files[0]).json(), scores(model, files[0]), rtol=1e-4, atol=1e-5
    )


def _broken(chance: random.Random, files: list[bytes]) -> tuple[bytes, str]:
    image = bytearray(chance.choice(files))
    match chance.randrange(5):
        case 0:  # cut short
            return bytes(image[: chance.randrange(len(image))]), chance.choice([*IMAGE_TYPES])
        case 1:  # bytes changed here and there
            for _ in range(chance.randrange(1, 40)):
                image[chance.randrange(len(image))] = chance.randrange(256)
            return bytes(image), "image/jpeg"
        case 2:  # the head of another format
            return (
                chance.choice([b"GIF89a", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM", b"II*\0"])
                + bytes(image),
                "image/png",
            )
        case 3:  # JSON of some other shape
            leaf: Any = chance.choice(
                [None, 1, "x", base64.b64encode(bytes(image[:99])).decode(), {}, [], 1e999]
            )
            tree = chance.choice(
                [
                    leaf,
                    [leaf],
                    {"image": leaf},
                    [{"image": leaf}] * 40,
                    {"url": leaf},
                    {"image": [leaf]},
                ]
            )
            return json.dumps(tree).encode(), "application/json"
        case _:  # noise
            return chance.randbytes(chance.randrange(2000)), chance.choice(
                ["application/json", "image/webp", "x", ""]
            )


def test_the_requests_of_the_docs_work_as_they_stand(
    server: Server, files: list[bytes], tmp_path: Path
) -> None:
    pages = [page.read_text() for page in (ROOT / "docs").rglob("*.md")]
    lines = [
        line for page in pages for line in page.splitlines() if line.startswith("curl http://127")
    ]
    (tmp_path / "photo.jpg").write_bytes(files[0])
    assert len(lines) >= 5
    for line in lines:
        here = line.replace("http://127.0.0.1:8080", server.url).replace(
            "curl ", "curl --fail --silent --show-error ", 1
        )
        done = subprocess.run(["bash", "-c", here], cwd=tmp_path, capture_output=True)
        assert done.returncode == 0 and (done.stdout or any(tmp_path.glob("*.npy"))), (
            line,
            done.stderr,
        )


@pytest.mark.parametrize(
    ("query", "verbose"),
    [("verbose=1", True), ("verbose=true", True), ("verbose=0", False), ("noverbose=1", False)],
)
def test_a_query_asks_for_a_verbose_answer(
    query: str, verbose: bool, server: Server, files: list[bytes]
) -> None:
    answer = urllib3.request(
        "POST",
        f"{server.url}/invocations?{query}",
        body=files[0],
        headers={"Content-Type": "image/jpeg"},
    )
    assert answer.status == 200
    assert isinstance(answer.json(), dict) == verbose


def test_above_capacity_it_says_when_to_come_again(model: Model, files: list[bytes]) -> None:
    with _running(make_app(model, capacity=2)) as url:
        answer = urllib3.request(
            "POST", url, body=encoded(*files[:3]), headers={"Content-Type": "application/json"}
        )
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["code"] == "BL517"
        assert (
            urllib3.request(
                "POST", url, body=files[0], headers={"Content-Type": "image/jpeg"}
            ).status
            == 200
        )


@contextlib.contextmanager
def _running(app: Any) -> Iterator[str]:
    running = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/invocations"
        finally:
            running.should_exit = True
            thread.join()


def test_told_to_stop_it_answers_what_is_open(folder: Path, files: list[bytes]) -> None:
    server = Server(folder)
    body = encoded(*(files * 3)[:32])
    with ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(server.ask, body, "application/json") for _ in range(2)]
        deadline = time.monotonic() + 30
        while "open_photos 0.0" in _metrics(server) and time.monotonic() < deadline:
            pass
        server.stop()
        assert [answer.result().status for answer in asked] == [200, 200]
    assert "Traceback" not in "".join(server.lines)


def test_a_second_ctrl_c_ends_it_at_once(folder: Path) -> None:
    server = Server(folder)
    with ThreadPoolExecutor(4) as clients:
        for _ in range(4):
            clients.submit(server.ask, png(8000, 6000, 8, 6), "image/png")
        deadline = time.monotonic() + 30
        while "open_photos 0.0" in _metrics(server) and time.monotonic() < deadline:
            pass
        server.process.send_signal(signal.SIGINT)
        while "Ctrl-C (again)" not in "".join(server.lines) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.stop(signal.SIGINT) == 130
    assert server.lines[-1] == "interrupted; open requests were dropped\n"
    assert "Traceback" not in "".join(server.lines)


def _metrics(server: Server) -> str:
    text: str = server.http.request("GET", f"{server.url}/metrics").data.decode()
    return text


def predict(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / "predict.py", *words]
    return preloaded.run(command, capture_output=True, text=True, timeout=60)


def test_predict_asks_the_server_and_comes_to_what_the_model_here_says(
    server: Server, folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    words = [image_folder / "test", tmp_path / "broken.jpg", "--json", "--top", "3"]
    asked, local = predict("--endpoint", server.url, *words), predict(folder, *words)
    assert asked.returncode == local.returncode == 1, asked.stderr
    answers, expected = json.loads(asked.stdout), json.loads(local.stdout)
    assert len(answers) == len(expected) > 1
    for answer, own in zip(answers, expected, strict=True):
        assert answer["photo"] == own["photo"] and answer.keys() == own.keys() - {"truth"}
        for one, other in zip(
            answer.get("predictions", []), own.get("predictions", []), strict=True
        ):
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)
    assert "not an image" in answers[-1]["error"]


@pytest.mark.parametrize(
    ("endpoint", "code", "names"),
    [
        ("ftp://dogs", "BL500", ["ftp://dogs"]),
        ("http://127.0.0.1:{port}/foo", "BL500", ["/foo", "/invocations"]),
        ("https://127.0.0.1:{port}", "BL500", ["https://127.0.0.1", "TLS"]),
        ("http://127.0.0.1:9", "BL500", ["http://127.0.0.1:9", "Connection refused", "serve"]),
        ("dogs", "BL500", ["--endpoint dogs: ", "--region", "AWS_DEFAULT_REGION"]),
    ],
)
def test_an_endpoint_that_is_none_is_one_message(
    server: Server,
    image_folder: Path,
    endpoint: str,
    code: str,
    names: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    done = predict("--endpoint", endpoint.format(port=server.port), image_folder / "test")
    assert done.returncode != 0 and done.stderr.startswith(f"[{code}] "), done.stderr
    check_names(done.stderr, names)
    assert len(done.stderr.splitlines()) == 1


def test_a_port_that_is_taken_is_one_message(folder: Path, server: Server) -> None:
    port = server.url.rsplit(":", 1)[1]
    command = [sys.executable, str(ROOT / "scripts" / "serve.py"), str(folder), "--port", port]
    done = preloaded.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert f"--port {port}" in done.stderr and len(done.stderr.splitlines()) == 1
