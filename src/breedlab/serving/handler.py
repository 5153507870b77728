"""The endpoint's four functions, and the model behind them. `predict` and `evaluate` use the same model.

SageMaker's PyTorch container calls model_fn once, then input_fn, predict_fn and output_fn for each request.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

try:
    from orjson import dumps as _dumped  # in a tenth of the time, which for 133 scores is felt
except ImportError:  # AWS's inference image may lack it; the numbers are the same

    def _dumped(tree: Any, /) -> bytes:  # type: ignore[misc]
        return json.dumps(tree).encode()


from breedlab.data.decode import BadPhoto, decode
from breedlab.data.transforms import EvalTransform
from breedlab.errors import ServingError
from breedlab.models import backbone as backbones
from breedlab.models.classifier import Architecture, Classifier
from breedlab.serving import inspection
from breedlab.serving.engines import load_engine
from breedlab.serving.fetch import Address, Fetcher, NotFetched, allowed_from

PHOTO_TYPES = ("image/jpeg", "image/jpg", "image/png", "image/webp", "application/x-image", "application/octet-stream")
JSON = "application/json"
NPY = "application/x-npy"
TOP = 5
"""How many classes a verbose answer ranks."""
MAX_PHOTOS = 32
"""How many photos one request may hold."""
_MAX_MARKS = 10_000
"""Brackets, braces and commas of a JSON body: what is asked needs far fewer, and each may cost memory once parsed."""
_FORMAT = 1
_SCHEMA_VERSION = 1  # config/migrations has it, too, but is not there on an endpoint
_EXPECTED = 'expected {"image": "<base64>"} or {"url": "<address>"}, or a list of up to 32 of those'

Photo = bytes | Address


class BadRequest(ServingError):
    """What the client sent cannot be answered. `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Model:
    """An exported model, ready to look at photos.

    Args:
        folder: An archive's content, unpacked.
        device: Where to compute; a GPU if there is one, else the CPU.
        engine: `eager` or `openvino`, in place of the one that the archive was exported with.

    Attributes:
        classes: Names in the order of the scores.
        lineage: Where the model comes from.
        network: The PyTorch module, whatever engine answers.
        engine: What computes the scores.
        fetch: Gets photos by their address, under the rules of the archive's `allow_urls`.

    Raises:
        ServingError: If the archive is another version's, or `engine` names one that cannot run.
    """

    def __init__(self, folder: Path, device: torch.device | None = None, engine: str | None = None) -> None:
        description = json.loads((folder / "model.json").read_text())
        version = description.get("schema_version", _SCHEMA_VERSION)
        if version > _SCHEMA_VERSION or description["format"] > _FORMAT:
            raise ServingError(
                f"{folder / 'model.json'}: written by a newer breedlab (schema_version {version}; this one reads up to"
                f" {_SCHEMA_VERSION}); upgrade breedlab to open it"
            )
        shape, transform = description["architecture"], description["transform"]
        self.classes: tuple[str, ...] = tuple(description["classes"])
        self.lineage: dict[str, Any] = description["lineage"]
        self.fetch = Fetcher(allowed_from(description.get("allow_urls", "none")))
        self.transform = EvalTransform(
            **{**transform, "mean": tuple(transform["mean"]), "std": tuple(transform["std"])}
        )
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in shape.items()}
        architecture = Architecture(**fields)
        network = Classifier(architecture, backbones.build(architecture.name), side=self.transform.crop)
        network.load_state_dict(load_file(str(folder / "model.safetensors")))
        self.network = network.to(self.device).to(memory_format=torch.channels_last).eval()
        self.engine = load_engine(folder, description.get("engine"), self.network, self.device, engine)

    def prepare(self, photo: bytes) -> torch.Tensor:
        """A photo's bytes as the network takes them: uint8 (3, side, side).

        Raises:
            BadPhoto: If they are no usable photo.
        """
        return self.transform(decode(photo))

    def scores(self, photos: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) on the CPU of uint8 photos (n, 3, side, side)."""
        return self.engine.scores(photos)


@dataclass(frozen=True)
class Answer:
    """The scores of a request's photos.

    Attributes:
        scores: float32 (n, classes), one row a photo.
        model: Whose scores these are.
    """

    scores: np.ndarray[Any, Any]
    model: Model

    def verbose(self) -> dict[str, Any]:
        """Scores, probabilities and the likeliest classes by name, where the model comes from, what computed."""
        shifted = np.exp(self.scores - self.scores.max(axis=1, keepdims=True))
        classes = self.model.classes
        predictions = []
        for scores, probabilities in zip(self.scores, shifted / shifted.sum(axis=1, keepdims=True), strict=True):
            best = np.argsort(-scores, kind="stable")[:TOP].tolist()
            top = [{"class": classes[i], "index": i, "probability": float(probabilities[i])} for i in best]
            predictions.append({"top": top, "scores": scores.tolist(), "probabilities": probabilities.tolist()})
        about = {"lineage": self.model.lineage, "engine": str(self.model.engine.choice)}
        return {"predictions": predictions, "classes": list(classes), **about}


def model_fn(model_dir: str, context: Any = None) -> Model:
    """Loads the model that lies in `model_dir`."""
    return Model(Path(model_dir))


def input_fn(body: bytes | str, content_type: str, context: Any = None) -> list[Photo]:
    """The photos of a request, as bytes or by their address; no address is asked yet.

    Args:
        body: A photo, or JSON: `{"image": <base64>}`, `{"url": ...}` or a list of those.
        content_type: The request's Content-Type.

    Raises:
        BadRequest: 415 for a type that is not read, or not the photo's; 400 for a body of the wrong shape.
    """
    kind = (content_type or "").split(";")[0].strip().lower()
    if kind in PHOTO_TYPES:
        if isinstance(body, str):  # a toolkit decoded it
            raise BadRequest(400, "the photo came as text; send its bytes")
        photo = bytes(body)
        if other := inspection.contradiction(photo, kind):
            raise BadRequest(415, f"the content type is {kind!r}, but the photo is a {other}")
        return [photo]
    if kind != JSON:
        given = f"content type {content_type[:80]!r} is not read" if kind else "there is no content type"
        raise BadRequest(415, f"{given}; send one of {', '.join((*PHOTO_TYPES, JSON))}")
    tree = _parse(body)
    items = tree if isinstance(tree, list) else [tree]
    if not 1 <= len(items) <= MAX_PHOTOS:
        raise BadRequest(400, f"the list holds {len(items)} photos; expected 1 to {MAX_PHOTOS}")
    return [_photo(item, _named(number, len(items))) for number, item in enumerate(items, 1)]


def predict_fn(photos: Sequence[Photo], model: Model, context: Any = None) -> Answer:
    """Scores, one row a photo.

    Raises:
        BadRequest: 400 if some bytes are no usable photo, or some address gives none; it says which.
    """
    count = len(photos)
    prepared = [prepare(model, fetched(model, photo, n, count), n, count) for n, photo in enumerate(photos, 1)]
    return Answer(model.scores(torch.stack(prepared)).numpy(), model)


def fetched(model: Model, photo: Photo, number: int = 1, count: int = 1) -> bytes:
    """The bytes of the photo with this number of a request's `count`, wherever they are.

    Raises:
        BadRequest: 4xx if they must not or cannot be fetched.
    """
    if isinstance(photo, bytes):
        return photo
    try:
        return model.fetch(photo.url)
    except NotFetched as error:
        raise BadRequest(error.status, f"{_named(number, count)}: {error}") from error


def prepare(model: Model, photo: bytes, number: int = 1, count: int = 1) -> torch.Tensor:
    """The photo with this number of a request's `count`, as the network takes it.

    Raises:
        BadRequest: 400 if its bytes are no usable photo.
    """
    inspect(photo, number, count)
    return decoded(model, photo, number, count)


def decoded(model: Model, photo: bytes, number: int = 1, count: int = 1) -> torch.Tensor:
    """As `prepare`, of a photo that was inspected before."""
    try:
        return model.prepare(photo)
    except BadPhoto as error:
        raise BadRequest(400, f"{_named(number, count)} {error}") from error


def inspect(photo: bytes, number: int = 1, count: int = 1) -> int:
    """How many pixels the photo with this number of a request's `count` has.

    Raises:
        BadRequest: 400 if it is none that a server should decode.
    """
    try:
        return inspection.inspect(photo)
    except BadPhoto as error:
        raise BadRequest(400, f"{_named(number, count)} {error}") from error


def _named(number: int, count: int) -> str:
    return "the photo" if count == 1 else f"photo {number} of {count}"


def output_fn(answer: Answer, accept: str, context: Any = None) -> tuple[bytes, str]:
    """The answer's bytes and their content type.

    Args:
        answer: From `predict_fn`.
        accept: The request's Accept: JSON (a plain array of rows; with `verbose=1` names and probabilities too)
            or npy. Of those that are written, the one with the highest `q` wins, of several the first.

    Raises:
        BadRequest: 406 if none of them is written.
    """
    for kind, parameters in _by_quality(accept or JSON):
        if kind == NPY:
            buffer = io.BytesIO()
            np.save(buffer, answer.scores)
            return buffer.getvalue(), NPY
        if kind in (JSON, "application/*", "*/*", ""):
            tree = answer.verbose() if "verbose=1" in parameters else answer.scores.tolist()
            return _dumped(tree), JSON
    raise BadRequest(406, f"accept {accept!r} is not written; ask for {JSON} or {NPY}")


def _by_quality(accept: str) -> list[tuple[str, list[str]]]:
    """An Accept's media types with their parameters, the best liked first; without those of `q=0`."""
    choices = []
    for choice in accept.split(","):
        kind, *parameters = (part.strip().lower().replace(" ", "") for part in choice.split(";"))
        given = [part[2:] for part in parameters if part.startswith("q=")]
        try:
            quality = float(given[0]) if given else 1.0
        except ValueError:
            quality = 1.0  # a slip in the weight is no reason to refuse what was asked for
        choices.append((quality, kind, parameters))
    choices.sort(key=lambda choice: -choice[0])
    return [(kind, parameters) for quality, kind, parameters in choices if quality > 0]


def _parse(body: bytes | str) -> Any:
    marks = "[{," if isinstance(body, str) else (b"[", b"{", b",")
    if sum(map(body.count, marks)) > _MAX_MARKS:  # type: ignore[arg-type]
        raise BadRequest(400, f"the body is not JSON of a shape that is read: {_EXPECTED}")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        match error:
            case json.JSONDecodeError():
                reason = str(error)
            case UnicodeDecodeError():
                reason = "it is no UTF-8"
            case RecursionError():
                reason = "it is nested too deeply"
            case _:
                reason = "a number in it is too long"
        raise BadRequest(400, f"the body is not JSON ({reason})") from error


def _photo(item: Any, name: str) -> Photo:
    if isinstance(item, dict) and set(item) == {"url"} and isinstance(item["url"], str):
        return Address(item["url"])
    if not (isinstance(item, dict) and set(item) == {"image"} and isinstance(item["image"], str)):
        raise BadRequest(400, f"{name}: {_EXPECTED}")
    try:
        return base64.b64decode(item["image"], validate=True)
    except ValueError as error:
        hint = "; leave out what stands before the comma" if item["image"].startswith("data:") else ""
        raise BadRequest(400, f"{name}: is not base64 ({error}){hint}") from error
