"""The page in a real headless Chromium: every way in, by mouse and by keyboard, narrow and wide,
light and dark.

With BREEDLAB_SCREENSHOTS=DIR each test leaves its pictures there, to be looked at.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import png, saved
from PIL import Image
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from test_fetch import PUBLIC, Host, says
from test_guard import running
from test_server import Server, scores

from breedlab.evaluation.novelty import fit, threshold_of
from breedlab.models.classifier import Classifier
from breedlab.models.novelty import MAHALANOBIS
from breedlab.serving.archive import write_folder
from breedlab.serving.fetch import Fetcher
from breedlab.serving.model import Model
from breedlab.serving.protocol import settings
from breedlab.serving.server import make_app
from breedlab.training.context import TrainingContext
from breedlab.training.inference import features as features_of

pytestmark = pytest.mark.slow

WIDTHS = {"phone": 390, "desktop": 1280}


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    made = Server(folder)
    yield made
    made.stop()


class Page:
    """The page of a server, as a person has it before them."""

    def __init__(self, driver: Any, url: str, width: int = 1280, scheme: str = "light") -> None:
        self.driver, self.url = driver, url
        driver.get_log("browser")
        driver.get_log("performance")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        driver.get(url + "/")
        self.until(lambda: "classes" in self.at("which").text)

    def at(self, name: str) -> Any:
        return self.driver.find_element(By.ID, name)

    def until(self, found: Callable[[], Any]) -> Any:
        return WebDriverWait(self.driver, 30).until(lambda _: found())

    def lines(self) -> list[Any]:
        return list(self.driver.find_elements(By.CSS_SELECTOR, "#classes button"))

    def choose(self, path: Path) -> None:
        self.at("file").send_keys(str(path))
        self.until(self.lines)

    def picture(self, name: str) -> None:
        if home := os.environ.get("BREEDLAB_SCREENSHOTS"):
            Path(home).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(home, f"{name}.png")))

    def asked(self) -> set[str]:
        events = [
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        ]
        return {
            e["params"]["request"]["url"]
            for e in events
            if e["method"] == "Network.requestWillBeSent"
        }

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture
def page(browser: Any, server: Server) -> Callable[..., Page]:
    return lambda **words: Page(browser, server.url, **words)


@pytest.fixture(scope="module")
def image_file(image_folder: Path) -> Path:
    return next((image_folder / "test").rglob("*.jpg"))


@pytest.mark.parametrize("size", WIDTHS)
def test_a_person_picks_a_image_and_sees_what_it_is_and_why(
    page: Callable[..., Page], model: Model, image_file: Path, size: str
) -> None:
    shown = page(width=WIDTHS[size])
    assert not shown.at("address").is_displayed()  # this server fetches no URLs
    shown.choose(image_file)
    own = scores(model, image_file.read_bytes())[0]
    assert [int(line.get_attribute("data-index")) for line in shown.lines()] == np.argsort(
        -own
    ).tolist()
    assert shown.lines()[0].text.startswith(model.classes[int(own.argmax())])
    assert "in the server" in shown.at("latency").text
    assert not shown.at("overlay").is_displayed()
    shown.at("look").click()
    shown.until(lambda: shown.at("overlay").is_displayed())
    assert "strongest evidence" in shown.at("status").text
    shown.picture(f"picked-{size}")
    assert shown.complaints() == []
    asked = shown.asked()
    assert asked and all(url.startswith((shown.url, f"blob:{shown.url}")) for url in asked)


SLOW_MODEL = """const quick = window.fetch;
window.fetch = async (path, options) => {
  if (path === "model") await new Promise((done) => setTimeout(done, 1500));
  return quick(path, options);
};"""


def test_a_image_picked_before_the_page_knows_its_model_is_no_error(
    page: Callable[..., Page], image_file: Path
) -> None:
    shown = page()
    added = shown.driver.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": SLOW_MODEL}
    )
    shown.driver.get(shown.url + "/")
    assert "Asking" in shown.at("which").text
    shown.choose(image_file)
    shown.until(lambda: "classes" in shown.at("which").text)
    assert shown.at("problem").text == ""
    shown.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_a_file_is_dropped_anywhere(page: Callable[..., Page], image_file: Path) -> None:
    """Through the browser's own drag and drop, not an event that a script makes."""
    shown = page()
    data = {"items": [], "files": [str(image_file)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver"):
        command = {"type": kind, "x": 600, "y": 700, "data": data}
        shown.driver.execute_cdp_cmd("Input.dispatchDragEvent", command)
    shown.until(
        lambda: "dragging" in shown.driver.find_element(By.TAG_NAME, "body").get_attribute("class")
    )
    shown.picture("dragging")
    shown.driver.execute_cdp_cmd(
        "Input.dispatchDragEvent", {"type": "drop", "x": 600, "y": 700, "data": data}
    )
    shown.until(shown.lines)
    assert "dragging" not in shown.driver.find_element(By.TAG_NAME, "body").get_attribute("class")


def test_a_image_is_pasted(page: Callable[..., Page]) -> None:
    shown = page()
    shown.driver.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite"]}
    )
    failed = shown.driver.execute_async_script("""
        const done = arguments[0], canvas = Object.assign(document.createElement("canvas"), { width: 60, height: 50 });
        canvas.getContext("2d").fillRect(9, 9, 30, 20);
        canvas.toBlob((blob) => navigator.clipboard.write([new ClipboardItem({ "image/png": blob })])
          .then(() => done(""), (error) => done(String(error))));
        """)  # noqa: E501
    assert not failed
    shown.driver.find_element(By.TAG_NAME, "body").send_keys(Keys.CONTROL, "v")
    shown.until(shown.lines)
    assert shown.at("image").get_attribute("naturalWidth") == "60"


def test_what_is_no_image_is_told_in_words(
    page: Callable[..., Page], image_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "words.jpg").write_bytes(b"no photo")
    shown = page(width=390)
    shown.at("file").send_keys(str(tmp_path / "words.jpg"))
    told = shown.until(lambda: shown.at("problem").text)
    assert "is not an image" in told and shown.at("problem").get_attribute("role") == "alert"
    assert not shown.at("answers").is_displayed()
    shown.picture("no-image")
    shown.choose(image_file)  # and the next one works
    assert shown.at("problem").text == ""


def test_a_image_larger_than_the_server_reads_is_sent_smaller(
    page: Callable[..., Page], tmp_path: Path
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (1700, 1700, 3), dtype=np.uint8)
    (tmp_path / "large.png").write_bytes(saved(Image.fromarray(noise), "PNG"))
    shown = page()
    shown.choose(tmp_path / "large.png")
    assert "smaller" in shown.at("note").text


def test_a_image_of_more_pixels_than_the_server_reads_is_sent_smaller(
    page: Callable[..., Page], tmp_path: Path
) -> None:
    (tmp_path / "large.png").write_bytes(png(8000, 7000, 8, 6))
    shown = page()
    shown.choose(tmp_path / "large.png")
    assert "smaller" in shown.at("note").text


def test_an_address_is_fetched_by_the_server(browser: Any, model: Model, image_file: Path) -> None:
    def answer(connection: socket.socket, asked: str) -> None:
        found = image_file.read_bytes() if "/photo.jpg" in asked else b"words"
        says(found)(connection, asked)

    host, before = Host(answer), model.fetch
    public = Fetcher(
        "public",
        resolve=lambda name, _: [name if name[0].isdigit() else PUBLIC],
        connect=host.connect,
    )
    model.fetch = public
    try:
        with running(settings(make_app(model))) as port:
            shown = Page(browser, f"http://127.0.0.1:{port}", 390)
            assert shown.at("address").is_displayed()
            shown.at("url").send_keys("http://a.example/photo.jpg", Keys.ENTER)
            shown.until(shown.lines)
            own = scores(model, image_file.read_bytes())[0]
            assert int(shown.lines()[0].get_attribute("data-index")) == int(own.argmax())
            shown.picture("address")
            for address, text in (
                ("http://a.example/words", "not an image"),
                ("http://127.0.0.1/x.jpg", "public internet"),
                ("ftp://a.example/x.jpg", "http"),
            ):
                shown.at("url").clear()
                shown.at("url").send_keys(address, Keys.ENTER)
                shown.until(lambda text=text: text in shown.at("problem").text)
            shown.picture("address-refused")
            asked = shown.asked()
            assert asked and all(url.startswith((shown.url, f"blob:{shown.url}")) for url in asked)
            shown.driver.get_log("browser")
            browser.get("about:blank")  # its connections would keep the server waiting
    finally:
        model.fetch = before
        host.close()


FOCUS = """
const one = document.activeElement, style = getComputedStyle(one.id === "file" ? one.nextElementSibling : one);
const name = one.id || one.dataset.index || one.tagName;
return [name, style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2];
"""  # noqa: E501


def test_everything_is_done_by_the_keyboard_and_the_focus_is_seen(
    page: Callable[..., Page], image_file: Path
) -> None:
    shown = page()

    def tab() -> str:
        ActionChains(shown.driver).send_keys(Keys.TAB).perform()
        name, seen = shown.driver.execute_script(FOCUS)
        assert seen, f"the focus on {name} is not to be seen"
        return str(name)

    assert tab() == "file"
    shown.choose(image_file)
    order = [str(line.get_attribute("data-index")) for line in shown.lines()]
    assert [tab() for _ in order] == order
    ActionChains(shown.driver).send_keys(Keys.ENTER).perform()
    shown.until(lambda: shown.at("overlay").is_displayed())
    assert shown.lines()[-1].get_attribute("aria-pressed") == "true"
    assert tab() == "look"
    assert tab() == "strength"
    before = shown.at("strength").get_attribute("value")
    ActionChains(shown.driver).send_keys(Keys.ARROW_LEFT).perform()
    assert shown.at("strength").get_attribute("value") != before
    shown.picture("keyboard")
    assert tab() == "SUMMARY"
    ActionChains(shown.driver).send_keys(Keys.ENTER).perform()
    shown.until(lambda: shown.at("facts").is_displayed())


# WCAG 2's contrast of each visible text against what lies behind it, and the size of what is
# pressed.
SEEN = """
const light = (text) => {
  const [r, g, b] = text.match(/[\\d.]+/g).map((n) => n / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (one) => {
  for (let at = one; at; at = at.parentElement) {
    const color = getComputedStyle(at).backgroundColor;
    if (!/^rgba\\(.*, 0\\)$/.test(color)) return color;
  }
  return "rgb(255, 255, 255)";
};
const found = [];
for (const one of document.querySelectorAll("body *")) {
  const style = getComputedStyle(one), box = one.getBoundingClientRect();
  if (!box.width || style.visibility === "hidden" || style.opacity === "0") continue;
  const own = [...one.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || one.placeholder;
  const name = `${one.tagName} ${one.id} ${(one.textContent || one.placeholder || "").trim().slice(0, 30)}`;
  if (own) {
    const [a, b] = [light(style.color), light(behind(one))].sort((x, y) => y - x);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.7 && style.fontWeight >= 700);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (large ? 3 : 4.5)) found.push(`${name}: contrast ${ratio.toFixed(2)}`);
    if (parseFloat(style.fontSize) < 14) found.push(`${name}: ${style.fontSize}`);
  }
  const pressed = one.matches("button, input, summary, label[for=file]");
  if (pressed && box.height < 24) found.push(`${name}: ${box.height} high`);
}
for (const one of document.querySelectorAll("input")) if (!one.labels.length) found.push(`${one.id}: no label`);
const over = document.documentElement.scrollWidth - innerWidth;
if (over > 0) found.push(`${over} pixels too wide`);
return found;
"""  # noqa: E501


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [*WIDTHS, "narrow"])
def test_it_is_readable_narrow_and_wide_in_light_and_dark(
    page: Callable[..., Page], image_file: Path, tmp_path: Path, size: str, scheme: str
) -> None:
    shown = page(width=WIDTHS.get(size, 320), scheme=scheme)
    shown.driver.execute_script("document.getElementById('address').hidden = false")
    assert shown.driver.execute_script(SEEN) == []
    shown.picture(f"empty-{size}-{scheme}")
    shown.choose(image_file)
    shown.at("look").click()
    shown.until(lambda: shown.at("overlay").is_displayed())
    shown.driver.find_element(By.TAG_NAME, "summary").click()
    assert shown.driver.execute_script(SEEN) == []
    shown.picture(f"answer-{size}-{scheme}")
    (tmp_path / "words.jpg").write_bytes(b"no photo")
    shown.at("file").send_keys(str(tmp_path / "words.jpg"))
    shown.until(lambda: shown.at("problem").text)
    assert shown.driver.execute_script(SEEN) == []


def test_a_screen_reader_is_told_everything(page: Callable[..., Page], image_file: Path) -> None:
    shown = page()
    shown.choose(image_file)
    shown.at("look").click()
    shown.until(lambda: shown.at("overlay").is_displayed())
    nodes = shown.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    spoken = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and "role" in node
    ]
    roles = {role for role, _ in spoken}
    assert {"main", "heading", "status", "alert", "button", "image", "list"} <= roles
    named = ("button", "image", "heading", "link", "slider", "textbox")
    assert all(name for role, name in spoken if role in named), [
        one for one in spoken if not one[1]
    ]
    assert any("The strongest evidence for" in name for role, name in spoken if role == "image")


def test_the_page_says_when_a_image_is_unknown_and_else_which_classes_it_may_be(
    browser: Any,
    context: TrainingContext,
    classifier: Classifier,
    image_file: Path,
    tmp_path: Path,
) -> None:
    data, config = context.data(context.config), context.config
    labels, valid = data.labels("train"), torch.arange(len(data.labels("valid")))
    novelty = fit(
        MAHALANOBIS,
        features_of(context, classifier, config, "train", torch.arange(len(labels))),
        labels,
    )
    valid_features = features_of(context, classifier, config, "valid", valid)
    alarms = threshold_of(novelty.distance(valid_features))
    unknown = {"method": MAHALANOBIS, "width": novelty.width, **alarms}
    answers = {"sets": {"coverage": 0.9, "least": 0.0}, "unknown": unknown}
    content = tmp_path / "content"
    content.mkdir()
    write_folder(content, classifier, context.evaluation, context.classes, {}, answers=answers)
    novelty.write(content)
    stripes = tmp_path / "stripes.png"
    Image.fromarray(np.where(np.indices((96, 96))[1] % 24 < 12, 255, 0).astype(np.uint8)).convert(
        "RGB"
    ).save(stripes)
    server = Server(content)
    try:
        shown = Page(browser, server.url)
        shown.choose(stripes)
        assert shown.at("unknown").text.startswith(
            "Unknown: it is unlike the images of every class"
        )
        assert not shown.at("set").is_displayed()
        shown.choose(image_file)
        shown.until(lambda: shown.at("set").text.startswith("One of these 4, 90% sure: "))
        assert not shown.at("unknown").is_displayed()
        assert shown.complaints() == []
    finally:
        server.stop()
