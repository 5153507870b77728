"""A server's API key, and the web pages of other origins that may ask it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from codes import raises_code
from test_guard import running

from breedlab.backends.client import ask
from breedlab.cli.serve import main as serve
from breedlab.serving.access import KEY_VARIABLE, allowed_hosts, read_key
from breedlab.serving.invocations import Access
from breedlab.serving.model import Model
from breedlab.serving.protocol import settings
from breedlab.serving.server import make_app

KEY = "a-key-of-these-tests-0123456789"
PAGE = "https://dogs.example"


@pytest.fixture(scope="module")
def url(model: Model) -> Iterator[str]:
    access = Access(KEY, [PAGE], allowed_hosts("127.0.0.1", None))
    app = make_app(model, access=access)
    with running(settings(app)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"X-API-Key": ""}, 401),
        ({"X-API-Key": KEY[:-1]}, 401),
        ({"X-API-Key": KEY + "0"}, 401),
        ({"Authorization": f"Basic {KEY}"}, 401),
        ({"Authorization": "Bearer é"}, 401),
        ({"X-API-Key": KEY}, 200),
        ({"Authorization": f"Bearer {KEY}"}, 200),
        ({"authorization": f"bearer {KEY}"}, 200),
    ],
)
def test_only_who_knows_the_key_is_answered(
    headers: dict[str, str], status: int, url: str, image: bytes
) -> None:
    sent = {name: value.encode() for name, value in headers.items()}
    for method, path in (("POST", "/invocations"), ("POST", "/explain"), ("GET", "/model")):
        body = image if method == "POST" else None
        answer = requests.request(method, url + path, data=body, headers=sent, timeout=60)
        assert answer.status_code == status, path
        if status == 401:
            assert answer.json()["code"] == "BL516" and "API key" in answer.json()["error"]
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert KEY not in answer.text
    for path in ("/metrics", "/page/../model", "//model"):
        raw = requests.Request("GET", url + path, headers=sent).prepare()
        raw.url = url + path  # as a client sends it that does not clean paths
        assert (requests.Session().send(raw, timeout=60).status_code == 401) == (status == 401)


def test_a_load_balancer_and_the_page_need_none(url: str) -> None:
    for path in ("/ping", "/", "/page/page.js", "/docs", "/openapi.json"):
        assert requests.get(url + path, timeout=60).status_code == 200, path


def test_a_named_page_may_ask_and_read(url: str, image: bytes) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    before = requests.options(url + "/invocations", headers=asked, timeout=60)
    assert before.status_code == 204 and before.headers["Access-Control-Allow-Origin"] == PAGE
    assert "X-API-Key" in before.headers["Access-Control-Allow-Headers"]
    headers = {"Origin": PAGE, "X-API-Key": KEY}
    answer = requests.post(url + "/invocations", data=image, headers=headers, timeout=60)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert answer.headers["Vary"] == "Origin"
    refused = requests.post(url + "/invocations", headers={"Origin": PAGE}, timeout=60)
    assert refused.status_code == 401  # which the page may read
    assert refused.headers["Access-Control-Allow-Origin"] == PAGE


@pytest.mark.parametrize("origin", ["https://evil.example", "http://dogs.example", f"{PAGE}:8443"])
def test_another_page_may_not(origin: str, url: str, image: bytes) -> None:
    headers = {"Origin": origin, "X-API-Key": KEY, "Access-Control-Request-Method": "POST"}
    for method in ("OPTIONS", "POST"):
        answer = requests.request(
            method, url + "/invocations", data=image, headers=headers, timeout=60
        )
        assert answer.status_code == 403
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_without_being_asked_for_neither_is_there(model: Model, image: bytes) -> None:
    with running(settings(make_app(model))) as port:
        answer = requests.post(
            f"http://127.0.0.1:{port}/invocations",
            data=image,
            headers={"Origin": PAGE},
            timeout=60,
        )
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_our_client_sends_the_key_of_the_environment(
    url: str, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [next((image_folder / "test").rglob("*.jpg"))]
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with raises_code("BL500", names=KEY_VARIABLE):
        list(ask(url, files, 1))
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert next(iter(ask(url, files, 1)))["predictions"]


@pytest.mark.parametrize("text", ["", "short", "with a space in the middle", "k\u00e9y" * 9])
def test_what_is_no_key_is_refused_and_not_told(text: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(text, "utf-8")
    with raises_code("BL500", names=(file, "16")) as told:
        serve(["runs/nothing", "--api-key-file", str(file)])
    assert not text or text not in str(told.value)
    with raises_code("BL500", names=tmp_path / "nowhere"):
        read_key(tmp_path / "nowhere")


def test_a_key_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert read_key(None) is None
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert read_key(tmp_path / "key") == KEY
    monkeypatch.setitem(os.environ, KEY_VARIABLE, "")
    with raises_code("BL500", names=KEY_VARIABLE):  # not: no key at all
        read_key(None)


@pytest.mark.parametrize("origin", ["*", "dogs.example", "https://dogs.example/", "null"])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with raises_code("BL500", names=("--cors", origin)):
        serve(["runs/nothing", "--cors", origin])


@pytest.mark.slow
def test_the_page_asks_for_the_key(url: str, browser: Any, image_folder: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(url + "/")
    wait = WebDriverWait(browser, 60)
    field = wait.until(lambda driver: driver.find_element(By.ID, "key"))
    for typed in ("wrong-key-wrong-key", KEY):
        wait.until(lambda _: field.is_displayed())
        field.clear()
        field.send_keys(typed + Keys.ENTER)
    wait.until(lambda driver: "classes" in driver.find_element(By.ID, "which").text)
    assert not field.is_displayed()
    image = next((image_folder / "test").rglob("*.jpg"))
    browser.find_element(By.ID, "file").send_keys(str(image))
    wait.until(lambda driver: driver.find_elements(By.CSS_SELECTOR, "#classes button"))
