"""The endpoint's four functions.

SageMaker's PyTorch container calls model_fn once, then input_fn, predict_fn and output_fn for each
request: a body, its images, their scores, the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from breedlab.data.decode import ImageError, decode
from breedlab.serving import file_checks
from breedlab.serving.fetch import Address, NotFetched
from breedlab.serving.model import Model
from breedlab.serving.refusals import BadImage, BadRequest
from breedlab.serving.request_parser import MAX_BYTES, RequestImage, parse
from breedlab.serving.response import Answer, answered


def model_fn(model_dir: str, context: Any = None) -> Model:
    """Load the model that is in `model_dir`."""
    return Model(Path(model_dir))


def input_fn(
    body: bytes | str | None, content_type: str, context: Any = None, max_bytes: int = MAX_BYTES
) -> list[RequestImage]:
    """Return the images of a request, as bytes or URLs; no URL is fetched yet.

    Args:
        body: An image, JSON (`{"image": <base64>}`, `{"url": ...}` or a list of those), or a form;
            gzipped or not. None for a form under TorchServe, which parses it and passes on no
            body.
        content_type: The request's Content-Type.
        context: The container's; not used.
        max_bytes: Of what a gzipped body holds.

    Raises:
        BadRequest: 415 for a type that is not read, or not the image's; 400 for a body of the wrong
            shape; 413 for one that inflates too far.
    """
    if body is None:
        raise BadRequest(
            415,
            f"{content_type}: a multipart form does not get through here; send the image's bytes"
            " with their type",
        )
    return parse(body, content_type, max_bytes)


def predict_fn(images: Sequence[RequestImage], model: Model, context: Any = None) -> Answer:
    """Return the answer: scores, one row per image.

    Raises:
        BadRequest: 4xx if not one of them is a usable image; it says why the first is not.
    """
    prepared = [_prepared(image, model, index, len(images)) for index, image in enumerate(images)]
    usable = [one for one in prepared if isinstance(one, torch.Tensor)]
    rows = iter(model.engine.scores(torch.stack(usable)).numpy() if usable else ())
    return answered(
        [next(rows) if isinstance(one, torch.Tensor) else one for one in prepared], model
    )


def _prepared(image: RequestImage, model: Model, index: int, count: int) -> torch.Tensor | BadImage:
    """Return an image as the network takes it, or why it has none."""
    if isinstance(image, BadImage):
        return image
    try:
        content = model.fetch(image.url) if isinstance(image, Address) else image
        file_checks.inspect(content)
        return model.transform(decode(content))
    except (ImageError, NotFetched) as error:
        return BadImage(index, error, count)


def output_fn(
    answer: Answer, accept: str, context: Any = None, verbose: bool = False
) -> tuple[bytes, str]:
    """Return the answer's bytes and their content type.

    Args:
        answer: From `predict_fn`.
        accept: The request's Accept: JSON (a plain array of rows; with `verbose=1` names and
            probabilities too) or npy. Of the supported types, the one with the highest `q` wins,
            of ties the first.
        context: The container's; not used.
        verbose: Whether JSON is to be verbose whatever `accept` says.

    Raises:
        BadRequest: 406 if none of them is supported. 400 if one of several images has no scores and
            npy is asked for, which cannot express that.
    """
    return answer.written(accept, verbose)
