"""A client for predictions of a served model, wherever it runs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from urllib3 import PoolManager
from urllib3.exceptions import HTTPError, LocationParseError, MaxRetryError, SSLError
from urllib3.util import Retry, parse_url

from breedlab.backends.base import VERBOSE, Send
from breedlab.backends.launched import ready
from breedlab.commands import command
from breedlab.data.decode import ImageError, read_image
from breedlab.errors import FileError, ServingError
from breedlab.serving.access import KEY_VARIABLE

_TIMEOUT_S = 60.0
_TOLD = ("labels", "set", "unknown", "stranger_than")
"""What a verbose answer says besides the scores, if the model does."""


def ask(
    endpoint: str, images: list[Path], top: int, region: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the answers of an endpoint, one entry per image, as `predict --json` prints them.

    Args:
        endpoint: The server's address, such as `http://127.0.0.1:8080`, or the name of a SageMaker
            endpoint.
        images: Files; each is sent as it is.
        top: How many classes of each are wanted.
        region: Where a SageMaker endpoint is; None for the AWS profile's region.

    Raises:
        BreedlabError: If the endpoint does not exist, does not answer, or answers something that is
            not in this contract.
    """
    with _transport(endpoint, region) as send:
        for path in images:
            answer: dict[str, Any] = {"photo": str(path)}
            try:
                content = read_image(path)
            except (ImageError, OSError) as error:
                yield {**answer, **unreadable(error)}
                continue
            yield {**answer, **_read(endpoint, *send(content), top)}


def unreadable(error: ImageError | OSError) -> dict[str, str]:
    """Return the `error` and `code` of an image's entry whose file cannot be read."""
    if isinstance(error, ImageError):
        return {"error": str(error), "code": error.code}
    return {"error": f"cannot be read ({error.strerror})", "code": FileError.code}


def scores(endpoint: str, image: bytes) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Return the scores of one image, float64 (classes,), and the names of the classes in their
    order.

    Args:
        endpoint: As in `ask`.
        image: The bytes of a JPEG, PNG or WebP.

    Raises:
        BreedlabError: If no one answers there, or the image is refused.
    """
    with _transport(endpoint) as send:
        status, body = send(image)
    with _contract(endpoint, status):
        tree = json.loads(body)
        if status != 200:
            raise ServingError(f"{endpoint}: {tree['error']}", str(tree.get("code", "")))
        return np.array(tree["predictions"][0]["scores"]), list(tree["classes"])


def _transport(endpoint: str, region: str | None = None) -> AbstractContextManager[Send]:
    if re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", endpoint):
        for backend in ready():
            if (sending := backend.endpoint(endpoint, region)) is not None:
                return sending
    return _http(endpoint)


@contextmanager
def _http(endpoint: str) -> Iterator[Send]:
    try:
        address = parse_url(endpoint)
    except LocationParseError:
        address = None
    if address is None or address.scheme not in ("http", "https") or not address.host:
        raise ServingError(
            f"--endpoint: got {endpoint!r}; expected an address such as http://127.0.0.1:8080,"
            " or the name of a SageMaker endpoint"
        )
    url = endpoint.rstrip("/").removesuffix("/invocations") + "/invocations"
    headers = {"Content-Type": "application/octet-stream", "Accept": VERBOSE}
    if key := os.environ.get(KEY_VARIABLE):
        headers["X-API-Key"] = key
    # A server above its capacity says when to come again.
    patience = Retry(
        total=8,
        connect=0,
        read=0,
        status_forcelist=[503],
        allowed_methods=None,
        raise_on_status=False,
    )
    with PoolManager(retries=patience, timeout=_TIMEOUT_S) as http:

        def send(content: bytes) -> tuple[int, bytes]:
            try:
                response = http.request("POST", url, body=content, headers=headers)
            except HTTPError as error:
                if isinstance(getattr(error, "reason", None), SSLError):
                    raise ServingError(
                        f"{endpoint}: does not use TLS; a server of `{command('serve')}` is"
                        " reached by http://, not https://"
                    ) from error
                raise ServingError(
                    f"{endpoint}: no server answers{_reason(error)}; start it with:"
                    f" {command('serve', 'MODEL|RUN')}"
                ) from error
            if response.status == 401:
                raise ServingError(
                    f"{endpoint}: needs an API key; set {KEY_VARIABLE} to the server's"
                )
            return response.status, response.data

        yield send


def _reason(error: BaseException | None) -> str:
    """Return the system's reason for a failed connection, from inside the errors that urllib3 wraps
    around it; empty without one."""
    while error is not None:
        if isinstance(error, OSError) and (error.strerror or isinstance(error, TimeoutError)):
            return f" ({error.strerror or 'timed out'})"
        error = error.reason if isinstance(error, MaxRetryError) else error.__cause__
    return ""


def _read(endpoint: str, status: int, body: bytes, top: int) -> dict[str, Any]:
    if status == 404:
        raise ServingError(
            f"{endpoint}: has no /invocations; give only the server's address, up to its port"
        )
    with _contract(endpoint, status):
        tree = json.loads(body)
        if status != 200:
            # a proxy's or a framework's own refusal has no code
            code = {"code": str(tree["code"])} if "code" in tree else {}
            return {"error": str(tree["error"]), **code}
        classes, probabilities = tree["classes"], tree["predictions"][0]["probabilities"]
        best = sorted(range(len(classes)), key=lambda index: -probabilities[index])[:top]
        predictions = [
            {"class": classes[i], "probability": round(float(probabilities[i]), 6)} for i in best
        ]
        answer = {
            name: tree["predictions"][0][name] for name in _TOLD if name in tree["predictions"][0]
        }
        if "set" in answer:
            answer["set_coverage"] = float(tree["set_coverage"])
        return {"predictions": predictions, **answer}


@contextmanager
def _contract(endpoint: str, status: int) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ServingError(
            f"{endpoint}: answers (status {status}), but not as `{command('serve')}` does; is it"
            " another server?"
        ) from error
