"""What becomes of an engine's numbers before anyone reads them: `answers` of model.json.

An archive of an older version has no such field, and answers with what its engine computes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from breedlab.models.novelty import Novelty

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Unknown:
    """When an image is called unknown: when it is further from the training images than almost all
    of validation.

    Attributes:
        novelty: Computes the distance.
        threshold: Above it, an image is unknown.
        quantiles: Of the distances of the validation images, from the smallest to the largest,
            evenly.
        row: Whether answers have a score for `unknown` behind those of the classes.
    """

    novelty: Novelty
    threshold: float
    quantiles: tuple[float, ...]
    row: bool = False

    def stranger_than(self, distance: float) -> float:
        """Return the share of validation images that are less far from the training images."""
        return bisect_left(self.quantiles, distance) / len(self.quantiles)

    def fields(self, distance: float) -> dict[str, Any]:
        """Return what an answer says of an image at a distance from the training images."""
        return {
            "unknown": distance > self.threshold,
            "stranger_than": round(self.stranger_than(distance), 4),
        }

    def scores(self, scores: Array, distances: Array) -> Array:
        """Return scores (n, classes + 1) whose argmax is the last where an image is unknown, and
        there alone."""
        spread = max(self.threshold - self.quantiles[len(self.quantiles) // 2], 1e-6)
        last = scores.max(axis=1) + (distances - self.threshold) / spread
        return np.concatenate([scores, last[:, None]], axis=1).astype(scores.dtype)


@dataclass(frozen=True)
class Answers:
    """What an archive makes of the numbers of its engine.

    Attributes:
        classes: Number of scores.
        temperature: By which scores are divided.
        coverage: Of `sets`: how often the true class should be in them.
        least: The probability from which a class is in the set; None without sets.
        unknown: Detects images of none of the classes; None if the archive does not.
        thresholds: For a multi-label model, the probability from which an image is given each
            label; None for a model with one class per image.
        flip_tta: Whether each image's scores are averaged with its mirror image's; the engine does
            that (`engines.mirrored`).
    """

    classes: int
    temperature: float = 1.0
    coverage: float = 0.9
    least: float | None = None
    unknown: Unknown | None = None
    thresholds: tuple[float, ...] | None = None
    flip_tta: bool = False

    @property
    def multi_label(self) -> bool:
        """Whether an image may be given several labels, or none."""
        return self.thresholds is not None

    def decided(self, scores: torch.Tensor) -> torch.Tensor:
        """Turn calibrated scores, as `engines.calibrated` gives them, into the class of each image,
        int64 (n,), or for a multi-label model into which labels it is given, bool (n, classes)."""
        scores = scores[:, : self.classes]
        if self.thresholds is None:
            return scores.argmax(1)
        return scores.double() >= torch.tensor(self.thresholds, dtype=torch.float64)

    def probabilities(self, scores: Array) -> Array:
        """Return the probabilities of calibrated scores (n, classes)."""
        if self.multi_label:
            return scores
        shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
        normalized: Array = shifted / shifted.sum(axis=1, keepdims=True)
        return normalized

    def given(self, probabilities: Sequence[float] | Array) -> list[int] | None:
        """Return the labels that an image is given, the most probable first; None of a model of one
        class an image."""
        if self.thresholds is None:
            return None
        order: list[int] = np.argsort(-np.asarray(probabilities), kind="stable").tolist()
        return [index for index in order if probabilities[index] >= self.thresholds[index]]

    def in_set(self, probabilities: Sequence[float] | Array) -> list[int] | None:
        """Return the classes of the set in which the true one is with probability `coverage`, the
        most likely first; None without sets.

        The most likely is always in it.
        """
        if self.least is None:
            return None
        order: list[int] = np.argsort(-np.asarray(probabilities), kind="stable").tolist()
        return [order[0], *(index for index in order[1:] if probabilities[index] >= self.least)]

    def fields(
        self, probabilities: Sequence[float] | Array, distance: float | None
    ) -> dict[str, Any]:
        """Return what an answer says of an image besides its scores: `labels` or `set`, of indices,
        and `unknown`."""
        answer: dict[str, Any] = {}
        if (labels := self.given(probabilities)) is not None:
            answer["labels"] = labels
        if (members := self.in_set(probabilities)) is not None:
            answer["set"] = members
        if self.unknown is not None and distance is not None:
            answer |= self.unknown.fields(distance)
        return answer


def read_answers(recorded: Mapping[str, Any], classes: int, novelty: Novelty | None) -> Answers:
    """Return what an archive makes of its scores.

    Args:
        recorded: `answers` of its model.json; empty in an archive of an older version.
        classes: Number of scores.
        novelty: From the archive, if it detects unknown images.
    """
    sets, unknown = recorded.get("sets") or {}, recorded.get("unknown") or {}
    thresholds = recorded.get("thresholds")
    return Answers(
        classes=classes,
        temperature=float(recorded.get("temperature", 1.0)),
        coverage=float(sets.get("coverage", 0.9)),
        least=sets.get("least"),
        thresholds=None if thresholds is None else tuple(map(float, thresholds)),
        flip_tta=recorded.get("flip_tta", False),
        unknown=(
            None
            if novelty is None
            else Unknown(
                novelty,
                unknown["threshold"],
                tuple(unknown["quantiles"]),
                unknown.get("row", False),
            )
        ),
    )
