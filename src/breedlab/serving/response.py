"""The answer to a request: the scores of its images, and what is written of them as JSON or npy."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

try:
    # in a tenth of the time, which is noticeable for 133 scores
    from orjson import dumps as _dumped
except ImportError:  # AWS's inference image may lack it; the numbers are the same

    def _dumped(tree: Any, /) -> bytes:  # type: ignore[misc]
        return json.dumps(tree).encode()


from breedlab.serving.model import Model
from breedlab.serving.refusals import BadImage, BadRequest
from breedlab.serving.request_parser import JSON

NPY = "application/x-npy"
TOP = 5
"""How many classes a verbose answer ranks."""
_MAX_ACCEPT = 1000
"""Characters of an Accept header; browsers send some 150."""


@dataclass(frozen=True)
class Answer:
    """The scores of a request's images.

    Attributes:
        scores: float32 (n, classes), one row per image; NaN where there was none to score.
        model: Whose scores these are.
        errors: By the number of an image, from 0, why it has no scores.
        distances: float32 (n,), how unlike the training images each image is; None if the model
            does not tell.
    """

    scores: np.ndarray[Any, Any]
    model: Model
    errors: Mapping[int, BadImage] = field(default_factory=dict)
    distances: np.ndarray[Any, Any] | None = None

    def all_scores(self) -> np.ndarray[Any, Any]:
        """Return the scores of the classes, followed by that of `unknown` with
        `serving.unknown=row`."""
        unknown = self.model.answers.unknown
        if unknown is None or not unknown.row or self.distances is None:
            return self.scores
        return unknown.scores(self.scores, self.distances)

    def rows(self) -> list[Any]:
        """Return each image's scores, or the error's JSON in their place: an argmax over that
        fails, as it should."""
        rows: list[Any] = self.all_scores().tolist()
        for number, error in self.errors.items():
            rows[number] = error.answer()
        return rows

    def verbose(self) -> dict[str, Any]:
        """Return scores, probabilities and the most likely classes by name, where the model comes
        from, and which engine computed them."""
        classes, answers = self.model.classes, self.model.answers
        predictions: list[dict[str, Any]] = []
        rows = zip(self.scores, answers.probabilities(self.scores), strict=True)
        for number, (scores, probabilities) in enumerate(rows):
            if number in self.errors:
                predictions.append(self.errors[number].answer())
                continue
            best = np.argsort(-scores, kind="stable")[:TOP].tolist()
            top = [
                {"class": classes[i], "index": i, "probability": float(probabilities[i])}
                for i in best
            ]
            distance = None if self.distances is None else float(self.distances[number])
            fields = answers.fields(probabilities, distance)
            for name in ("set", "labels"):
                if name in fields:
                    fields[name] = [classes[index] for index in fields[name]]
            predictions.append(
                {
                    "top": top,
                    "scores": scores.tolist(),
                    "probabilities": probabilities.tolist(),
                    **fields,
                }
            )
        about: dict[str, Any] = {
            "lineage": self.model.public_lineage(),
            "engine": str(self.model.engine.choice),
        }
        if answers.least is not None:
            about["set_coverage"] = answers.coverage
        if answers.thresholds is not None:
            about["thresholds"] = list(answers.thresholds)
        return {"predictions": predictions, "classes": list(classes), **about}

    def written(self, accept: str, verbose: bool = False) -> tuple[bytes, str]:
        """Return the answer's bytes and their content type.

        Args:
            accept: As for `handler.output_fn`.
            verbose: Whether JSON is to be verbose whatever `accept` says.

        Raises:
            BadRequest: 406 if none of what is accepted is written. 400 if one of several images
                has no scores and npy is asked for, which has no place to say so.
        """
        if len(accept or "") > _MAX_ACCEPT:
            raise BadRequest(406, f"the Accept header is longer than {_MAX_ACCEPT:,} characters")
        for kind, parameters in _by_quality(accept or JSON):
            if kind == NPY:
                if self.errors:
                    raise next(iter(self.errors.values()))
                buffer = io.BytesIO()
                np.save(buffer, self.all_scores())
                return buffer.getvalue(), NPY
            if kind in (JSON, "application/*", "*/*", ""):
                tree = self.verbose() if verbose or "verbose=1" in parameters else self.rows()
                return _dumped(tree), JSON
        raise BadRequest(406, f"accept {accept!r} is not written; ask for {JSON} or {NPY}")


def answered(results: Sequence[np.ndarray[Any, Any] | BadImage], model: Model) -> Answer:
    """Return the answer to a request of several images, of which some may be unusable.

    Args:
        results: The row of the model's engine for each, or why there is none.
        model: Whose engine it is.

    Raises:
        BadRequest: If all of them are unusable; that of the first one.
    """
    errors = {number: one for number, one in enumerate(results) if isinstance(one, BadImage)}
    if len(errors) == len(results):
        raise errors[0]
    count, tells = len(model.classes), model.answers.unknown is not None
    nothing = np.full(count + tells, np.nan, np.float32)
    rows = np.stack([nothing if isinstance(one, BadImage) else one for one in results])
    return Answer(rows[:, :count], model, errors, rows[:, count] if tells else None)


def _by_quality(accept: str) -> list[tuple[str, list[str]]]:
    """Return an Accept header's media types with their parameters, most preferred first; without
    those of `q=0`."""
    choices = []
    for choice in accept.split(","):
        kind, *parameters = (part.strip().lower().replace(" ", "") for part in choice.split(";"))
        qualities = [part[2:] for part in parameters if part.startswith("q=")]
        try:
            quality = float(qualities[0]) if qualities else 1.0
        except ValueError:
            quality = 1.0  # a typo in the weight is no reason to refuse the request
        choices.append((quality, kind, parameters))
    choices.sort(key=lambda choice: -choice[0])
    return [(kind, parameters) for quality, kind, parameters in choices if quality > 0]
