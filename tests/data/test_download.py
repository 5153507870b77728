"""Downloads against a real server on this machine that misbehaves as told."""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
import socket
import stat
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import preloaded
import pytest
from codes import Names, raises_code

from breedlab import __version__
from breedlab.data import download
from breedlab.data.download import CHUNK, Archive, fetch


def _images() -> dict[str, bytes]:
    draw = random.Random(1)
    names = [
        f"{split}/{breed}/{n}.jpg"
        for split in ("train", "test")
        for breed in "ab"
        for n in range(3)
    ]
    return {name: draw.randbytes(50_000) for name in names}


IMAGES = _images()


def _zip(entries: dict[str, bytes] | list[tuple[zipfile.ZipInfo, bytes]], method: int = 0) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for entry, content in entries.items() if isinstance(entries, dict) else entries:
            archive.writestr(entry, content)
    return out.getvalue()


JUNK = {"dogImages/__MACOSX/0.jpg": b"x", "dogImages/.DS_Store": b"x", "readme.txt": b"x"}
CONTENT = _zip({f"dogImages/{name}": image for name, image in IMAGES.items()} | JUNK)
OTHER = _zip({f"dogImages/{name}": image[::-1] for name, image in IMAGES.items()} | JUNK)


class Site:
    """A server's content, how it behaves, and what it was asked and sent."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.etag = '"one"'
        self.ranges = True
        self.if_range = True
        self.length = True
        self.cut_ranges: int | None = None
        self.shift_ranges = 0
        # One a request: a status to answer, or after how many bytes of the body to drop the
        # connection.
        self.script: list[tuple[str, int]] = []
        # What happens after each request, such as a change of the file.
        self.after: Callable[[], None] = lambda: None
        self.stall = 0.0
        self.requests: list[dict[str, str]] = []
        self.sent = 0
        self.url = ""

    @property
    def asked(self) -> list[str | None]:
        """The ranges asked for."""
        return [request.get("Range") for request in self.requests]

    def archive(self, **changes: Any) -> Archive:
        return replace(Archive(self.url, len(self.content), "dogImages"), **changes)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients go away in these tests; a traceback would only hide what matters."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        site = self.site
        site.requests.append(dict(self.headers))
        kind, value = site.script.pop(0) if site.script else ("drop", sys.maxsize)
        start = 0
        if kind == "status":
            body = b"no"
            self.send_response(value)
        else:
            asked = self.headers.get("Range")
            fits = not site.if_range or self.headers.get("If-Range", site.etag) == site.etag
            body = site.content
            if asked and site.ranges and fits:
                start = int(asked.removeprefix("bytes=").removesuffix("-")) + site.shift_ranges
                if start >= len(body):
                    body = b""
                    self.send_response(416)
                else:
                    body = body[start:][: site.cut_ranges]
                    self.send_response(206)
                    end = start + len(body) - 1
                    self.send_header("Content-Range", f"bytes {start}-{end}/{len(site.content)}")
            else:
                self.send_response(200)
            if site.etag:
                self.send_header("ETag", site.etag)
        if site.length:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.close_connection = True
        self.end_headers()
        dropped = kind == "drop" and value < len(body)
        if dropped:
            body = body[:value]
            self.close_connection = True
        site.sent += len(body)  # before the client can have the last byte and a test look
        try:
            self.wfile.write(body)
            if dropped:
                time.sleep(site.stall)
        except OSError:
            pass  # the client went away
        site.after()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(download, "BACKOFF", 0.0)
    monkeypatch.setattr(download, "READ_TIMEOUT", 5.0)
    site = Site()
    server = Server(("127.0.0.1", 0), type("SiteHandler", (Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{server.server_port}/dogImages.zip"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "dogs"


def _files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def _beside(root: Path) -> set[str]:
    return {path.name for path in root.parent.iterdir()}


def _part(root: Path, content: bytes, etag: str | None = None) -> Path:
    """What an earlier process left."""
    root.parent.mkdir(parents=True, exist_ok=True)
    part = root.parent / "dogs.zip.part"
    part.write_bytes(content)
    if etag:
        part.with_name("dogs.zip.part.etag").write_text(etag)
    return part


def _fetched(root: Path, images: dict[str, bytes] = IMAGES) -> bool:
    """Whether exactly the images are there and nothing is left beside them."""
    return _files(root) == images and _beside(root) == {"dogs"}


LATER, UNEXPECTED, FULL = "BL212", "BL213", "BL301"


def _refused(archive: Archive, root: Path, code: str, names: Names = ()) -> str:
    with raises_code(code, names=names) as error:
        fetch(archive, root)
    assert not root.exists()
    assert not (root.parent / "dogs.unpacking").exists()
    return str(error.value)


def test_downloads_and_unpacks(site: Site, root: Path) -> None:
    told: list[tuple[str, int, int]] = []
    fetch(site.archive(), root, progress=lambda *now: told.append(now))
    assert _fetched(root)
    assert site.sent == len(CONTENT)
    assert site.requests[0]["User-Agent"] == f"breedlab/{__version__}"
    assert "Range" not in site.requests[0]
    assert told == sorted(told)
    assert told[0] == ("download", 0, len(CONTENT))
    assert ("download", len(CONTENT), len(CONTENT)) in told
    assert told[-1] == ("extract", len(IMAGES), len(IMAGES))


@pytest.mark.parametrize("folder, kept", [("dogImages/train", 6), ("", 13)])
def test_any_folder_of_the_zip_can_be_the_root(
    site: Site, root: Path, folder: str, kept: int
) -> None:
    fetch(site.archive(folder=folder), root)
    assert len(_files(root)) == kept


def test_a_root_with_something_in_it_is_left_alone(site: Site, root: Path) -> None:
    (root / "train").mkdir(parents=True)
    fetch(site.archive(), root)
    assert not site.requests
    assert not _files(root)


def test_an_empty_root_is_filled(site: Site, root: Path) -> None:
    root.mkdir(parents=True)
    fetch(site.archive(), root)
    assert _fetched(root)


def test_a_linked_root_fills_the_disk_it_links_to(site: Site, root: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    root.parent.mkdir()
    root.symlink_to(tmp_path / "scratch" / "dogs")
    fetch(site.archive(), root)
    assert _fetched(tmp_path / "scratch" / "dogs")
    assert _files(root) == IMAGES


def test_a_file_in_the_place_of_the_root_is_named(site: Site, root: Path) -> None:
    root.parent.mkdir()
    root.write_text("not a folder")
    with raises_code("BL200", names=root):
        fetch(site.archive(), root)
    assert not site.requests


def test_dropped_connections_repeat_nothing(site: Site, root: Path) -> None:
    site.script = [("drop", 100_000)] * 5
    fetch(site.archive(), root)
    assert _fetched(root)
    assert site.sent == len(CONTENT)
    assert site.asked == [None, *(f"bytes={n}00000-" for n in range(1, 6))]
    assert [request.get("If-Range") for request in site.requests] == [None, *['"one"'] * 5]


def test_a_server_that_cuts_ranges_is_asked_again(site: Site, root: Path) -> None:
    site.cut_ranges = 200_000
    _part(root, CONTENT[:50_000])
    fetch(site.archive(), root)
    assert _fetched(root)
    assert site.sent == len(CONTENT) - 50_000


def test_a_server_that_sends_another_range_starts_over(site: Site, root: Path) -> None:
    site.shift_ranges = -10
    _part(root, CONTENT[:50_000])
    fetch(site.archive(), root)
    assert _fetched(root)
    assert site.asked == ["bytes=50000-", None]


def test_drops_do_not_add_up_while_there_is_progress(site: Site, root: Path) -> None:
    site.script = [("drop", 0), ("drop", 0), ("drop", 100_000)] * 5
    fetch(site.archive(), root)
    assert _fetched(root)
    assert site.sent == len(CONTENT)


def test_drops_without_progress_end_in_one_message(site: Site, root: Path) -> None:
    site.script = [("drop", 200_000)] + [("drop", 0)] * 50
    _refused(site.archive(), root, LATER, names=("0.2 MB", f"{root}.zip.part"))
    assert len(site.requests) <= 1 + download.RETRIES + 1
    site.script = []
    fetch(site.archive(), root)
    assert _fetched(root)
    assert site.sent == len(CONTENT)


def test_a_stalled_connection_is_dropped_and_resumed(
    site: Site, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "READ_TIMEOUT", 0.2)
    site.script, site.stall = [("drop", 3 * CHUNK + 10)], 0.5
    fetch(site.archive(), root)
    assert _fetched(root)
    assert site.asked == [None, f"bytes={3 * CHUNK}-"]


def test_a_part_of_an_earlier_process_is_resumed(site: Site, root: Path) -> None:
    _part(root, CONTENT[:400_000], '"one"')
    told: list[tuple[str, int, int]] = []
    fetch(site.archive(), root, progress=lambda *now: told.append(now))
    assert _fetched(root)
    assert site.sent == len(CONTENT) - 400_000
    assert told[0] == ("download", 400_000, len(CONTENT))


def test_a_killed_process_is_resumed(site: Site, root: Path) -> None:
    site.script, site.stall = [("drop", 4 * CHUNK)], 2.0
    code = (
        "from pathlib import Path\n"
        "from breedlab.data.download import *\n"
        f"fetch({site.archive()!r}, Path({str(root)!r}))"
    )
    path = os.pathsep.join(filter(None, sys.path))
    process = preloaded.FreshPopen(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}
    )
    part = root.parent / "dogs.zip.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size == 4 * CHUNK) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    fetch(site.archive(), root)
    assert _fetched(root)
    assert site.asked == [None, f"bytes={4 * CHUNK}-"]


@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) + 5])
def test_a_finished_or_too_long_part(site: Site, root: Path, length: int) -> None:
    _part(root, (CONTENT + b"extra")[:length], '"one"')
    fetch(site.archive(), root)
    assert _fetched(root)
    assert site.asked == ([] if length == len(CONTENT) else [None])


def test_a_server_without_ranges_starts_over(site: Site, root: Path) -> None:
    site.ranges = False
    _part(root, b"?" * 300_000)
    fetch(site.archive(), root)
    assert _fetched(root)
    assert site.sent == len(CONTENT)


def test_a_server_without_ranges_that_drops_ends_in_one_message(site: Site, root: Path) -> None:
    site.ranges = False
    site.script = [("drop", 100_000)] * 50
    _refused(site.archive(), root, LATER, names=site.url)
    assert len(site.requests) <= 1 + download.RETRIES + 1


def test_a_refused_range_starts_over(site: Site, root: Path) -> None:
    _part(root, b"?" * 1000)
    site.script = [("status", 416)]
    fetch(site.archive(), root)
    assert _fetched(root)
    assert site.asked == ["bytes=1000-", None]


@pytest.mark.parametrize(
    "before, now, if_range",
    [('"one"', '"two"', True), ('"one"', '"two"', False), ('W/"one"', 'W/"two"', True)],
)
def test_a_file_that_changed_between_processes_starts_over(
    site: Site, root: Path, before: str, now: str, if_range: bool
) -> None:
    site.etag, site.if_range = now, if_range
    _part(root, OTHER[:300_000], before)
    fetch(site.archive(), root)
    assert _fetched(root)


def test_a_weak_etag_allows_resuming(site: Site, root: Path) -> None:
    site.etag = 'W/"one"'
    site.script = [("drop", 100_000)]
    fetch(site.archive(), root)
    assert _fetched(root)
    assert site.sent == len(CONTENT)
    assert "If-Range" not in site.requests[1]


def test_a_file_that_changes_during_the_download_starts_over(site: Site, root: Path) -> None:
    def change() -> None:
        site.content, site.etag = OTHER, '"two"'

    site.script, site.after = [("drop", 200_000)], change
    fetch(site.archive(), root)
    assert _fetched(root, {name: image[::-1] for name, image in IMAGES.items()})
    assert site.sent == 200_000 + len(OTHER)


def test_errors_of_the_server_are_tried_again(site: Site, root: Path) -> None:
    site.script = [("status", 500)] * 2
    fetch(site.archive(), root)
    assert _fetched(root)
    assert len(site.requests) == 3


@pytest.mark.parametrize("status, tries", [(503, download.RETRIES + 1), (404, 1), (403, 1)])
def test_an_answer_without_the_file_is_named(
    site: Site, root: Path, status: int, tries: int
) -> None:
    site.script = [("status", status)] * 20
    _refused(site.archive(), root, LATER, names=(status, site.url))
    assert len(site.requests) == tries


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("difference, given", [(1, "{0} bytes"), (-1, "more than {1} bytes")])
def test_a_wrong_size_is_named_and_not_kept(
    site: Site, root: Path, length: bool, difference: int, given: str
) -> None:
    site.length = length
    expected = len(CONTENT) + difference
    given = "{0} bytes" if length else given
    names = (site.url, given.format(len(CONTENT), expected), expected)
    _refused(site.archive(bytes=expected), root, UNEXPECTED, names)
    assert _beside(root) == set()


def test_a_part_of_a_file_of_another_size_is_not_kept(site: Site, root: Path) -> None:
    _part(root, CONTENT[:1000], '"one"')
    archive = site.archive(bytes=len(CONTENT) + 1)
    _refused(archive, root, UNEXPECTED, names=(len(CONTENT), len(CONTENT) + 1))
    assert _beside(root) == set()


def test_a_login_page_costs_nothing_of_what_is_there(site: Site, root: Path) -> None:
    part = _part(root, CONTENT[:300_000], '"one"')
    site.content, site.etag = b"<html>please log in</html>", ""
    site.ranges = False
    assert "a network's login page" in _refused(site.archive(bytes=len(CONTENT)), root, UNEXPECTED)
    assert part.read_bytes() == CONTENT[:300_000]


def test_a_complete_zip_put_by_hand_is_used(site: Site, root: Path) -> None:
    _part(root, CONTENT[:10], '"one"')
    (root.parent / "dogs.zip").write_bytes(CONTENT)
    fetch(site.archive(), root)
    assert _fetched(root)
    assert not site.requests


def test_an_incomplete_zip_put_by_hand_is_named_and_kept(site: Site, root: Path) -> None:
    root.parent.mkdir()
    by_hand = root.parent / "dogs.zip"
    by_hand.write_bytes(CONTENT[:-9])
    names = (by_hand, len(CONTENT) - 9, site.url, len(CONTENT))
    _refused(site.archive(), root, UNEXPECTED, names)
    assert by_hand.exists()
    assert not site.requests


def _closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_offline_names_reason_and_ways_out(site: Site, root: Path) -> None:
    url = f"http://127.0.0.1:{_closed_port()}/dogs.zip"
    _part(root, CONTENT[:200_000])
    message = _refused(site.archive(url=url), root, LATER)
    assert message.splitlines() == [
        f"{url} could not be downloaded: connection refused.",
        f"What was fetched so far (0.2 MB) is kept in {root}.zip.part; the next run resumes there.",
        "Run again later, or instead:",
        f"  - fetch it ({len(CONTENT)} bytes) by other means and put it at {root}.zip",
        "  - use your own images: data=image_folder data.root=<your images>",
        "  - use generated images: data=sample",
    ]
    fetch(site.archive(), root)
    assert _fetched(root)
    assert site.sent == len(CONTENT) - 200_000


def test_a_name_that_does_not_resolve(
    site: Site, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    url = "https://photos.invalid/dogs.zip"
    _refused(site.archive(url=url), root, LATER, names=(url, "host name"))


def test_a_server_that_does_not_answer(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BACKOFF", 0.0)
    monkeypatch.setattr(download, "READ_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/dogs.zip"
        _refused(Archive(url, 10, "dogs"), root, LATER, names=(url, "0.05 s"))


@pytest.mark.parametrize("url", ["ftp://a.example/dogs.zip", "file:///etc/passwd", "dogs.zip"])
def test_only_http_is_downloaded(root: Path, url: str) -> None:
    _refused(Archive(url, 10, "dogs"), root, "BL200", names=(repr(url), "http://", "https://"))


def test_a_url_without_host_is_named(root: Path) -> None:
    _refused(Archive("http://", 10, "d"), root, LATER, names=("http://", "host"))


def test_an_interruption_keeps_what_was_fetched(site: Site, root: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if done >= 250_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(site.archive(), root, progress=interrupt)
    kept = (root.parent / "dogs.zip.part").stat().st_size
    assert 250_000 <= kept < 250_000 + CHUNK
    fetch(site.archive(), root)
    assert _fetched(root)
    assert site.asked == [None, f"bytes={kept}-"]


def test_an_interrupted_extraction_starts_again_without_download(site: Site, root: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "extract" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(site.archive(), root, progress=interrupt)
    assert _beside(root) - {"dogs.zip.part.etag"} == {"dogs.zip"}
    (root.parent / "dogs.unpacking").mkdir()
    (root.parent / "dogs.unpacking" / "of a killed process").write_text("old")
    fetch(site.archive(), root)
    assert _fetched(root)
    assert site.sent == len(CONTENT)


def test_the_disk_fills_up_during_the_download(
    site: Site, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_really = Path.open

    def open_on_small_disk(self: Path, *args: Any, **kwargs: Any) -> Any:
        file = open_really(self, *args, **kwargs)
        if self.suffix != ".part":
            return file

        class SmallDisk:
            def __enter__(self) -> SmallDisk:
                return self

            def __exit__(self, *exception: object) -> None:
                file.close()

            def write(self, data: bytes) -> None:
                if file.tell() > 200_000:
                    raise OSError(errno.ENOSPC, "No space left on device")
                file.write(data)

        return SmallDisk()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_on_small_disk)
        _refused(site.archive(), root, FULL, names=root.parent)
    kept = (root.parent / "dogs.zip.part").stat().st_size
    assert kept > 200_000
    fetch(site.archive(), root)
    assert _fetched(root)
    assert site.asked[-1] == f"bytes={kept}-"


def test_the_disk_fills_up_during_the_extraction(
    site: Site, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    _refused(site.archive(), root, FULL, names=root.parent)
    assert (root.parent / "dogs.zip").read_bytes() == CONTENT


def test_space_is_checked_before_the_download(
    site: Site, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1_500_000_000))
    names = (root.parent, "1.50 GB", "2.26 GB", site.url)
    _refused(site.archive(bytes=1_132_023_110), root, FULL, names)
    assert not site.requests


def test_space_is_checked_before_the_extraction(
    site: Site, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.parent.mkdir()
    (root.parent / "dogs.zip").write_bytes(CONTENT)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=100_000))
    _refused(site.archive(), root, FULL, names=("0.1 MB", "0.6 MB", f"{root}.zip"))
    assert (root.parent / "dogs.zip").exists()


def test_a_folder_that_cannot_be_made_is_named(site: Site, root: Path) -> None:
    root.parent.write_text("a file")
    _refused(site.archive(), root, "BL200", names=(root.parent, "data.root"))
    assert not site.requests


def _link(name: str, mode: int = stat.S_IFLNK) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (mode | 0o777) << 16
    return info


EVIL = {
    "parent": (zipfile.ZipInfo("dogImages/../../evil.txt"), "leads out of its folder"),
    "backslashes": (zipfile.ZipInfo("dogImages\\..\\..\\evil.txt"), "leads out of its folder"),
    "absolute": (zipfile.ZipInfo("/tmp/evil.txt"), "leads out of its folder"),
    "drive": (zipfile.ZipInfo("C:\\evil.txt"), "leads out of its folder"),
    "inner drive": (zipfile.ZipInfo("dogImages/C:evil.txt"), "leads out of its folder"),
    "symlink": (_link("dogImages/link"), "is a link or device"),
    "ignored symlink": (_link("__MACOSX/link"), "is a link or device"),
    "pipe": (_link("dogImages/pipe", stat.S_IFIFO), "is a link or device"),
}


@pytest.mark.parametrize("kind", EVIL)
def test_entries_that_may_do_harm_are_refused(site: Site, root: Path, kind: str) -> None:
    entry, why = EVIL[kind]
    site.content = _zip([(zipfile.ZipInfo("dogImages/a/1.jpg"), b"photo"), (entry, b"/etc/passwd")])
    _refused(site.archive(), root, UNEXPECTED, names=(f"{root}.zip", repr(entry.filename), why))
    assert _beside(root) - {"dogs.zip.part.etag"} == {"dogs.zip"}
    assert not list(root.parent.parent.rglob("evil*"))


def test_backslashes_separate_folders(site: Site, root: Path) -> None:
    site.content = _zip({"dogImages\\a\\1.jpg": b"photo", "dogImages\\b\\": b""})
    fetch(site.archive(), root)
    assert _files(root) == {"a/1.jpg": b"photo"}


@pytest.mark.parametrize("limit", ["MAX_UNPACKED", "GROWTH_MATTERS_FROM"])
def test_zip_bombs_are_refused(
    site: Site, root: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(download, limit, 10**6)
    site.content = _zip({"dogImages/a/1.jpg": bytes(2_000_000)}, zipfile.ZIP_DEFLATED)
    _refused(site.archive(), root, UNEXPECTED, names=(f"{root}.zip", "0.0 MB", "2.0 MB"))


def test_small_archives_may_grow(site: Site, root: Path) -> None:
    site.content = _zip({"dogImages/a/1.bmp": bytes(2_000_000)}, zipfile.ZIP_DEFLATED)
    fetch(site.archive(), root)
    assert _files(root) == {"a/1.bmp": bytes(2_000_000)}


def test_a_wrong_size_inside_the_zip_is_found(site: Site, root: Path) -> None:
    """An entry cannot unpack to more than the size that was checked against the limits."""
    content = _zip({"dogImages/a/1.bmp": bytes(2_000_000)}, zipfile.ZIP_DEFLATED)
    # It stands in the entry and in the directory.
    site.content = content.replace((2_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    assert "Bad CRC-32" in _refused(site.archive(), root, UNEXPECTED)


def _flip(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def _encrypted() -> bytes:
    """The flag alone; zipfile cannot encrypt."""
    content = bytearray(CONTENT)
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


DAMAGED = {
    "photo": _flip(CONTENT, 30_000),
    "directory": _flip(CONTENT, CONTENT.index(b"PK\x01\x02")),
    "end": CONTENT[:-50],
    "no zip": bytes(1000),
    "empty": b"x",
    "stream": _flip(_zip({"dogImages/1.jpg": b"photo" * 9000}, zipfile.ZIP_DEFLATED), 60),
    "bzip2": _flip(_zip({"dogImages/1.jpg": b"photo" * 9000}, zipfile.ZIP_BZIP2), 60),
    "lzma": _flip(_zip({"dogImages/1.jpg": b"photo" * 9000}, zipfile.ZIP_LZMA), 60),
    "encrypted": _encrypted(),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_zip_is_named(site: Site, root: Path, kind: str) -> None:
    site.content = DAMAGED[kind]
    message = _refused(site.archive(), root, UNEXPECTED)
    assert message.startswith(f"{root}.zip ") and message.count(f"{root}.zip") == 2
    (root.parent / "dogs.zip").unlink()
    site.content = CONTENT
    fetch(site.archive(), root)
    assert _fetched(root)


def test_a_folder_that_is_not_in_the_zip_is_named(site: Site, root: Path) -> None:
    message = _refused(site.archive(folder="dogimages"), root, UNEXPECTED)
    assert "'dogimages'" in message and "dogImages, readme.txt" in message
    fetch(site.archive(), root)
    assert _fetched(root)
    assert site.sent == len(CONTENT)


def test_an_error_of_the_progress_display_is_its_own(site: Site, root: Path) -> None:
    def fail(stage: str, done: int, total: int) -> None:
        if stage == "extract":
            raise ValueError("display")

    with pytest.raises(ValueError, match="display"):
        fetch(site.archive(), root, progress=fail)
