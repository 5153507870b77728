"""From a request's body to its images, in every form that clients commonly send: bytes, JSON, a
form, gzipped or not.

It is the same in `breedlab serve` and on SageMaker. Nothing is decoded or fetched here, and nothing
grows: a body that inflates beyond the limit of bodies is refused while it does.
"""

from __future__ import annotations

import base64
import binascii
import email
import json
import re
import zlib
from typing import Any
from urllib.parse import parse_qsl

from breedlab.data.decode import ImageError
from breedlab.errors import BreedlabError, ServingError
from breedlab.serving import file_checks
from breedlab.serving.fetch import Address

IMAGE_TYPES = (
    "image/jpeg",
    "image/jpg",
    "image/pjpeg",
    "image/png",
    "image/x-png",
    "image/webp",
    "image/gif",
    "image/bmp",
    *("image/avif", "image/heic", "image/heif"),
    # the last is S3's
    *("image/tiff", "application/x-image", "application/octet-stream", "binary/octet-stream"),
)
JSON = "application/json"
FORM = "multipart/form-data"
GUESSED = ("", "application/x-www-form-urlencoded", "text/plain")
"""What clients send if they were not given a type; curl declares anything it posts as a form. The
bytes show what it is."""
MAX_IMAGES = 32
"""How many images one request may have."""
MAX_BYTES = 6_000_000
"""Of a body, before and after it is inflated; what a SageMaker endpoint takes, too."""
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


_OF_STATUS = {413: "BL511", 415: "BL512", 406: "BL513"}
_OF_STATUS |= {401: "BL516", 403: "BL516", 421: "BL516", 503: "BL517"}
MALFORMED = "BL514"


class BadRequest(ServingError):
    """What the client sent cannot be answered.

    Args:
        status: Of HTTP.
        message: The whole message.
        code: Of `errors.CODES`; by default what the status says.
    """

    code = "BL501"

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message, code or _OF_STATUS.get(status, ""))
        self.status = status

    def answer(self) -> dict[str, str]:
        """Return what a client gets as JSON."""
        return error_body(self.status, str(self), self.code)


def error_body(status: int, message: str, code: str = "") -> dict[str, str]:
    """Return what a client gets as JSON instead of an answer; by default with the code that the
    HTTP status says."""
    return {"error": message, "code": code or _OF_STATUS.get(status, BadRequest.code)}


class BadImage(BadRequest):
    """One image of a request that has no answer.

    Args:
        index: Its place in the request, from 0.
        reason: Why, as what follows its name in the message; an error keeps its code, and its
            `status` if it has one.
        count: How many images the request has.
    """

    code = "BL502"

    def __init__(self, index: int, reason: str | BreedlabError, count: int = 1) -> None:
        name = "the image" if count == 1 else f"image {index + 1} of {count}"
        # "image 2 of 3 is not an image", but "image 2 of 3: https://... is not public"
        mark = " " if isinstance(reason, ImageError) else ": "
        code = reason.code if isinstance(reason, BreedlabError) else type(self).code
        super().__init__(getattr(reason, "status", 400), f"{name}{mark}{reason}", code)
        self.index, self.reason = index, str(reason)


RequestImage = bytes | Address | BadImage
"""An image's bytes, its address, or, of one image of several, why it is neither."""


def parse(body: bytes | str, content_type: str, max_bytes: int = MAX_BYTES) -> list[RequestImage]:
    """Return the images of a request, as bytes or by their address.

    Args:
        body: An image, JSON, or a form that holds images; it may be gzipped.
        content_type: The request's Content-Type.
        max_bytes: Of what a gzipped body holds.

    Raises:
        BadRequest: 415 for a type that is not read, or not the image's; 400 for a body of the wrong
            shape; 413 for one that inflates too far.
    """
    kind = (content_type or "").split(";", 1)[0].strip().lower()
    if not isinstance(body, str):
        body = bytes(body)
        if body.startswith(_GZIP):
            body = _inflated(body, max_bytes)
    if kind in IMAGE_TYPES:
        if isinstance(body, str):  # a framework decoded it
            raise BadRequest(400, "the image was sent as text; send its bytes", MALFORMED)
        if other := file_checks.contradiction(body, kind):
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


def _inflated(body: bytes, max_bytes: int) -> bytes:
    packer = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        content = packer.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise BadRequest(
            400,
            f"the body is not gzip, though it begins like it ({error})",
            MALFORMED,
        ) from error
    if len(content) > max_bytes:
        raise BadRequest(
            413, f"the body inflates to more than the {max_bytes:,} bytes that are read"
        )
    if not packer.eof:
        raise BadRequest(400, "the gzipped body is cut short", MALFORMED)
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
        raise BadRequest(
            400, f"the list holds {len(items)} images; expected 1 to {MAX_IMAGES}", MALFORMED
        )
    if len(images) == 1 and isinstance(images[0], BadImage):
        raise images[0]
    return images


def _tree(body: bytes | str) -> Any:
    if isinstance(body, str):
        body = body.removeprefix("\ufeff")
    marks = "[{," if isinstance(body, str) else (b"[", b"{", b",")
    if sum(map(body.count, marks)) > _MAX_MARKS:  # type: ignore[arg-type]
        raise BadRequest(
            400, f"the body is not JSON of a shape that is read: {_EXPECTED}", MALFORMED
        )
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
        raise BadRequest(400, f"the body is not JSON ({reason})", MALFORMED) from error


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
        raise BadRequest(400, f"the form has more than {_MAX_PARTS} fields", MALFORMED) from error
    # A plus sign that was not escaped has become a space.
    texts = [
        (name, value.replace(" ", "+") if name == "image" else value) for name, value in fields
    ]
    return _from_values([(name, value) for name, value in texts if name in ("image", "url")])


def _from_form(body: bytes, content_type: str) -> list[RequestImage]:
    match = _BOUNDARY.search(content_type[:500])
    if match is None:
        raise BadRequest(
            400,
            "the form's content type names no boundary; let the client write it: curl -F file=@...",
            MALFORMED,
        )
    delimiter = b"\r\n--" + (match[1] or match[2]).encode("latin-1", "replace")
    parts = (b"\r\n" + body).split(delimiter, _MAX_PARTS + 2)[1:]
    if len(parts) > _MAX_PARTS + 1:
        raise BadRequest(400, f"the form has more than {_MAX_PARTS} fields", MALFORMED)
    if not parts or not parts[-1].startswith(b"--"):
        raise BadRequest(400, "the form is cut short: its last boundary is missing", MALFORMED)
    return _from_values([value for part in parts[:-1] if (value := _field(part)) is not None])


def _field(part: bytes) -> tuple[str, bytes | str] | None:
    """Return a form's field as name and value: `image` and bytes for an image or a file, name and
    text for a field called `image` or `url`; None for any other."""
    head, _, content = part.partition(b"\r\n\r\n")
    if len(head) > _MAX_PART_HEAD:
        raise BadRequest(
            400,
            f"a field of the form has a head of more than {_MAX_PART_HEAD:,} bytes",
            MALFORMED,
        )
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
        raise BadRequest(
            400, "the form holds no image; send it as a file: curl -F file=@photo.jpg", MALFORMED
        )
    images: list[RequestImage] = []
    for index, (name, value) in enumerate(values[: MAX_IMAGES + 1]):
        if isinstance(value, bytes):
            images.append(value)
        elif name == "url":
            images.append(_addressed(value.strip(), index, len(values)))
        else:
            images.append(_from_text(value, index, len(values)))
    return _counted(images, list(values))
