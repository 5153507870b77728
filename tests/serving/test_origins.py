"""Which web pages may ask a server on this machine, and what it tells those who ask."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import requests
from rich.table import Table
from test_guard import running

from breedlab import cli
from breedlab.console import SafeConsole
from breedlab.serving.access import allowed_hosts
from breedlab.serving.invocations import Access
from breedlab.serving.model import Model
from breedlab.serving.protocol import settings
from breedlab.serving.response import Answer
from breedlab.serving.server import make_app


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:{port}", None, None),
        ("localhost:{port}", None, None),
        ("LOCALHOST.:{port}", None, None),
        ("[::1]:{port}", None, None),
        ("dogs.example", None, None),
        ("dogs.example:443", "https://dogs.example:443", None),
        ("localhost:{port}", "http://localhost:{port}", None),
        ("", None, None),  # HTTP/1.0, which no browser speaks
        ("evil.example", None, 421),
        ("evil.example:{port}", "http://evil.example:{port}", 421),
        ("127.0.0.1.evil.example", None, 421),
        ("localhost:{port}@evil.example", None, 421),
        ("localhost:{port}", "http://evil.example", 403),
        ("localhost:{port}", "http://localhost:3000", 403),
        ("localhost:{port}", "null", 403),
        ("localhost:{port}", "", 403),
        ("", "http://evil.example", 403),
    ],
)
def test_only_its_own_pages_ask_a_server_on_loopback(
    host: str, origin: str | None, status: int | None
) -> None:
    hosts = allowed_hosts("127.0.0.1", "Dogs.example")
    headers = [(b"host", host.format(port=8080).encode())]
    if origin is not None:
        headers.append((b"origin", origin.format(port=8080).encode()))
    reply, _ = Access(hosts=hosts).admit("POST", "/invocations", headers)
    assert (reply and reply.status) == status
    # a container is asked by any name
    anywhere = Access(hosts=allowed_hosts("0.0.0.0", None))
    assert anywhere.admit("POST", "/invocations", headers) == (None, [])


@pytest.mark.parametrize("name", ["a/b", "http://a", "a:80", "[::1", "a b:c"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        allowed_hosts("127.0.0.1", name)


LINEAGE: dict[str, Any] = {
    "experiment": "dogs",
    "run": "2026-01-01",
    "started": "2026-01-01T00:00:00",
    "command": ["launch.py", "data.root=/home/secret"],
    "git": {"commit": "abc", "changed": False},
    "data": {"root": "/home/secret", "fingerprint": "f", "photos": {"train": 3}},
    "packages": {"breedlab": "1.0", "torch": "2"},
    "machine": {"platform": "secret"},
    "parent": "/home/secret/run",
    "test": {"top1": 0.5},
}


def test_every_path_is_refused_to_strangers_and_none_tells_of_this_machine(
    model: Model, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "lineage", LINEAGE)
    with running(
        settings(make_app(model, access=Access(hosts=allowed_hosts("127.0.0.1", None))))
    ) as port:
        url = f"http://127.0.0.1:{port}"
        for path in ("/", "/model", "/ping", "/metrics", "/docs", "/openapi.json"):
            assert requests.get(url + path, timeout=60).status_code == 200
            assert (
                requests.get(url + path, headers={"Host": "evil.example"}, timeout=60).status_code
                == 421
            )
        for path in ("/invocations", "/explain", "/photo"):
            refused = requests.post(
                url + path, data=image, headers={"Origin": "http://evil.example"}, timeout=60
            )
            assert refused.status_code == 403 and refused.json()["code"] == "BL516"
        own = requests.post(
            url + "/invocations?verbose=1", data=image, headers={"Origin": url}, timeout=60
        )
        for told in (own.json(), requests.get(url + "/model", timeout=60).json()):
            assert "secret" not in json.dumps(told)
            lineage = told["lineage"]
            assert lineage["git"]["commit"] == "abc" and lineage["test"] == {"top1": 0.5}
            assert lineage["breedlab"] == "1.0" and lineage["architecture"] == "resnet18"
    # The same in SageMaker's container.
    verbose = Answer(model.scores(model.prepare(image)[None]).numpy(), model).verbose()
    assert "secret" not in json.dumps(verbose)


def test_the_page_shows_the_metrics_that_the_terminal_shows(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five guesses of so few classes say nothing."""
    lineage = {
        "test": {"top1": 0.5, "top5": 1.0, "loss": 0.7},
        "test_intervals": {"top1": [0.25, 0.75], "top5": [0.9, 1.0]},
    }
    monkeypatch.setattr(model, "lineage", lineage)
    with running(settings(make_app(model))) as port:
        about = requests.get(f"http://127.0.0.1:{port}/model", timeout=60).json()
    assert about["test"] == {"top-1": "50.0% (25.0% to 75.0%)", "cross-entropy": "0.700"}


ESCAPES = "\x1b]0;owned\x07\x1b[2Jdog\x9b31m\r\x08"


def test_no_text_steers_the_terminal() -> None:
    out = io.StringIO()
    console = SafeConsole(file=out, width=200, force_terminal=True, color_system="truecolor")
    table = Table("a")
    table.add_row(ESCAPES)
    for shown in (ESCAPES, f"[bold]{ESCAPES}[/bold]", table):
        console.print(shown)
    shown = out.getvalue()
    for code in ("\x1b]", "\x1b[2J", "\x07", "\x9b", "\x08"):
        assert code not in shown
    assert "dog" in shown and "\x1b[1m" in shown  # its own styles are as they were


def test_no_message_steers_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["predict.py", str(tmp_path), str(tmp_path / ESCAPES)])
    with pytest.raises(SystemExit):
        cli.run("predict")
    told = capsys.readouterr().err
    assert (
        "owned" in told
        and "\x1b" not in told
        and "\x9b" not in told
        and len(told.splitlines()) == 1
    )
