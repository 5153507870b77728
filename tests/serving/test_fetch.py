"""Images by their address: what must not be asked, by any spelling; and servers that answer
badly."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from codes import check_code

from breedlab.serving import fetch
from breedlab.serving.fetch import Fetcher, NotFetched, allowed_from
from breedlab.serving.public_addresses import is_public

PUBLIC = "93.184.216.34"
BAD_ANSWER = "BL515"
Answer = Callable[[socket.socket, str], None]


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses_are_open(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "169.254.170.2",
        "100.64.0.1",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "198.18.0.1",
        "192.0.2.1",
        "192.88.99.1",
        *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::ffff:0:127.0.0.1"),
        "64:ff9b::7f00:1",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "ff0e::1",
        "2606:4700::5efe:7f00:1",
        "2606:4700::200:5efe:a00:1",
        "100::1",
        "5f00::1",
        "3fff::1",
        "2606:4700::1%1",
        "",
        "localhost",
        "127.1",
        "0x7f000001",
        "١٢٧.0.0.1",
    ],
)
def test_no_other_address_is(address: str) -> None:
    assert not is_public(address)


class Host:
    """A web server on loopback that stands for one on the internet."""

    def __init__(self, answer: Answer, trust: ssl.SSLContext | None = None) -> None:
        self._answer, self._trust = answer, trust
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.asked: list[str] = []
        self.connected: list[tuple[str, int]] = []
        self.resolved: list[str] = []
        self.addresses: list[list[str]] = [[PUBLIC]]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        try:
            if self._trust is not None:
                connection = self._trust.wrap_socket(connection, server_side=True)
            head = b""
            while b"\r\n\r\n" not in head:
                if not (part := connection.recv(4096)):
                    return
                head += part
            self.asked.append(head.decode())
            self._answer(connection, head.decode())
        except OSError:
            pass
        finally:
            connection.close()

    def resolve(self, host: str, port: int) -> list[str]:
        self.resolved.append(host)
        return self.addresses[0] if len(self.addresses) == 1 else self.addresses.pop(0)

    def connect(self, address: str, port: int, seconds: float) -> socket.socket:
        self.connected.append((address, port))
        return socket.create_connection(self._listener.getsockname(), timeout=seconds)

    def fetcher(self, allowed: fetch.Allowed = "public", **words: float) -> Fetcher:
        return Fetcher(allowed, resolve=self.resolve, connect=self.connect, **words)  # type: ignore[arg-type]

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def host() -> Iterator[Callable[..., Host]]:
    made: list[Host] = []

    def make(answer: Answer, trust: ssl.SSLContext | None = None) -> Host:
        made.append(Host(answer, trust))
        return made[-1]

    yield make
    for one in made:
        one.close()


def says(
    body: bytes = b"photo", *headers: str, status: str = "200 OK", kind: str = "image/jpeg"
) -> Answer:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Type: {kind}", *headers])
    return lambda connection, _: connection.sendall(head.encode() + b"\r\n\r\n" + body)


def refusal(fetcher: Fetcher, url: str) -> NotFetched:
    with pytest.raises(NotFetched) as caught:
        fetcher(url)
    return caught.value


def test_a_image_is_fetched_as_a_browser_would_ask_for_it(host: Callable[..., Host]) -> None:
    made = host(says(b"photo", "Content-Length: 5"))
    assert (
        made.fetcher()("http://Bücher.Example./a b".replace(" ", "%20") + "ä.jpg?size=ü#part")
        == b"photo"
    )
    assert made.connected == [(PUBLIC, 80)] and made.resolved == ["xn--bcher-kva.example"]
    assert made.asked[0].startswith(
        "GET /a%20b%C3%A4.jpg?size=%C3%BC HTTP/1.1\r\nHost: xn--bcher-kva.example\r\n"
    )
    assert "cookie" not in made.asked[0].lower() and "authorization" not in made.asked[0].lower()


@pytest.mark.parametrize(
    ("url", "status"),
    [
        *(
            (url, 400)
            for url in (
                "",
                "photo.jpg",
                "//a.example/",
                "http:///x",
                "http:a.example",
                "http://",
                "http://.",
            )
        ),
        *(
            (url, 400)
            for url in (
                "file:///etc/passwd",
                "ftp://a.example/",
                "gopher://a.example",
                "data:,x",
                "s3://b/k",
            )
        ),
        *(
            (url, 400)
            for url in (
                "http://user@a.example/",
                "http://a:b@a.example/",
                "http://a.example@127.0.0.1/",
            )
        ),
        *(
            (url, 400)
            for url in (
                "http://127.0.0.1\\@a.example/",
                "http://a.example\\.b/",
                "http://a.example /",
            )
        ),
        *(
            (url, 400)
            for url in (
                "http://a.example\r\nHost: b/",
                "http://a.example/\r\nX: y",
                "\thttp://a.example/",
            )
        ),
        *(
            (url, 400)
            for url in (
                "http://127.1/",
                "http://0x7f.1/",
                "http://2130706433/",
                "http://017700000001/",
            )
        ),
        *(
            (url, 400)
            for url in (
                "http://0x7f000001/",
                "http://127.0.0.0x1/",
                "http://0177.0.0.1/",
                "http://127.0.0.1.1/",
            )
        ),
        *(
            (url, 400)
            for url in (
                "http://[::1/",
                "http://[::1%25lo]/",
                "http://[fe80::1%eth0]/",
                "http://a..b/",
            )
        ),
        *(
            (url, 400)
            for url in (
                "http://a.example:x/",
                "http://a.example:99999/",
                "http://-a.example/",
                "http://a%2e.b/",
            )
        ),
        *(
            (url, 400)
            for url in (
                "http://" + "a" * 64 + ".example/",
                "http://" + "a." * 130 + "b/",
                "http://\ud800/",
            )
        ),
        *(
            (url, 400)
            for url in (
                "http://a.example/" + "x" * 3000,
                "http://*.example/",
                "http://a,b.example/",
            )
        ),
        *(
            (url, 403)
            for url in (
                "http://127.0.0.1/",
                "http://127.0.0.1./",
                "http://１２７.０.０.１/",
                "http://[::1]/",
            )
        ),
        *(
            (url, 403)
            for url in (
                "http://169.254.169.254/latest/meta-data/",
                "http://[fd00:ec2::254]/",
                "http://0.0.0.0/",
            )
        ),
        *(
            (url, 403)
            for url in (
                "http://[::ffff:127.0.0.1]/",
                "http://[::ffff:7f00:1]/",
                "http://①②⑦.⓪.⓪.①/",
            )
        ),
        *(
            (url, 403)
            for url in (
                "http://localhost/",
                "http://LOCALHOST./",
                "http://ⓛocalhost/",
                "https://10.0.0.1/",
            )
        ),
        *(
            (url, 403)
            for url in (
                "http://93.184.216.34:22/",
                "http://93.184.216.34:8080/",
                "https://93.184.216.34:6379/",
            )
        ),
    ],
)
def test_what_must_not_be_asked_is_not_by_any_spelling(url: str, status: int) -> None:
    def never(address: str, port: int, seconds: float) -> socket.socket:
        raise AssertionError(f"connected to {address}")

    refused = refusal(Fetcher("public", connect=never), url)
    assert refused.status == status, str(refused)
    assert not any(word in str(refused) for word in ("127.0.0.1", "169.254", "::1", "Errno"))


@pytest.mark.parametrize(
    "inside", ["127.0.0.1", "10.0.0.7", "::1", "fd00:ec2::254", "::ffff:169.254.169.254"]
)
def test_one_address_inside_is_enough_to_refuse_a_name(
    host: Callable[..., Host], inside: str
) -> None:
    made = host(says())
    made.addresses = [[PUBLIC, inside]]
    assert refusal(made.fetcher(), "http://a.example/").status == 403
    assert not made.connected


def test_a_name_that_changes_its_address_gains_nothing(host: Callable[..., Host]) -> None:
    """DNS rebinding: the address that was checked is the one that is connected to, and no name is
    looked up again."""
    made = host(says())
    made.addresses = [[PUBLIC], ["127.0.0.1"], ["127.0.0.1"]]
    assert made.fetcher()("http://a.example/") == b"photo"
    assert made.connected == [(PUBLIC, 80)] and made.resolved == ["a.example"]
    assert refusal(made.fetcher(), "http://a.example/").status == 403


def test_the_systems_own_way_there_does_not_lead_back_to_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        resolved = Fetcher(
            (f"a.example:{listener.getsockname()[1]}",), resolve=lambda _host, _port: [PUBLIC]
        )
        resolved._connect = lambda _address, port, seconds: fetch.connect(
            "127.0.0.1", port, seconds
        )
        assert refusal(resolved, f"http://a.example:{listener.getsockname()[1]}/").status == 400


def test_only_hosts_that_are_named_are_asked(host: Callable[..., Host]) -> None:
    made = host(says())
    asks = made.fetcher(("a.example", "b.example:8443"))
    assert (
        asks("http://A.example/")
        == asks("http://a.example:443/")
        == asks("http://b.example:8443/")
        == b"photo"
    )
    for url in (
        "http://b.example/",
        "http://a.example:8080/",
        "http://x.a.example/",
        "http://a.example.evil/",
    ):
        assert refusal(asks, url).status == 403
    made.addresses = [["10.0.0.1"]]
    assert refusal(asks, "http://a.example/").status == 403
    assert refusal(made.fetcher("none"), "http://a.example/").status == 400


def test_redirects_are_followed_checked_and_counted(host: Callable[..., Host]) -> None:
    def answer(connection: socket.socket, head: str) -> None:
        path = head.split()[1]
        places = {
            "/once": "/photo",
            "/name": "http://b.example/photo",
            "/inside": "http://127.0.0.1/",
            "/file": "file:///etc/passwd",
            "/other": "http://c.example/photo",
            "/round": "/round",
            "/empty": "",
        }
        if path == "/photo":
            return says()(connection, head)
        return says(b"", f"Location: {places[path]}", status="302 Found")(connection, head)

    made = host(answer)
    asks = made.fetcher(("a.example", "b.example"))
    assert asks("http://a.example/once") == asks("http://a.example/name") == b"photo"
    assert "b.example" in made.resolved
    assert refusal(asks, "http://a.example/inside").status == 403
    assert refusal(asks, "http://a.example/other").status == 403
    assert refusal(asks, "http://a.example/file").status == 400
    assert refusal(asks, "http://a.example/empty").status == 400
    before = len(made.asked)
    check_code(refusal(asks, "http://a.example/round"), BAD_ANSWER, names="3 times")
    assert len(made.asked) - before == 4


@pytest.mark.parametrize(
    ("answer", "status", "code", "named"),
    [
        (says(status="404 Not Found"), 400, BAD_ANSWER, "404"),
        (says(status="204 No Content"), 400, BAD_ANSWER, "204"),
        (says(kind="text/html"), 400, BAD_ANSWER, "'text/html'"),
        (says(b"x", "Content-Length: 1001"), 413, "BL206", "1,000"),
        (says(b"x" * 1001), 413, "BL206", "1,000"),
        (
            says(b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
            413,
            "BL206",
            "1,000",
        ),
        (says(b"x", "Content-Length: 2"), 400, BAD_ANSWER, "its host"),
        (says(b"5\r\nph", "Transfer-Encoding: chunked"), 400, BAD_ANSWER, "its host"),
        (says(b"zz\r\nph", "Transfer-Encoding: chunked"), 400, BAD_ANSWER, "its host"),
        (says(b"x", "Content-Encoding: gzip"), 400, BAD_ANSWER, "compressed"),
        (says(b"x", *(f"X-{n}: y" for n in range(300))), 400, BAD_ANSWER, "its host"),
        (says(b"x", "X: " + "y" * 100_000), 400, BAD_ANSWER, "its host"),
        (
            lambda connection, _: connection.sendall(b"SSH-2.0-OpenSSH\r\n"),
            400,
            BAD_ANSWER,
            "its host",
        ),
        (lambda connection, _: None, 400, BAD_ANSWER, "its host"),
    ],
)
def test_what_a_host_sends_instead_of_a_image(
    host: Callable[..., Host], answer: Answer, status: int, code: str, named: str
) -> None:
    refused = refusal(host(answer).fetcher(max_bytes=1000), "http://a.example/")
    assert refused.status == status, str(refused)
    check_code(refused, code, names=named)


@pytest.mark.parametrize("where", ["head", "body", "silence"])
def test_a_host_that_drips_is_left_at_the_deadline(host: Callable[..., Host], where: str) -> None:
    """Each byte comes in good time; all of them together do not."""

    def drip(connection: socket.socket, _head: str) -> None:
        if where == "silence":
            return time.sleep(5)
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"
            + (b"\r\n" if where == "body" else b"")
        )
        while True:
            connection.sendall(b"X")
            time.sleep(0.05)

    started = time.monotonic()
    refused = refusal(host(drip).fetcher(seconds=0.6), "http://a.example/")
    assert time.monotonic() - started < 4
    check_code(refused, BAD_ANSWER, names="0.6 seconds")


def test_a_name_server_that_says_nothing_is_not_waited_for() -> None:
    done = threading.Event()
    started = time.monotonic()
    asks = Fetcher(
        "public", seconds=0.3, resolve=lambda _host, _port: [PUBLIC] if done.wait(10) else []
    )
    check_code(refusal(asks, "http://a.example/"), BAD_ANSWER, names="0.3 seconds")
    assert time.monotonic() - started < 4
    done.set()


def test_the_environments_proxies_are_not_asked(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert host(says()).fetcher()("http://a.example/") == b"photo"


def test_tls_is_verified_against_the_name(
    host: Callable[..., Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=a.example",
    ]
    command += [
        "-addext",
        "subjectAltName=DNS:a.example",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(command, check=True, capture_output=True)
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.load_cert_chain(certificate, key)
    asks = host(says(), trust).fetcher()
    check_code(refusal(asks, "https://a.example/"), BAD_ANSWER, names="certificate")
    monkeypatch.setattr(
        fetch, "_trust", lambda: ssl.create_default_context(cafile=str(certificate))
    )
    assert asks("https://a.example/") == b"photo"
    check_code(refusal(asks, "https://b.example/"), BAD_ANSWER, names="certificate")


def test_https_is_not_redirected_to_http(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = host(says()).fetcher()
    monkeypatch.setattr(asks, "_ask", lambda url, _deadline: "http://a.example/")
    assert refusal(asks, "https://a.example/").status == 403


@pytest.mark.parametrize(
    ("given", "meant"), [("none", "none"), ("public", "public"), ("a.b,c:8443", ("a.b", "c:8443"))]
)
def test_allow_urls_is_read_from_words_and_lists(given: str, meant: fetch.Allowed) -> None:
    assert allowed_from(given) == meant
    assert allowed_from(given.split(",")) == (
        (given,) if isinstance(meant, str) else meant
    ) or isinstance(meant, str)


@pytest.mark.parametrize(
    "given", ["", "a.b,", "http://a.b", "A.b", "a b", "*.b", "a.b:0", "a.b:99999", ["a/b"], [""]]
)
def test_allow_urls_names_hosts_and_nothing_else(given: str | list[str]) -> None:
    with pytest.raises(ValueError, match="the name of a host"):
        allowed_from(given)
