"""Labels that are probably wrong, images unlike all others, and images nearly the same as another,
listed in a run's fixes.csv for a person to look at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from breedlab.config import Config
from breedlab.console import note, progress
from breedlab.data.fixes import COPY_OF, LABEL, NONE, OUTLIER, REMOVE, joined, write_fixes
from breedlab.data.image_set import LabeledImage
from breedlab.data.module import ImageData
from breedlab.evaluation.copies import copies
from breedlab.evaluation.label_doubts import doubts, out_of_fold_labels
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
from breedlab.training.folds import fold_numbers

FILE = "fixes.csv"
_SPLITS = ("train", "valid")
_MOST = 10_000_000_000
"""Images times features times classes: with more, the regressions would take longer than the
training did."""


def list_suspects(
    directory: Path,
    classifier: Classifier,
    context: TrainingContext,
    config: Config,
    data: ImageData,
) -> None:
    """Write a run's `fixes.csv`: images with labels that a model of the other images contradicts,
    the worst first, then images unlike all others, then those nearly the same as another.

    It is for frozen backbones whose features are cached: the features of a network that was trained
    on an image agree with its label, right or wrong. Nothing is written without them, with too many
    images and classes, or if a class has too few images.

    Args:
        directory: The run's.
        classifier: Trained.
        context: Of the run.
        config: Of the training.
        data: The images.
    """
    images = [image for split in _SPLITS for image in data.images.splits[split]]
    activations = (
        context.activations(classifier, config) if config.model.freeze == "backbone" else None
    )
    if activations is None or activations.valid.ndim != 2:
        return
    if len(images) * activations.valid.shape[1] * len(data.images.classes) > _MOST:
        note("no search for wrong labels: there are too many images and classes")
        return
    features = torch.cat([activations.train[0].float(), activations.valid.float()])
    judge = _several if config.data.multi_label else _single
    with progress("looking for wrong labels"):
        doubtful = judge(features, images, data.images.classes, config.seed)
        if doubtful is None:
            return
        # features that cannot tell the classes do not show what images have in common either
        pairs = [] if doubtful.unjudged else copies(features)
        unlike = outliers(features)
    _write(directory / FILE, doubtful, unlike.tolist(), pairs, images, data)


@dataclass(frozen=True)
class _Doubtful:
    """Labels to look at.

    Attributes:
        listed: Images, the most suspect first.
        wrong: How many labels are probably wrong.
        suggested: The label or labels of each image by a model of the others.
        confidence: How sure that model is, for each image.
        unjudged: Why no label can be doubted; else empty.
    """

    listed: Sequence[int]
    wrong: int
    suggested: Sequence[str]
    confidence: Sequence[float]
    unjudged: str = ""


def _single(
    features: torch.Tensor, images: Sequence[LabeledImage], classes: Sequence[str], _seed: int
) -> _Doubtful | None:
    """Judge the one class of each image; None where a class has too few images for that."""
    labels = torch.tensor([image.label for image in images])
    if not bool((torch.bincount(labels, minlength=len(classes)) >= FOLDS).all()):
        return None
    probabilities = out_of_fold(features, labels)
    unjudged = ""
    if not can_judge(probabilities, labels):
        right = float((probabilities.argmax(1) == labels).float().mean())
        unjudged = (
            f"the frozen features tell only {right:.0%} of the labels right, too few to doubt any"
        )
    confidence, likeliest = probabilities.max(1)
    return _Doubtful(
        worth_a_look(probabilities, labels),
        len(suspects(probabilities, labels)),
        [classes[index] for index in likeliest.tolist()],
        confidence.tolist(),
        unjudged,
    )


def _several(
    features: torch.Tensor, images: Sequence[LabeledImage], classes: Sequence[str], seed: int
) -> _Doubtful:
    """Judge each label of each image."""
    targets = torch.zeros(len(images), len(classes))
    for index, image in enumerate(images):
        targets[index, list(image.classes)] = 1
    fold = fold_numbers(targets, [image.group for image in images], FOLDS, seed)
    doubted = doubts(out_of_fold_labels(features, targets, fold), targets)
    suggested = (targets > 0) ^ doubted.worth_a_look
    # if a label is doubted: how probable it is that the most doubtful one is wrong; else how
    # probable it is that the most doubtful one is right
    least = doubted.own.min(1).values
    confidence = torch.where(doubted.worth_a_look.any(1), 1 - least, least)
    labels = []
    for row in suggested:
        labels.append(joined([classes[index] for index in row.nonzero().flatten()]))
    unjudged = ""
    if not bool(doubted.judged.any()):
        unjudged = "the frozen features tell no label well enough to doubt one"
    return _Doubtful(
        doubted.listed(),
        int(doubted.probable.sum()),
        labels,
        confidence.tolist(),
        unjudged,
    )


def _write(
    file: Path,
    doubtful: _Doubtful,
    unlike: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    images: Sequence[LabeledImage],
    data: ImageData,
) -> None:
    classes = data.images.classes
    split_of = [split for split in _SPLITS for _ in data.images.splits[split]]

    def name(index: int) -> str:
        return os.path.relpath(images[index].path, data.images.root)

    def row(index: int, why: str) -> dict[str, object]:
        image = images[index]
        return {
            "file": name(index),
            "split": split_of[index],
            "label": joined([classes[label] for label in image.classes]),
            "suggested": doubtful.suggested[index],
            "confidence": round(doubtful.confidence[index], 4),
            "why": why,
        }

    far = [index for index in unlike if index not in {*doubtful.listed}]
    rows = [
        *(row(index, LABEL) for index in doubtful.listed),
        *(row(index, OUTLIER) for index in far),
        *(row(index, f"{COPY_OF}{name(other)}") for index, other in pairs),
    ]
    write_fixes(file, rows)
    if doubtful.unjudged:
        note(f"{doubtful.unjudged}: {file} lists no labels that may be wrong")
    elif doubtful.wrong:
        if data.images.multi_label:
            # an image has many labels, and chance alone makes some of them look doubtful
            verb, fixes = "may be", f"labels such as cat|dog, {NONE}"
        else:
            verb, fixes = "is probably" if doubtful.wrong == 1 else "are probably", "a class"
        labels = "1 label" if doubtful.wrong == 1 else f"{doubtful.wrong:,} labels"
        note(
            f"{labels} {verb} wrong; {file} lists suspects, the worst first: fill in fix"
            f" ({fixes}, or {REMOVE}), and train with data.fixes={FILE}"
        )
    if far:
        several = "1 image is" if len(far) == 1 else f"{len(far):,} images are"
        note(
            f"{several} unlike all others; {file} lists them as {OUTLIER}: to leave one"
            f" out, put {REMOVE} in its column fix"
        )
    if pairs:
        several = "1 image is" if len(pairs) == 1 else f"{len(pairs):,} images are"
        note(
            f"{several} nearly the same as another, by the network's features; {file} lists both:"
            f" to leave one out, put {REMOVE} in its column fix"
        )
