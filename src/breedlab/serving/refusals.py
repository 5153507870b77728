"""What a client is told instead of an answer: HTTP's status, a sentence, and a code of
`errors.CODES`."""

from __future__ import annotations

from breedlab.data.decode import ImageError
from breedlab.errors import BreedlabError, ServingError

_OF_STATUS = {413: "BL511", 415: "BL512", 406: "BL513"}
_OF_STATUS |= {401: "BL516", 403: "BL516", 421: "BL516", 503: "BL517"}


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


class Malformed(BadRequest):
    """The body of a request has not the shape that its type promises, or holds no images."""

    code = "BL514"

    def __init__(self, message: str) -> None:
        super().__init__(400, message, self.code)


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


class Overloaded(Exception):
    """More than is taken on."""


class ClientGone(Exception):
    """The client hung up before all of its request was here."""
