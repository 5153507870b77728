"""Labels that are probably wrong, images unlike all others, and images nearly the same as another:
those that a user should look at, by the features of a frozen backbone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from breedlab.config import Config
from breedlab.console import note, progress
from breedlab.data.check import Report
from breedlab.data.fixes import COPY_OF, LABEL, NONE, OUTLIER, REMOVE, joined, write_fixes
from breedlab.data.folders import SPLITS, listed
from breedlab.data.image_set import ImageSet, LabeledImage
from breedlab.evaluation.copies import MOST, copies
from breedlab.evaluation.label_doubts import doubts, out_of_fold_labels
from breedlab.evaluation.label_errors import (
    FOLDS,
    can_judge,
    out_of_fold,
    suspects,
    worth_a_look,
)
from breedlab.evaluation.outliers import outliers
from breedlab.names import counted
from breedlab.training.context import TrainingContext
from breedlab.training.folds import fold_numbers

FILE = "fixes.csv"
_SPLITS = ("train", "valid")
_MOST = 10_000_000_000
"""Images times features times classes: with more, the regressions would take longer than a training
does."""
_MOST_FEATURES = 300_000_000
"""Images times features: that many take 1.2 GB of memory, several times over."""


@dataclass(frozen=True)
class Doubtful:
    """Labels to look at.

    Attributes:
        listed: Images, the most suspect first.
        wrong: The image of each label that is probably wrong; all of them are listed.
        suggested: The label or labels of each image by a model of the others.
        confidence: How sure that model is, for each image.
        unjudged: Why no label can be doubted; else empty.
        few: Classes with too few images to be judged.
    """

    listed: Sequence[int]
    wrong: Sequence[int]
    suggested: Sequence[str]
    confidence: Sequence[float]
    unjudged: str = ""
    few: Sequence[str] = ()


@dataclass(frozen=True)
class Suspects:
    """What a user should look at.

    Attributes:
        images: The images that were judged.
        splits: Of each, its split.
        labels: Those to look at.
        outliers: Images unlike all others, the farthest first. They are not among the labels to
            look at: a model of the others can say little of theirs.
        copies: Images that are nearly the same as an earlier one, with that one.
    """

    images: Sequence[LabeledImage]
    splits: Sequence[str]
    labels: Doubtful
    outliers: Sequence[int]
    copies: Sequence[tuple[int, int]]

    def rows(self, image_set: ImageSet) -> Iterator[dict[str, object]]:
        """Yield the rows of a list of fixes: labels, then outliers, then copies."""
        for index in self.labels.listed:
            yield self._row(image_set, index, LABEL)
        for index in self.outliers:
            yield self._row(image_set, index, OUTLIER)
        for index, other in self.copies:
            name = os.path.relpath(self.images[other].path, image_set.root)
            yield self._row(image_set, index, f"{COPY_OF}{name}")

    def _row(self, image_set: ImageSet, index: int, why: str) -> dict[str, object]:
        image = self.images[index]
        return {
            "file": os.path.relpath(image.path, image_set.root),
            "split": self.splits[index],
            "label": joined([image_set.classes[label] for label in image.classes]),
            "suggested": self.labels.suggested[index],
            "confidence": round(self.labels.confidence[index], 4),
            "why": why,
        }


def list_suspects(directory: Path, context: TrainingContext, config: Config) -> None:
    """Write a run's `fixes.csv`: images with labels that a model of the other images contradicts,
    the worst first, then images unlike all others, then those nearly the same as another. A list
    that is there, as in a resumed run, stays as it is: it may have been edited.

    It is for frozen backbones whose features are cached: the features of a network that was trained
    on an image agree with its label, right or wrong. Nothing is written without them, or with too
    many images and classes.

    Args:
        directory: The run's.
        context: Of the run.
        config: Of the training to come.
    """
    file = directory / FILE
    if file.exists() or config.model.freeze != "backbone":
        return
    activations = context.activations(context.classifier(config), config)
    if activations is None:
        return
    images = context.report.images
    parts = [activations.train[0], activations.valid]
    found = find_suspects(parts, images, _SPLITS, config.seed)
    if found is None:
        return
    write_fixes(file, listed_rows(images, context.report, found))
    _describe(file, found, images.multi_label)


def listed_rows(
    images: ImageSet, report: Report, suspects: Suspects | None
) -> Iterator[dict[str, object]]:
    """Yield the rows of a list of fixes: what `Suspects.rows` yields, then images unlike the rest
    by size or brightness, then copies by their hash, of which the test split may have some.

    Args:
        images: The images.
        report: What the check of their files found.
        suspects: By the features; None without them.
    """
    listed = set[tuple[str, str]]()
    for row in suspects.rows(images) if suspects is not None else ():
        listed.add((str(row["file"]), str(row["why"])))
        yield row
    copied = {file for file, why in listed if why.startswith(COPY_OF)}
    reasons = [
        (path, f"{OUTLIER}: {odd.what}{detail}")
        for odd in report.odd
        for path, detail in zip(odd.paths, odd.details, strict=True)
    ]
    for pair in report.near:
        first, second = (os.path.relpath(path, images.root) for path in (pair.first, pair.second))
        if second not in copied:  # one row for each, however many others it is a copy of
            copied.add(second)
            reasons.append((pair.second, f"{COPY_OF}{first}"))
    yield from rows_of_files(reasons, images)


def rows_of_files(
    reasons: Iterable[tuple[Path, str]], images: ImageSet
) -> Iterator[dict[str, object]]:
    """Yield the rows of files that no model has judged.

    Args:
        reasons: Files, and why each is listed.
        images: The images, with these files.
    """
    places = {image.path: (split, image) for split in SPLITS for image in images.splits[split]}
    for path, why in reasons:
        split, image = places[path]
        yield {
            "file": os.path.relpath(path, images.root),
            "split": split,
            "label": joined([images.classes[label] for label in image.classes]),
            "suggested": "",
            "confidence": "",
            "why": why,
        }


def find_suspects(
    parts: Sequence[torch.Tensor], image_set: ImageSet, splits: Sequence[str], seed: int
) -> Suspects | None:
    """Return what to look at; None, with a note, if there are too many images and classes, or if
    features are not vectors.

    Args:
        parts: The features of each split, (n, width), in memory or mapped.
        image_set: The images.
        splits: Which of their splits.
        seed: Decides the folds of multi-label images.
    """
    if any(part.ndim != 2 for part in parts):
        return None
    count = sum(part.numel() for part in parts)
    if count > _MOST_FEATURES or count * len(image_set.classes) > _MOST:
        note("no search for wrong labels: there are too many images and classes")
        return None
    features = torch.cat([part.float() for part in parts])
    images = [image for split in splits for image in image_set.splits[split]]
    split_of = [split for split in splits for _ in image_set.splits[split]]
    judge = _several if image_set.multi_label else _single
    with progress("looking for wrong labels"):
        doubtful = judge(features, images, image_set.classes, seed)
        # features that cannot tell the classes do not show what images have in common either
        is_compared = not doubtful.unjudged and len(features) <= MOST
        pairs = copies(features) if is_compared else []
        unlike = outliers(features).tolist()
    if len(features) > MOST:
        note(f"no search for copies by features: there are more than {MOST:,} images")
    odd = {*unlike}
    alike = [index for index in doubtful.listed if index not in odd]
    listed = {*alike}
    wrong = [index for index in doubtful.wrong if index in listed]
    doubtful = replace(doubtful, listed=alike, wrong=wrong)
    return Suspects(images, split_of, doubtful, unlike, pairs)


def _single(
    features: torch.Tensor, images: Sequence[LabeledImage], classes: Sequence[str], _seed: int
) -> Doubtful:
    """Judge the one class of each image, where its class has enough images."""
    labels = torch.tensor([image.label for image in images])
    counts = torch.bincount(labels, minlength=len(classes))
    enough = counts >= FOLDS
    small = (~enough & (counts > 0)).nonzero().flatten().tolist()
    few = [f"{classes[label]} ({int(counts[label])})" for label in small]
    suggested = [classes[label] for label in labels.tolist()]
    confidence = [0.0] * len(images)
    if int(enough.sum()) < 2:
        unjudged = f"fewer than two classes have {FOLDS} images, too few to doubt a label"
        return Doubtful([], [], suggested, confidence, unjudged, few)
    judged, names = enough[labels].nonzero()[:, 0], enough.nonzero()[:, 0]
    own = (enough.cumsum(0) - 1)[labels[judged]]
    probabilities = out_of_fold(features[judged], own)
    unjudged = ""
    if not can_judge(probabilities, own):
        right = float((probabilities.argmax(1) == own).float().mean())
        unjudged = (
            f"the frozen features tell only {right:.0%} of the labels right, too few to doubt any"
        )
    sure, likeliest = probabilities.max(1)
    for index, label, share in zip(judged.tolist(), names[likeliest], sure.tolist(), strict=True):
        suggested[index], confidence[index] = classes[label], share
    return Doubtful(
        judged[worth_a_look(probabilities, own)].tolist(),
        judged[suspects(probabilities, own)].tolist(),
        suggested,
        confidence,
        unjudged,
        few,
    )


def _several(
    features: torch.Tensor, images: Sequence[LabeledImage], classes: Sequence[str], seed: int
) -> Doubtful:
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
    return Doubtful(
        doubted.listed(),
        doubted.probable.nonzero()[:, 0].tolist(),
        labels,
        confidence.tolist(),
        unjudged,
    )


def unjudged_labels(doubtful: Doubtful) -> Iterator[str]:
    """Yield which labels could not be judged, and why; nothing if all were."""
    if doubtful.unjudged:
        yield f"{doubtful.unjudged}: no labels are listed as wrong"
    elif doubtful.few:
        yield (
            f"labels of classes with fewer than {FOLDS} images are not judged:"
            f" {listed(doubtful.few)}"
        )


def how_to_fix(multi_label: bool) -> str:
    """Return what may be filled in for a wrong label."""
    return f"labels such as cat|dog, {NONE}" if multi_label else "a class"


def _describe(file: Path, found: Suspects, multi_label: bool) -> None:
    for text in unjudged_labels(found.labels):
        note(text)
    if wrong := len(found.labels.wrong):
        # an image with several labels has many of them, and chance alone makes some look doubtful
        verb = "may be" if multi_label else "is probably" if wrong == 1 else "are probably"
        note(
            f"{counted(wrong, 'label')} {verb} wrong; {file} lists suspects, the worst first: fill"
            f" in fix ({how_to_fix(multi_label)}, or {REMOVE}), and train with data.fixes={FILE}"
        )
    leave_out = f"to leave one out, put {REMOVE} in its column fix"
    if found.outliers:
        note(
            f"{_are(found.outliers)} unlike all others; {file} lists them as {OUTLIER}: {leave_out}"
        )
    if found.copies:
        note(
            f"{_are(found.copies)} nearly the same as another, by the network's features; {file}"
            f" lists both: {leave_out}"
        )


def _are(images: Sequence[Any]) -> str:
    return "1 image is" if len(images) == 1 else f"{len(images):,} images are"
