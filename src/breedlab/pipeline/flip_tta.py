"""Mirror images at test time (`serving.flip_tta`): what they gain, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from breedlab.console import note
from breedlab.data.module import ImageData
from breedlab.evaluation.figures import with_span
from breedlab.evaluation.metrics import titles
from breedlab.evaluation.paired import compared, told
from breedlab.models.classifier import Classifier
from breedlab.serving.engine_output import mirrored
from breedlab.training.context import TrainingContext
from breedlab.training.evaluation import Evaluation
from breedlab.training.inference import logits_of
from breedlab.training.label_evaluation import LabelEvaluation
from breedlab.training.precision import autocast

_ROUNDS = 5
_BATCH = 8


@torch.no_grad()
def logits_of_mirror_images(
    context: TrainingContext, classifier: Classifier, data: ImageData
) -> torch.Tensor:
    """Return a trained classifier's logits (n, classes) of the validation images, mirrored."""
    scores = logits_of(context, classifier)
    with autocast(context.device, context.precision):
        return torch.cat(
            [scores(images.flip(-1)) for images, _ in data.view_dataloader("valid", 0)]
        )


def report(
    context: TrainingContext,
    classifier: Classifier,
    data: ImageData,
    metric: str,
    without: Evaluation | LabelEvaluation,
    averaged: Evaluation | LabelEvaluation,
) -> dict[str, Any]:
    """Measure what mirror images cost, say what they gain, and return both for metrics.json.

    Args:
        context: Of the run.
        classifier: Trained.
        data: The images.
        metric: By its short name.
        without: The test without mirror images.
        averaged: The test with them.
    """
    factor = _times_as_long(context, classifier, data)
    labels = [image.recorded for image in data.images.splits["test"]]
    found = compared(labels, averaged.columns(), without.columns(), metric)
    after, before = (
        with_span(metric, test.metrics[metric], test.intervals.get(metric))
        for test in (averaged, without)
    )
    note(
        f"serving.flip_tta: {titles()[metric]} {after} on the test, {before} without mirror images:"
        f" {told(found, 'test images')}; an answer takes {factor:.1f} times as long"
    )
    return {
        "metric": metric,
        "without": without.metrics[metric],
        "with": averaged.metrics[metric],
        "compared": found,
        "times_as_long": round(factor, 2),
    }


@torch.no_grad()
def _times_as_long(context: TrainingContext, classifier: Classifier, data: ImageData) -> float:
    scores, dataset = logits_of(context, classifier), data.dataset("test")
    images = torch.stack([dataset[0, index][0] for index in range(min(_BATCH, len(dataset)))])
    both = mirrored(scores)

    def seconds(compute: Callable[[torch.Tensor], torch.Tensor]) -> float:
        started = time.perf_counter()
        compute(images)
        return time.perf_counter() - started

    with autocast(context.device, context.precision):
        seconds(both)  # the first call allocates
        return median(seconds(both) / seconds(scores) for _ in range(_ROUNDS))
