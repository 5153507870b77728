"""The report and TensorBoard in a real headless Chromium, with the network cut."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import preloaded
import pytest
from made_runs import HOSTILE, write_run

from breedlab.reporting.report import write_report

selenium = pytest.importorskip("selenium.webdriver.support.ui")
pytestmark = pytest.mark.slow

COLORS = ("amber", "ivory", "slate", "brindle", "saddled", "golden", "sable")
BREEDS = [f"{color} {kind} dog" for color in COLORS for kind in range(19)]
Words = Callable[..., list[str]]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report of 133 classes, one of them with a hostile name."""
    assert len(BREEDS) == 133
    folder = tmp_path_factory.mktemp("made")
    made = write_run(
        folder / "run", classes=[HOSTILE, *BREEDS[1:]], images=folder / "photos", steps=4000
    )
    return write_report([made]).as_uri()


def open_page(browser: Any, address: str, width: int, scheme: str) -> None:
    browser.execute_cdp_cmd("Network.enable", {})
    cut = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", cut)
    scheme_of = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme_of)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(address)
    drawn = "return document.documentElement.dataset.drawn"
    selenium.WebDriverWait(browser, 60).until(lambda _: browser.execute_script(drawn))


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_every_chart_is_drawn_and_nothing_is_said_asked_or_wider_than_the_window(
    page: str, browser: Any, width: int, scheme: str
) -> None:
    open_page(browser, page, width, scheme)
    asked = browser.execute_script(
        "return [...document.querySelectorAll('[data-chart]')].map(c => c.dataset.chart)"
    )
    drawn = """return [...document.querySelectorAll('[data-chart]')].filter(c => {
        const box = c.querySelector('svg')?.getBoundingClientRect();
        return box && box.width > 200 && box.height > 30 && box.right <= innerWidth;
    }).map(c => c.dataset.chart)"""
    assert len(asked) >= 14 and browser.execute_script(drawn) == asked
    assert browser.execute_script("return document.documentElement.scrollWidth - innerWidth") <= 0
    # Labels of an axis do not run into each other.
    crossing = """return [...document.querySelectorAll('[data-chart] .role-axis-label')].flatMap(axis => {
        const boxes = [...axis.querySelectorAll('text')]
            .filter(t => t.textContent && getComputedStyle(t).opacity !== '0')
            .map(t => [t.textContent, t.getBoundingClientRect()]);
        return boxes.flatMap(([a, one], i) => boxes.slice(i + 1).filter(([b, two]) =>
            one.left < two.right - 1 && two.left < one.right - 1 && one.top < two.bottom - 2 && two.top < one.bottom - 2
        ).map(([b]) => [axis.closest('[data-chart]').dataset.chart, a, b]));
    })"""  # noqa: E501
    assert browser.execute_script(crossing) == []
    # Nothing stands over its border, and a confusion's images stand side by side.
    wide = (
        "return [...document.querySelectorAll('.tile, .tile b, .verdict')].filter(e =>"
        " e.scrollWidth > e.clientWidth)"
    )
    assert browser.execute_script(f"{wide}.map(e => e.textContent)") == []
    rows = """return [...document.querySelectorAll('.strip')].map(strip =>
        new Set([...strip.children].map(figure => Math.round(figure.getBoundingClientRect().top))).size)"""  # noqa: E501
    assert set(browser.execute_script(rows)) == {1}
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    light = sum(int(part) for part in ground[4:-1].split(",")) > 3 * 128
    assert light == (scheme == "light")
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert page in urls and all(url.startswith(("data:", page)) for url in urls)


def test_tables_sort_and_filter_the_matrix_tells_and_paper_holds_it_all(
    page: str, browser: Any
) -> None:
    open_page(browser, page, 1280, "dark")
    column = (
        "return [...document.querySelectorAll('#per-class tbody tr:not([hidden])')].map(r =>"
        " r.cells[{}].textContent)"
    )
    recall = [float(text.partition("%")[0]) for text in browser.execute_script(column.format(4))]
    assert len(recall) == 133 and recall == sorted(recall)
    browser.execute_script("document.querySelectorAll('#per-class .sort')[4].click()")
    recall = [float(text.partition("%")[0]) for text in browser.execute_script(column.format(4))]
    assert recall == sorted(recall, reverse=True)
    found = browser.find_element("css selector", "[data-filters]")
    found.send_keys("golden 7 dog")
    names = browser.execute_script(column.format(0))
    assert names and len(names) < 20 and "golden 7 dog" in names
    cell = "const cell = document.querySelector('.matrix i.miss'); cell.click(); return cell.title"
    assert browser.execute_script(cell) == browser.find_element("css selector", ".matrix-told").text
    printed = base64.b64decode(
        browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    )
    assert (
        printed.startswith(b"%PDF")
        and printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") >= 5
    )
    assert browser.get_log("browser") == []


@pytest.fixture
def tensorboard(tmp_path: Path, words: Words, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """TensorBoard over the runs of a search, as the README starts it."""
    from breedlab.cli import launch

    monkeypatch.chdir(tmp_path)
    space = "tuner.space={optim: {lr: [0.001, 0.003]}}"
    assert (
        launch.main(
            words(
                "name=seen",
                "tuner=grid",
                "tuner.max_epochs=1",
                "trainer.max_epochs=1",
                "debugger=default",
                space,
            )
        )
        == 0
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        "runs",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    process = preloaded.FreshPopen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def test_tensorboard_opens_with_curves_and_a_row_for_each_trial(
    tensorboard: str, browser: Any
) -> None:
    runs = eventually(lambda: ask(f"{tensorboard}/data/runs"), lambda found: len(found) >= 6)
    assert {name.split("/")[0] for name in runs} == {"seen", "latest"}
    # What the debugger recorded is none of TensorBoard's runs.
    assert {name.rpartition("/")[2] for name in runs} == {"final", "trial_000", "trial_001"}
    experiment = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_RUNNING"],
    }
    wanted = {**experiment, "colParams": [], "startIndex": 0, "sliceSize": 100}
    url = f"{tensorboard}/data/plugin/hparams/session_groups"
    rows = eventually(lambda: ask(url, wanted)["sessionGroups"], lambda found: len(found) >= 3)
    # Two trials and the final run, once each though runs/latest is read too.
    names = sorted(row["name"].split("/")[-1] for row in rows)
    assert names == ["final", "trial_000", "trial_001"]
    figures = {
        metric["name"]["tag"]
        for row in rows
        for metric in row["metricValues"]
        if "final" in row["name"]
    }
    finals = ("final/valid_top1", "final/test_top1")
    assert {f"{tag}{end}" for tag in finals for end in ("", "_low", "_high")} <= figures
    layout = ask(f"{tensorboard}/data/plugin/custom_scalars/layout")
    charts = [chart for category in layout["category"] for chart in category["chart"]]
    drawn = {series["value"] for chart in charts for series in chart["margin"]["series"]}
    assert "valid/top1" in drawn
    browser.get(tensorboard)
    shown = (
        "const t = []; (function walk(n) { t.push(n.textContent || ''); n.shadowRoot &&"
        " walk(n.shadowRoot);"
    )
    shown += " n.childNodes?.forEach(walk) })(document.body); return t.join(' ')"
    eventually(
        lambda: browser.execute_script(shown),
        lambda text: "valid/top1" in text or "valid" in text,
        60,
    )


def ask(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def eventually(look: Callable[[], Any], enough: Callable[[Any], bool], seconds: float = 45) -> Any:
    """What `look` gives once it is enough."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = look()
            if enough(found) or time.monotonic() > deadline:
                assert enough(found), found
                return found
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)
