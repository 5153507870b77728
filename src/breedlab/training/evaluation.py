"""How good a classifier is on labelled photos: figures, per class, confusions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torchmetrics.classification import MulticlassConfusionMatrix

from breedlab.training.metrics import make_metrics

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Confusion:
    """How often photos of one class were taken for another."""

    truth: str
    taken_for: str
    count: int
    of: int


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    Attributes:
        photos: How many were looked at.
        metrics: loss (nats), top1, top5, f1 (macro), ece: fractions.
        per_class: By class name: photos, top1 (recall), precision.
        confusion: Rows are true classes, columns predicted ones.
        worst: The most frequent confusions, most frequent first.
        predictions: For each photo the predicted label and its probability, in the order given.
    """

    photos: int
    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    confusion: list[list[int]]
    worst: list[Confusion]
    predictions: list[tuple[int, float]]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for metrics.json, without the single predictions."""
        tree = asdict(self)
        del tree["predictions"]
        return tree


@torch.no_grad()
def evaluate(
    scores: Callable[[torch.Tensor], torch.Tensor],
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    classes: tuple[str, ...],
    *,
    total: int,
    progress: Progress,
) -> Evaluation:
    """Asks for the scores of labelled photos, and says how good they are.

    Args:
        scores: From uint8 photos (n, 3, side, side) to logits (n, classes) on the CPU.
        batches: Photos and int64 labels.
        classes: Names in label order.
        total: Number of photos, for the progress.
        progress: Called with how many are done.
    """
    metrics = make_metrics(len(classes))
    confusion = MulticlassConfusionMatrix(len(classes), sync_on_compute=False)
    predictions: list[tuple[int, float]] = []
    for photos, labels in batches:
        logits = scores(photos)
        metrics.update(logits, labels)
        confusion.update(logits, labels)
        top = logits.softmax(1).max(1)
        predictions += zip(top.indices.tolist(), top.values.tolist(), strict=True)
        progress(len(predictions), total)
    matrix = confusion.compute()
    return Evaluation(
        photos=len(predictions),
        metrics={name: float(value) for name, value in metrics.compute().items()},
        per_class=_per_class(matrix, classes),
        confusion=matrix.tolist(),
        worst=worst_confusions(matrix, classes),
        predictions=predictions,
    )


def worst_confusions(matrix: torch.Tensor, classes: tuple[str, ...], most: int = 10) -> list[Confusion]:
    """The pairs confused most often, by count and then by share of the true class."""
    totals = matrix.sum(1)
    pairs = [
        Confusion(classes[i], classes[j], int(matrix[i, j]), int(totals[i]))
        for i, j in matrix.nonzero().tolist()
        if i != j
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.count / pair.of, pair.truth))[:most]


def _per_class(matrix: torch.Tensor, classes: tuple[str, ...]) -> dict[str, dict[str, float]]:
    hits, photos, predicted = matrix.diag(), matrix.sum(1), matrix.sum(0)
    return {
        name: {
            "photos": int(photos[i]),
            "top1": float(hits[i] / photos[i].clamp(min=1)),
            "precision": float(hits[i] / predicted[i].clamp(min=1)),
        }
        for i, name in enumerate(classes)
    }
