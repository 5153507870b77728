"""`breedlab serve`: a model behind HTTP on this machine."""

from __future__ import annotations

import functools
import os
import socket
import sys
from pathlib import Path

from breedlab import extras, hardware
from breedlab.archives import opened
from breedlab.cli.parser import Parser
from breedlab.cli.plugins import without_plugins
from breedlab.config.plugins import load_plugins_of
from breedlab.console import progress
from breedlab.errors import MissingExtra, ServingError
from breedlab.serving.access import allowed_hosts, read_key, read_origins
from breedlab.serving.fetch import Allowed, Fetcher, allowed_from


def main(argv: list[str]) -> int:
    """Serve until it is asked to stop; requests that are open by then are answered.

    Raises:
        BreedlabError: If the model is not there, the port is taken, or the `serve` extra is
            missing.
    """
    parser = command_parser()
    words = parser.parse_args(without_plugins(argv))
    if not 0 <= words.port < 65536:
        parser.error(f"--port: got {words.port}; expected 0 to 65535")
    allowed = None if words.allow_urls is None else _allowed(words.allow_urls)
    key, origins = read_key(words.api_key_file), read_origins(words.cors)
    if key is not None:
        print("requests need the API key, except /ping and the page", file=sys.stderr, flush=True)
    with _listen(words.host, words.port) as listener:
        try:
            hosts = allowed_hosts(listener.getsockname()[0], words.allowed_hosts)
        except ValueError as error:
            parser.error(
                f"--allowed-hosts: got {str(error)!r}; expected names such as dogs.example, without"
                " a port"
            )
        return _serve(words.model, words.engine, listener, allowed, key, origins, hosts)


def command_parser() -> Parser:
    """Return what reads the command's args."""
    parser = Parser(
        "serve",
        "MODEL|RUN [--host HOST] [--port PORT] [flags]",
        description=(
            "Serve a model over HTTP with the API of a SageMaker endpoint (GET /ping, POST"
            " /invocations), a page at /, /docs, and /metrics."
        ),
        examples=(
            "runs/latest --port 8080",
            "runs/latest --allow-urls public",
        ),
        plugins=True,
    )
    parser.add_argument(
        "model", type=Path, metavar="MODEL|RUN", help="a model.tar.gz, or a run directory"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on (default: this machine only)"
    )
    parser.add_argument(
        "--port", type=int, default=8080, help="the port (default: 8080; 0 picks a free one)"
    )
    parser.add_argument(
        "--allow-urls",
        metavar="none|public|HOST,...",
        help="hosts to fetch images from by URL (default: the model's serving.allow_urls)",
    )
    parser.add_argument(
        "--allowed-hosts",
        metavar="HOST,...|*",
        help=(
            "host names besides localhost that requests may use (default: none, if only this"
            " machine can reach the server)"
        ),
    )
    parser.add_argument(
        "--engine",
        choices=("eager", "openvino"),
        help="instead of the one chosen at export",
    )
    parser.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help=(
            "holds the key that requests must send as X-API-Key or as a Bearer token (default:"
            " the environment variable BREEDLAB_API_KEY; without either, no key)"
        ),
    )
    parser.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN,...",
        help="other origins whose pages may call it, such as https://dogs.example (default: none)",
    )
    return parser


def _allowed(word: str) -> Allowed:
    try:
        return allowed_from(word)
    except ValueError as error:
        raise ServingError(
            f"--allow-urls: got {word!r}; expected none, public or {error}"
        ) from error


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, opened before the model is loaded so that a port that is taken is
    reported at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        # Python adds the address to the system's message, which is shorter.
        reason = (
            error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        )
        raise ServingError(
            f"--host {host} --port {port}: cannot listen there ({reason}); name another"
        ) from error


def _serve(
    path: Path,
    engine: str | None,
    listener: socket.socket,
    allowed: Allowed | None,
    key: str | None,
    origins: frozenset[str],
    hosts: frozenset[str] | None,
) -> int:
    # The model first: where there is none, that is reported before PyTorch is imported, which takes
    # seconds.
    load_plugins_of(path)
    with opened(path) as folder, progress("loading the model", aside=True):
        try:
            from breedlab.serving.invocations import Access
            from breedlab.serving.protocol import Server, settings
            from breedlab.serving.server import make_app
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"the server needs the package {error.name}, of the serve extra:"
                f" {extras.install('serve')}"
            ) from error
        import torch

        from breedlab.serving.model import Model

        hardware.heed()
        model = Model(folder, engine=engine)
        side = model.transform.crop
        # the first pass sets much up: not for a client
        model.scores(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    if allowed is not None:
        model.fetch = Fetcher(allowed)
    host, port = listener.getsockname()[:2]
    bracketed = f"[{host}]" if ":" in host else host
    # stdout is for the requests, a line of JSON each
    note = functools.partial(print, file=sys.stderr, flush=True)
    note(
        f"{path}: {len(model.classes)} classes; answers with {model.engine.choice} on"
        f" {model.device}"
    )
    if model.fetch.is_open:
        allowed = model.fetch.allowed
        sources = "the public internet" if isinstance(allowed, str) else ", ".join(allowed)
        note(f"fetches images from {sources}")
    note(
        f"listening on http://{bracketed}:{port}: POST /invocations, GET /ping /docs /metrics;"
        " Ctrl-C stops"
    )
    app = make_app(model, access=Access(key, origins, hosts))
    Server(settings(app)).run(sockets=[listener])
    return 0
