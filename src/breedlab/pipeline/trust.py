"""What an archive's answers say besides scores, derived from validation: calibrated probabilities,
prediction sets, and whether an image is unknown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from breedlab.config import Config
from breedlab.console import note, progress
from breedlab.data.module import ImageData
from breedlab.evaluation import conformal, novelty
from breedlab.evaluation.figures import rate_interval, set_size
from breedlab.models.classifier import Classifier
from breedlab.models.novelty import Novelty
from breedlab.pipeline.final_test import HeldOut
from breedlab.serving.model import Model
from breedlab.training.context import TrainingContext
from breedlab.training.inference import features as features_of


def answers_of(
    classifier: Classifier,
    context: TrainingContext,
    config: Config,
    data: ImageData,
    decisions: Mapping[str, Any],
    valid_features: torch.Tensor | None = None,
) -> tuple[dict[str, Any], Novelty | None]:
    """Return `answers` of model.json as far as the trained network decides them, and what detects
    unknown images; None if nothing does.

    Args:
        classifier: Trained.
        context: Of its run.
        config: Of its training.
        data: The images.
        decisions: As in `FinalTest`.
        valid_features: The head's inputs for the validation images; None to compute them.
    """
    answers: dict[str, Any] = dict(decisions)
    if config.serving.unknown == "off":
        return answers, None
    if (images := len(data.images.splits["valid"])) < novelty.FEWEST_IMAGES:
        note(
            f"answers do not say which images are unknown: that takes at least"
            f" {novelty.FEWEST_IMAGES} validation images, and there are {images}"
        )
        return answers, None
    labels, valid_labels = data.labels("train"), data.labels("valid")
    # all multi-label images are of one kind: no class can be held out as unknown
    if config.data.multi_label:
        labels, valid_labels = (torch.zeros(len(each)).long() for each in (labels, valid_labels))
    indices = novelty.spread_indices(labels)
    with progress("learning to tell the unknown"):
        features = features_of(context, classifier, config, "train", indices)
        if features.ndim != 2 or not features.isfinite().all():
            return answers, None
        valid = valid_features
        if valid is None:
            every = torch.arange(len(valid_labels))
            valid = features_of(context, classifier, config, "valid", every)
        unknown, separated = novelty.choose((features, labels[indices]), (valid, valid_labels))
    answers["unknown"] = {
        "method": unknown.method,
        "width": unknown.width,
        "row": config.serving.unknown == "row",
        "auroc_of_held_out_classes": {
            method: round(value, 4) for method, value in separated.items()
        },
        **novelty.threshold_of(unknown.distance(valid)),
    }
    return answers, unknown


def settle(
    folder: Path,
    answers: Mapping[str, Any],
    data: ImageData,
    device: torch.device,
    held_out: HeldOut | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `answers` with the prediction sets' and the unknown images' thresholds that fit the
    archive's own engine, and how they do on the test.

    Int8 and bf16 move features a little, and with them the distances that the threshold is about.

    Args:
        folder: The archive's content, its engine recorded.
        answers: From `answers_of`.
        data: Validation decides, the test is only measured.
        device: Where the model computes.
        held_out: The validation results of the network before a refit; the refit network has seen
            those images and is overconfident about them. None without a refit.
    """
    several = data.images.multi_label
    if several and "unknown" not in answers:
        return dict(answers), {}
    model, settled, measured = Model(folder, device), dict(answers), {}
    rows, labels = _rows(model, data, "valid")
    test_rows, test_labels = _rows(model, data, "test")
    count = len(model.classes)
    # multi-label images have no single true class for a set to contain
    if not several and len(labels) >= conformal.FEWEST_IMAGES:
        least = conformal.least_probability(*(held_out or (rows[:, :count].softmax(1), labels)))
        settled["sets"] = {"coverage": conformal.COVERAGE, "least": least}
        measured["sets"] = conformal.sets_measured(
            test_rows[:, :count].softmax(1), test_labels, least
        )
    if "unknown" in settled:
        settled["unknown"] = {**settled["unknown"], **novelty.threshold_of(rows[:, count])}
        measured["unknown"] = novelty.measured(test_rows[:, count], settled["unknown"])
        measured["unknown"]["method"] = settled["unknown"]["method"]
    return settled, measured


def _rows(model: Model, data: ImageData, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a model's engine gives for the images of a split, and their labels."""
    total, rows = len(data.images.splits[split]), []
    with progress(f"predicting {split}") as report:
        for images, _ in data.view_dataloader(split, 0):
            rows.append(model.engine.scores(images))
            report(sum(map(len, rows)), total)
    return torch.cat(rows), data.labels(split)


def in_words(measured: Mapping[str, Any]) -> list[str]:
    """Return the test's results on sets and unknown images, one line each."""
    lines = []
    if sets := measured.get("sets"):
        span = rate_interval(sets["coverage"], sets["images"])
        lines.append(
            f"{conformal.COVERAGE:.0%} sets: {sets['coverage']:.1%} of the test images' sets"
            f" contain the true class ({span}); {set_size(sets)} classes on average"
        )
    if unknown := measured.get("unknown"):
        span = rate_interval(unknown["false_alarms"], unknown["images"])
        lines.append(
            f"unknown images: {unknown['false_alarms']:.1%} false alarms on the test ({span})"
        )
    return lines
