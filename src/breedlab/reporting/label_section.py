"""The report on a multi-label model: each label, and the most confident mistakes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from breedlab.evaluation.figures import f1_span, metric, rate_interval
from breedlab.reporting.example_images import thumbnail
from breedlab.reporting.quality_sections import trust
from breedlab.reporting.record import RunRecord
from breedlab.reporting.sections import Section, class_counts

_MISTAKES = 12


@dataclass(frozen=True)
class Mistake:
    """A label that an image was wrongly given, or wrongly not given.

    Attributes:
        picture: A `data:` address.
        file: Below the data's root.
        label: Its name.
        probability: What the model gave it.
        labels: The image's own.
    """

    picture: str
    file: str
    label: str
    probability: float
    labels: str


def labels(run: RunRecord) -> Section:
    """Return one row per label, and the most confident mistakes."""
    return {
        "rows": sorted(
            _rows(run), key=lambda row: (row["ap"] is None, row["ap"] or 0.0, row["name"])
        ),
        "tested": bool(run.test),
        "trust": trust(run),
        "wrong": _mistakes(run, missed=False),
        "missed": _mistakes(run, missed=True),
    }


def _rows(run: RunRecord) -> Iterator[dict[str, Any]]:
    counts = class_counts(run)
    for index, (name, own) in enumerate((run.test.get("per_class") or {}).items()):
        span = own["ap_interval"]
        yield {
            **own,
            "name": name,
            **{s: counts[s][index] if s in counts else None for s in ("train", "valid")},
            "span": "" if span is None else " to ".join(metric("map", end) for end in span),
            "precision_span": (
                rate_interval(own["precision"], own["given"]) if own["given"] else ""
            ),
            "f1_span": f1_span(own["right"], own["given"], own["photos"]),
            "recall_span": rate_interval(own["recall"], own["photos"]) if own["photos"] else "",
        }


def _mistakes(run: RunRecord, *, missed: bool) -> list[Mistake]:
    """Return labels that are true but were not given, or were given but are not true, the most
    confident first."""
    predictions, root = run.predictions, run.image_root
    if root is None or "thresholds" not in predictions:
        return []
    columns = zip(
        predictions["labels"], predictions["predicted"], predictions["probabilities"], strict=True
    )
    places = []
    for image, (true, predicted, probabilities) in enumerate(columns):
        if missed:  # the lowest probability first
            wrong, sign = set(true) - set(predicted), 1
        else:
            wrong, sign = set(predicted) - set(true), -1
        places += [(sign * probabilities[label], image, label) for label in wrong]
    mistakes = []
    for _, image, label in sorted(places)[:_MISTAKES]:
        file = predictions["photos"][image]
        if picture := thumbnail(root / file):
            names = (
                ", ".join(run.classes[one] for one in predictions["labels"][image]) or "no label"
            )
            probability = predictions["probabilities"][image][label]
            mistakes.append(Mistake(picture, file, run.classes[label], probability, names))
    return mistakes
