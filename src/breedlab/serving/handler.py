"""The endpoint's four functions, and the model behind them. `predict` and `evaluate` use the same model.

SageMaker's PyTorch container calls model_fn once, then input_fn, predict_fn and output_fn for each request.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from breedlab.data.decode import BadPhoto, decode
from breedlab.data.transforms import EvalTransform
from breedlab.errors import ServingError
from breedlab.models import backbone as backbones
from breedlab.models.classifier import Architecture, Classifier

PHOTO_TYPES = ("image/jpeg", "image/png", "image/webp", "application/x-image", "application/octet-stream")
JSON = "application/json"
NPY = "application/x-npy"
_FORMAT = 1


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

    Attributes:
        classes: Names in the order of the scores.
        lineage: Where the model comes from.
    """

    def __init__(self, folder: Path, device: torch.device | None = None) -> None:
        description = json.loads((folder / "model.json").read_text())
        if description["format"] != _FORMAT:
            raise ServingError(f"model.json: format {description['format']}; this breedlab reads {_FORMAT}")
        shape, transform = description["architecture"], description["transform"]
        self.classes: tuple[str, ...] = tuple(description["classes"])
        self.lineage: dict[str, Any] = description["lineage"]
        self.transform = EvalTransform(
            **{**transform, "mean": tuple(transform["mean"]), "std": tuple(transform["std"])}
        )
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in shape.items()}
        architecture = Architecture(**fields)
        network = Classifier(architecture, backbones.build(architecture.name), side=self.transform.crop)
        network.load_state_dict(load_file(str(folder / "model.safetensors")))
        self.network = network.to(self.device).to(memory_format=torch.channels_last).eval()

    def prepare(self, photo: bytes) -> torch.Tensor:
        """A photo's bytes as the network takes them: uint8 (3, side, side).

        Raises:
            BadPhoto: If they are no usable photo.
        """
        return self.transform(decode(photo))

    @torch.inference_mode()
    def scores(self, photos: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) on the CPU of uint8 photos (n, 3, side, side)."""
        logits: torch.Tensor = self.network(photos.to(self.device)).float().cpu()
        return logits


def model_fn(model_dir: str, context: Any = None) -> Model:
    """Loads the model that lies in `model_dir`."""
    return Model(Path(model_dir))


def input_fn(body: bytes | str, content_type: str, context: Any = None) -> list[bytes]:
    """The photos of a request, as bytes.

    Args:
        body: A photo, or JSON: `{"image": <base64>}` or a list of those.
        content_type: The request's Content-Type.

    Raises:
        BadRequest: 415 for a type that is not read, 400 for a body of the wrong shape.
    """
    kind = (content_type or "").split(";")[0].strip().lower()
    if kind in PHOTO_TYPES:
        return [body.encode("latin-1") if isinstance(body, str) else bytes(body)]
    if kind != JSON:
        raise BadRequest(
            415, f"content type {content_type!r} is not read; send one of {', '.join((*PHOTO_TYPES, JSON))}"
        )
    try:
        tree = json.loads(body)
    except ValueError as error:
        raise BadRequest(400, f"the body is not JSON ({error})") from error
    items = tree if isinstance(tree, list) else [tree]
    if not items:
        raise BadRequest(400, "the list holds no photo")
    return [_photo(item) for item in items]


def predict_fn(photos: Sequence[bytes], model: Model, context: Any = None) -> np.ndarray[Any, Any]:
    """Scores (n, classes), float32, one row a photo.

    Raises:
        BadRequest: 400 if some bytes are no usable photo; it says which.
    """
    prepared = []
    for index, photo in enumerate(photos):
        try:
            prepared.append(model.prepare(photo))
        except BadPhoto as error:
            raise BadRequest(400, f"photo {index + 1} of {len(photos)} {error}") from error
    scores: np.ndarray[Any, Any] = model.scores(torch.stack(prepared)).numpy()
    return scores


def output_fn(scores: np.ndarray[Any, Any], accept: str, context: Any = None) -> tuple[bytes, str]:
    """The answer and its content type.

    Raises:
        BadRequest: 406 for a type that is not written.
    """
    kind = (accept or JSON).split(";")[0].strip().lower()
    if kind in (JSON, "*/*", ""):
        return json.dumps(scores.tolist()).encode(), JSON
    if kind == NPY:
        buffer = io.BytesIO()
        np.save(buffer, scores)
        return buffer.getvalue(), NPY
    raise BadRequest(406, f"accept {accept!r} is not written; ask for {JSON} or {NPY}")


def _photo(item: Any) -> bytes:
    if isinstance(item, dict) and set(item) == {"url"}:
        raise BadRequest(400, "this model fetches no URLs; send the photo's bytes")
    if not (isinstance(item, dict) and set(item) == {"image"} and isinstance(item["image"], str)):
        raise BadRequest(400, 'expected {"image": "<base64>"} or a list of those')
    try:
        return base64.b64decode(item["image"], validate=True)
    except binascii.Error as error:
        raise BadRequest(400, f"the image is not base64 ({error})") from error
