"""What people send first, by the clients that they have: curl, requests; and what other programs
write."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import requests
from codes import raises_code
from test_server import Server, encoded, scores

from breedlab.serving import handler
from breedlab.serving.model import Model
from breedlab.serving.refusals import BadRequest

JSON = "application/json"


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    made = Server(folder)
    yield made
    made.stop()


@pytest.fixture
def file(tmp_path: Path, image: bytes) -> Path:
    (tmp_path / "x.jpg").write_bytes(image)
    (tmp_path / "x.gz").write_bytes(gzip.compress(image))
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf" + encoded(image)[1:-1])
    return tmp_path / "x.jpg"


def same(answer: Any, model: Model, *images: bytes) -> None:
    np.testing.assert_allclose(answer, scores(model, *images), rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
@pytest.mark.parametrize(
    ("flags", "count"),
    [
        ("-F file=@x.jpg", 1),
        ("-F image=@x.jpg", 1),
        ("-F a=@x.jpg -F b=@x.jpg -F note=words", 2),
        ("-F file=@x.jpg;type=image/png", 1),
        ("--data-binary @x.jpg", 1),
        ("--data-binary @x.jpg -H Content-Type:", 1),
        ("--data-binary @x.jpg -H Content-Type:binary/octet-stream", 1),
        ("--data-binary @x.gz -H Content-Type:image/jpeg -H Content-Encoding:gzip", 1),
        ("--data-binary @x.gz", 1),
        ("-T x.jpg -X POST", 1),
        ("--data-binary @x.jpg -H Transfer-Encoding:chunked", 1),
        ("-d @x.json", 1),
        ("--json @x.json", 1),
    ],
)
def test_curl(
    server: Server, model: Model, image: bytes, file: Path, flags: str, count: int
) -> None:
    command = ["curl", "-sS", "--fail-with-body", f"{server.url}/invocations", *flags.split()]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    same(json.loads(done.stdout), model, *[image] * count)


def test_requests(server: Server, model: Model, image: bytes, file: Path) -> None:
    url, one = f"{server.url}/invocations", base64.b64encode(image).decode()
    with file.open("rb") as opened:
        same(requests.post(url, files={"file": opened}, timeout=60).json(), model, image)
    same(
        requests.post(url, files={"file": image, "other": image}, timeout=60).json(),
        model,
        image,
        image,
    )
    same(requests.post(url, data=image, timeout=60).json(), model, image)
    same(requests.post(url, data={"image": one}, timeout=60).json(), model, image)
    same(requests.post(url, json={"image": one}, timeout=60).json(), model, image)
    same(
        requests.post(url, files={"file": ("x.png", image, "image/png")}, timeout=60).json(),
        model,
        image,
    )
    same(requests.post(url, data=image, timeout=60).json(), model, image)
    same(requests.post(url, data={"image": one}, timeout=60).json(), model, image)
    packed = gzip.compress(json.dumps({"image": one}).encode())
    headers = {"Content-Type": JSON, "Content-Encoding": "gzip"}
    same(requests.post(url, data=packed, headers=headers, timeout=60).json(), model, image)
    refused = requests.post(url, data=image, headers={"Content-Encoding": "br"}, timeout=60)
    assert refused.status_code == 415 and "'br' is not read; send gzip" in refused.json()["error"]


def test_verbose_may_be_asked_for_in_the_address(
    server: Server, model: Model, image: bytes
) -> None:
    for query in ("?verbose=1", "?verbose=true", "?a=b&verbose=1"):
        answer = requests.post(f"{server.url}/invocations{query}", data=image, timeout=60).json()
        same([answer["predictions"][0]["scores"]], model, image)
    for query in ("", "?verbose=0", "?verbose", "?other=1"):
        same(
            requests.post(f"{server.url}/invocations{query}", data=image, timeout=60).json(),
            model,
            image,
        )


def test_a_image_is_explained_however_it_is_sent(server: Server, image: bytes) -> None:
    url, one = f"{server.url}/explain", base64.b64encode(image).decode()
    expected = requests.post(url, data=image, timeout=60).json()["index"]
    for how in (
        {"files": {"file": image}},
        {"json": {"image": one}},
        {"data": gzip.compress(image)},
    ):
        assert requests.post(url, **how, timeout=60).json()["index"] == expected
    assert requests.post(url, json=[{"image": one}] * 2, timeout=60).status_code == 400


def test_bodies_written_for_other_servers_are_read(
    server: Server, model: Model, image: bytes
) -> None:
    url, one = f"{server.url}/invocations", base64.b64encode(image).decode()
    bodies: dict[str, Any] = {
        "TensorFlow Serving": {"instances": [{"b64": one}] * 2},
        "KServe": {"instances": [{"image_bytes": {"b64": one}}] * 2},
        "Vertex AI": {"instances": [{"image": one}, one]},
        "Hugging Face, several": {"inputs": [one, f"data:image/jpeg;base64,{one}"]},
        "a list of strings": [one, one],
    }
    for name, body in bodies.items():
        answer = requests.post(url, json=body, timeout=60)
        assert answer.status_code == 200, f"{name}: {answer.text}"
        same(answer.json(), model, image, image)
    for body in ({"inputs": one}, one, {"instances": [{"b64": one}]}):
        same(requests.post(url, json=body, timeout=60).json(), model, image)


@pytest.mark.parametrize(
    "body",
    [
        {"instances": []},
        {"instances": [{"b64": "AA==", "other": 1}]},
        {"instances": [[0.1, 0.2]]},
        {"instances": {"instances": ["AA=="]}},
        {"inputs": "https://127.0.0.1/x.jpg"},  # no host is allowed here
        {"inputs": "AA==", "parameters": {}},
        {"image_bytes": {"b64": "AA==", "other": 1}},
        "",
    ],
)
def test_what_other_servers_would_not_read_either_is_refused(server: Server, body: Any) -> None:
    answer = requests.post(f"{server.url}/invocations", json=body, timeout=60)
    assert 400 <= answer.status_code < 404 and answer.json()["error"]


def texts(image: bytes) -> dict[str, str]:
    one = base64.b64encode(image).decode()
    return {
        "lines": base64.encodebytes(image).decode(),
        "lines of Windows": base64.encodebytes(image).decode().replace("\n", "\r\n"),
        "URL alphabet": base64.urlsafe_b64encode(image).decode(),
        "no padding": base64.urlsafe_b64encode(image).decode().rstrip("="),
        "data URI": f"data:image/jpeg;base64,{one}",
        "data URI with a parameter": f"DATA:image/jpeg;charset=utf-8;base64,{one}",
        "data URI in lines": f"data:;base64,\n{base64.encodebytes(image).decode()}",
    }


@pytest.mark.parametrize("name", texts(b""))
def test_base64_in_every_form(server: Server, model: Model, image: bytes, name: str) -> None:
    # Of every length, so that each padding comes up.
    for more in range(3):
        padded = image + bytes(more)
        body = json.dumps({"image": texts(padded)[name]})
        assert handler.input_fn(body, JSON) == handler.input_fn(body.encode(), JSON) == [padded]
    same(server.ask(json.dumps({"image": texts(image)[name]}).encode(), JSON).json(), model, image)
    if "data" in name:
        assert handler.input_fn(json.dumps({"url": texts(image)[name]}), JSON) == [image]


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: b"\xef\xbb\xbf" + plain,
        lambda plain: (b"\xef\xbb\xbf" + plain).decode(),  # as SageMaker's toolkit hands JSON on
        lambda plain: b"\r\n " + plain + b"\n",
        lambda plain: plain.decode().encode("utf-16"),
        gzip.compress,
    ],
)
def test_json_as_other_programs_write_it(image: bytes, change: Callable[[bytes], Any]) -> None:
    assert handler.input_fn(change(encoded(image, image)), JSON) == [image, image]


def test_a_body_without_a_type_is_what_it_shows_itself_to_be(image: bytes) -> None:
    one = base64.b64encode(image).decode()
    for kind in ("", "application/x-www-form-urlencoded", "text/plain; charset=utf-8"):
        for body in (image, encoded(image), one.encode(), f"data:image/jpeg;base64,{one}".encode()):
            assert handler.input_fn(body, kind) == [image]
        assert handler.input_fn(urlencode({"image": one}).encode(), kind) == [image]
        assert handler.input_fn(b"image=" + one.encode(), kind) == [image]
        (address,) = handler.input_fn(
            urlencode({"url": "https://a.example/x.jpg?a=b c"}).encode(), kind
        )
        assert getattr(address, "url", None) == "https://a.example/x.jpg?a=b c"
    for body in (b"words", b"\xffwords", b"", one[:100].encode()[4:]):
        with pytest.raises(BadRequest) as caught:
            handler.input_fn(body, "")
        assert caught.value.status == 415


def test_gzip_is_inflated_to_the_limit_and_no_further(image: bytes) -> None:
    assert handler.input_fn(gzip.compress(image), "image/jpeg", None, len(image)) == [image]
    with raises_code("BL511") as caught:
        handler.input_fn(gzip.compress(image), "image/jpeg", None, len(image) - 1)
    assert caught.value.status == 413


def test_a_file_that_is_no_image_is_not_blamed_on_curls_content_type() -> None:
    for body in (b"PK\x03\x04 a zip", b""):
        with raises_code("BL512", names="image/jpeg") as caught:
            handler.input_fn(body, "application/x-www-form-urlencoded")
        assert caught.value.status == 415
        assert "urlencoded" not in str(caught.value)
