"""From a request to its images: its body is read, within limits, and parsed, in every form that
clients commonly send: bytes, JSON, a form, gzipped or not.

The forms are the same in `breedlab serve` and on SageMaker, whose container reads the body itself.
Nothing is decoded or fetched here, and nothing grows: a body that inflates beyond the limit of
bodies is refused while it does.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import email
import json
import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

from breedlab.serving import file_checks
from breedlab.serving.fetch import Address
from breedlab.serving.refusals import (
    BadImage,
    BadRequest,
    ClientGone,
    Malformed,
    Overloaded,
)

IMAGE_TYPES = {
    **dict.fromkeys(("image/jpeg", "image/jpg", "image/pjpeg"), "JPEG"),
    **dict.fromkeys(("image/png", "image/x-png"), "PNG"),
    "image/webp": "WebP",
    "image/gif": "GIF",
    "image/bmp": "BMP",
    "image/avif": "AVIF",
    **dict.fromkeys(("image/heic", "image/heif"), "HEIC"),
    "image/tiff": "TIFF",
    # of any format; the last is S3's
    **dict.fromkeys(("application/x-image", "application/octet-stream", "binary/octet-stream"), ""),
}
"""The formats of the content types of images."""
JSON = "application/json"
FORM = "multipart/form-data"
GUESSED = ("", "application/x-www-form-urlencoded", "text/plain")
"""What clients send if they were not given a type; curl declares anything it posts as a form. The
bytes show what it is."""
MAX_IMAGES = 32
"""How many images one request may have."""
MAX_BYTES = 6_000_000
"""Of a body, before and after it is inflated; what a SageMaker endpoint takes, too."""
BODY_SECONDS = 30.0
"""A body that has not come in by then is not waited for."""
MAX_HELD = 256_000_000
"""Bytes of all bodies and fetched images together, before they are decoded."""
_MAX_MARKS = 10_000
"""Brackets, braces and commas of a JSON body: requests need far fewer, and each may cost memory
once parsed."""
_MAX_PARTS = 64
"""Fields of a form, images or not."""
_MAX_PART_HEAD = 8192
_EXPECTED = 'expected {"image": "<base64>"} or {"url": "<address>"}, or a list of up to 32 of those'
ENVELOPES = ("instances", "inputs")
"""What other servers' clients put the images in: TensorFlow Serving, KServe, and Vertex AI the
first, Hugging Face's the second."""
_GZIP = b"\x1f\x8b"
_DATA_URI = re.compile(r"\s*data:([^,]{0,200}),", re.IGNORECASE)
_URL_ALPHABET = bytes.maketrans(b"-_", b"+/")
_BOUNDARY = re.compile(r"""boundary=(?:"([^"]{1,70})"|([^\s";,]{1,70}))""", re.IGNORECASE)

RequestImage = bytes | Address | BadImage
"""An image's bytes, its address, or, of one image of several, why it is neither."""
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
"""ASGI's function for the next part of a request."""


class BodyReader:
    """A reader of requests' bodies, within limits.

    Args:
        max_bytes: Of a body.
        max_held: Bytes of all bodies that are held at once.
        seconds: The time in which a body has to come in.
    """

    def __init__(
        self, max_bytes: int, max_held: int = MAX_HELD, seconds: float | None = None
    ) -> None:
        self.max_bytes, self._max_held = max_bytes, max_held
        self._seconds = BODY_SECONDS if seconds is None else seconds
        self.open_bytes = 0

    @asynccontextmanager
    async def body(self, receive: Receive, length: str) -> AsyncIterator[bytes]:
        """Read a request's body when the context is entered, and hold it until the context ends.

        Args:
            receive: Gives its parts.
            length: Its Content-Length, or an empty text.

        Raises:
            BadRequest: 413 if it is too large, 408 if it does not come in.
            Overloaded: If too much is held already.
            ClientGone: If the client hung up.
        """
        if length.isascii() and length.isdigit() and int(length) > self.max_bytes:
            raise self._too_large()
        parts, size, more = [], 0, True
        try:
            try:
                async with asyncio.timeout(self._seconds):
                    while more:
                        message = await receive()
                        if message["type"] == "http.disconnect":
                            raise ClientGone
                        part = message.get("body", b"")
                        size += len(part)
                        self.open_bytes += len(part)
                        if size > self.max_bytes:
                            raise self._too_large()
                        if self.open_bytes > self._max_held:
                            raise Overloaded
                        parts.append(part)
                        more = message.get("more_body", False)
            except TimeoutError as error:
                reason = f"the body did not come in within {self._seconds:g} seconds"
                raise BadRequest(408, reason) from error
            yield parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            self.open_bytes -= size

    def _too_large(self) -> BadRequest:
        return BadRequest(
            413, f"the body is larger than the {self.max_bytes:,} bytes that are read"
        )


def parse(
    body: bytes | str, content_type: str, max_bytes: int = MAX_BYTES, encoding: str = ""
) -> list[RequestImage]:
    """Return the images of a request, as bytes or by their address.

    Args:
        body: An image, JSON, or a form that holds images; it may be gzipped.
        content_type: The request's Content-Type.
        max_bytes: Of what a gzipped body holds.
        encoding: The request's Content-Encoding. Gzip is detected by the first bytes, whatever it
            says.

    Raises:
        BadRequest: 415 for a type or an encoding that is not read, or a type that is not the
            image's; 400 for a body of the wrong shape; 413 for one that inflates too far.
    """
    coding = encoding.strip().lower()
    if coding not in ("", "identity", "gzip", "x-gzip"):
        raise BadRequest(
            415, f"content encoding {coding[:40]!r} is not read; send gzip, or the body as it is"
        )
    kind = (content_type or "").split(";", 1)[0].strip().lower()
    if not isinstance(body, str):
        body = bytes(body)
        if body.startswith(_GZIP):
            body = _inflated(body, max_bytes)
    if kind in IMAGE_TYPES:
        if isinstance(body, str):  # a framework decoded it
            raise Malformed("the image was sent as text; send its bytes")
        if other := contradiction(body, kind):
            raise BadRequest(415, f"the content type is {kind!r}, but the image is a {other}")
        return [body]
    if kind == JSON:
        return _from_json(body)
    content = body.encode("utf-8", "surrogateescape") if isinstance(body, str) else body
    if kind == FORM:
        return _from_form(content, content_type)
    if kind in GUESSED and (images := _guessed(content)) is not None:
        return images
    refusal = f"content type {content_type[:80]!r} is not read"
    if kind in GUESSED:
        what = "is neither a supported image nor JSON" if content else "is empty"
        refusal = f"the body {what}"
    readable = ("image/jpeg", "image/png", "image/webp", "application/octet-stream", JSON, FORM)
    raise BadRequest(415, f"{refusal}; send one of {', '.join(readable)}")


def contradiction(image: bytes, content_type: str) -> str:
    """Return the format that an image has instead of the one that its content type names; an empty
    text if they agree."""
    named = IMAGE_TYPES[content_type]
    is_brand = image[4:8] == b"ftyp"  # as in AVIF and HEIC, whatever is before it
    if not named or (image.startswith(file_checks.STARTS.get(named, ())) and not is_brand):
        return ""
    kind = file_checks.format_of(image)
    return kind if kind != named else ""


def _inflated(body: bytes, max_bytes: int) -> bytes:
    packer = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        content = packer.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise Malformed(f"the body is not gzip, though it begins like it ({error})") from error
    if len(content) > max_bytes:
        raise BadRequest(
            413, f"the body inflates to more than the {max_bytes:,} bytes that are read"
        )
    if not packer.eof:
        raise Malformed("the gzipped body is cut short")
    return content


def _from_json(body: bytes | str) -> list[RequestImage]:
    tree = _tree(body)
    if isinstance(tree, dict) and len(tree) == 1:
        (key, content), *_ = tree.items()
        tree = content if key in ENVELOPES else tree
    items = tree if isinstance(tree, list) else [tree]
    few = items[: MAX_IMAGES + 1]
    return _counted([_image(item, index, len(items)) for index, item in enumerate(few)], items)


def _counted(images: list[RequestImage], items: list[Any]) -> list[RequestImage]:
    if not 1 <= len(items) <= MAX_IMAGES:
        raise Malformed(f"the list holds {len(items)} images; expected 1 to {MAX_IMAGES}")
    if len(images) == 1 and isinstance(images[0], BadImage):
        raise images[0]
    return images


def _tree(body: bytes | str) -> Any:
    if isinstance(body, str):
        body = body.removeprefix("\ufeff")
    marks = "[{," if isinstance(body, str) else (b"[", b"{", b",")
    if sum(map(body.count, marks)) > _MAX_MARKS:  # type: ignore[arg-type]
        raise Malformed(f"the body is not JSON of a shape that is read: {_EXPECTED}")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        match error:
            case json.JSONDecodeError():
                reason = str(error)
            case UnicodeDecodeError():
                reason = "it is not UTF-8"
            case RecursionError():
                reason = "it is nested too deeply"
            case _:
                reason = "a number in it is too long"
        raise Malformed(f"the body is not JSON ({reason})") from error


def _image(item: Any, index: int, count: int) -> RequestImage:
    """Return one image of a JSON body, in breedlab's form or another server's; a bad one becomes a
    `BadImage`, so that it does not affect the others."""
    match item:
        case {"url": str(url), **others} if not others:
            return _addressed(url, index, count)
        case {"image": str(text), **others} | {"b64": str(text), **others} if not others:
            return _from_text(text, index, count)
        case {"image_bytes": {"b64": str(text), **others}, **more} if not others and not more:
            return _from_text(text, index, count)
        case str(text) if text.lstrip()[:8].lower().startswith(("http://", "https://")):
            return _addressed(text.strip(), index, count)
        case str(text):
            return _from_text(text, index, count)
        case _:
            return BadImage(index, _EXPECTED, count)


def _addressed(url: str, index: int, count: int) -> RequestImage:
    return _from_text(url, index, count) if _DATA_URI.match(url) else Address(url)


def _from_text(text: str, index: int = 0, count: int = 1) -> bytes | BadImage:
    """Decode base64, with or without line breaks, in either alphabet, padded or not, or from a data
    URI; return a `BadImage` if it is not base64."""
    if match := _DATA_URI.match(text[:300]):
        if not match[1].lower().rstrip().endswith(";base64"):
            return BadImage(index, "is a data URI that is not base64", count)
        text = text[match.end() :]
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as strict:
        try:
            content = text.encode("ascii").translate(_URL_ALPHABET, b" \t\r\n\f\v").rstrip(b"=")
            return binascii.a2b_base64(content + b"=" * (-len(content) % 4), strict_mode=True)
        except ValueError:
            return BadImage(index, f"is not base64 ({strict})", count)


def _guessed(body: bytes) -> list[RequestImage] | None:
    """Return the images of a body without a content type, or None if its form is not recognized."""
    if file_checks.format_of(body) or body[4:8] == b"ftyp":
        return [body]
    start = body[:100].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith((b"{", b"[")):
        return _from_json(body)
    if not body.isascii():
        return None
    if start.startswith((b"image=", b"url=")):
        return _from_fields(body.decode("ascii"))
    content = _from_text(body.decode("ascii"))
    if isinstance(content, bytes) and file_checks.format_of(content):
        return [content]
    return None


def _from_fields(text: str) -> list[RequestImage]:
    try:
        fields = parse_qsl(text.strip(), keep_blank_values=True, max_num_fields=_MAX_PARTS)
    except ValueError as error:
        raise Malformed(f"the form has more than {_MAX_PARTS} fields") from error
    # A plus sign that was not escaped has become a space.
    texts = [
        (name, value.replace(" ", "+") if name == "image" else value) for name, value in fields
    ]
    return _from_values([(name, value) for name, value in texts if name in ("image", "url")])


def _from_form(body: bytes, content_type: str) -> list[RequestImage]:
    match = _BOUNDARY.search(content_type[:500])
    if match is None:
        raise Malformed(
            "the form's content type names no boundary; let the client write it: curl -F file=@..."
        )
    delimiter = b"\r\n--" + (match[1] or match[2]).encode("latin-1", "replace")
    parts = (b"\r\n" + body).split(delimiter, _MAX_PARTS + 2)[1:]
    if len(parts) > _MAX_PARTS + 1:
        raise Malformed(f"the form has more than {_MAX_PARTS} fields")
    if not parts or not parts[-1].startswith(b"--"):
        raise Malformed("the form is cut short: its last boundary is missing")
    return _from_values([value for part in parts[:-1] if (value := _field(part)) is not None])


def _field(part: bytes) -> tuple[str, bytes | str] | None:
    """Return a form's field as name and value: `image` and bytes for an image or a file, name and
    text for a field called `image` or `url`; None for any other."""
    head, _, content = part.partition(b"\r\n\r\n")
    if len(head) > _MAX_PART_HEAD:
        raise Malformed(f"a field of the form has a head of more than {_MAX_PART_HEAD:,} bytes")
    headers = email.message_from_bytes(head.lstrip())
    name = headers.get_param("name", header="content-disposition")
    if (
        file_checks.format_of(content)
        or headers.get_filename() is not None
        or headers.get_content_maintype() == "image"
    ):
        return "image", content
    return (
        (name, content.decode("latin-1"))
        if name in ("image", "url") and isinstance(name, str)
        else None
    )


def _from_values(values: list[tuple[str, bytes | str]]) -> list[RequestImage]:
    """Return the images of a form's fields."""
    if not values:
        raise Malformed("the form holds no image; send it as a file: curl -F file=@photo.jpg")
    images: list[RequestImage] = []
    for index, (name, value) in enumerate(values[: MAX_IMAGES + 1]):
        if isinstance(value, bytes):
            images.append(value)
        elif name == "url":
            images.append(_addressed(value.strip(), index, len(values)))
        else:
            images.append(_from_text(value, index, len(values)))
    return _counted(images, list(values))
