"""Labels that are probably wrong, and images unlike all others, listed in a run's fixes.csv for a
person to look at."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from breedlab.config import Config
from breedlab.console import note, progress
from breedlab.data.fixes import LABEL, OUTLIER, REMOVE, write_fixes
from breedlab.data.module import PhotoData
from breedlab.evaluation.label_errors import (
    FOLDS,
    can_judge,
    out_of_fold,
    suspects,
    worth_a_look,
)
from breedlab.evaluation.outliers import outliers
from breedlab.models.classifier import Classifier
from breedlab.training.context import TrainingContext

FILE = "fixes.csv"
_SPLITS = ("train", "valid")
_MOST = 10_000_000_000
"""Images times features times classes: of more, the regressions would take longer than the training
did."""


def list_suspects(
    directory: Path,
    classifier: Classifier,
    prepared: TrainingContext,
    config: Config,
    data: PhotoData,
) -> None:
    """Write a run's `fixes.csv`: images whose own class is not the likeliest by what others teach,
    the worst first, then those unlike all others.

    It is for frozen backbones whose features are cached: those of a network that was trained on an
    image agree with its label, right or wrong.

    Args:
        directory: The run's.
        classifier: Trained.
        prepared: Of the run.
        config: Of the training.
        data: The images.
    """
    if config.data.multi_label:
        note("no search for wrong labels: images may have several")
        return
    photos = [photo for split in _SPLITS for photo in data.photos.splits[split]]
    split_of = [split for split in _SPLITS for _ in data.photos.splits[split]]
    labels = torch.tensor([photo.label for photo in photos])
    activations = (
        prepared.activations(classifier, config) if config.model.freeze == "backbone" else None
    )
    enough = bool((torch.bincount(labels, minlength=len(data.photos.classes)) >= FOLDS).all())
    if activations is None or activations.valid.ndim != 2 or not enough:
        return
    if len(labels) * activations.valid.shape[1] * len(data.photos.classes) > _MOST:
        note("no search for wrong labels: there are too many images and classes")
        return
    with progress("looking for wrong labels"):
        features = torch.cat([activations.train[0].float(), activations.valid.float()])
        probabilities = out_of_fold(features, labels)
        suspicious, likely = worth_a_look(probabilities, labels), suspects(probabilities, labels)
        unlike = outliers(features)
    classes = data.photos.classes

    def row(index: int, why: str) -> dict[str, object]:
        return {
            "file": os.path.relpath(photos[index].path, data.photos.root),
            "split": split_of[index],
            "label": classes[photos[index].label],
            "suggested": classes[int(probabilities[index].argmax())],
            "confidence": round(float(probabilities[index].max()), 4),
            "why": why,
        }

    far = [index for index in unlike.tolist() if index not in {*suspicious}]
    rows = [*(row(index, LABEL) for index in suspicious), *(row(index, OUTLIER) for index in far)]
    write_fixes(directory / FILE, rows)
    if not can_judge(probabilities, labels):
        right = float((probabilities.argmax(1) == labels).float().mean())
        note(
            f"the frozen features tell only {right:.0%} of the labels right, too few to doubt any:"
            f" {directory / FILE} lists no labels that may be wrong"
        )
    elif len(likely):
        several = "1 label is" if len(likely) == 1 else f"{len(likely):,} labels are"
        note(
            f"{several} probably wrong; {directory / FILE} lists suspects, the"
            f" worst first: fill in fix (a class, or remove), and train with data.fixes={FILE}"
        )
    if far:
        several = "1 image is" if len(far) == 1 else f"{len(far):,} images are"
        note(
            f"{several} unlike all others; {directory / FILE} lists them as {OUTLIER}: to leave one"
            f" out, put {REMOVE} in its column fix"
        )
