"""The whole check of a folder of images before anything is trained on it: its files, and what the
features of a frozen backbone show."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from breedlab import hardware
from breedlab.config import validate
from breedlab.config.compose import load
from breedlab.console import note, progress, warn
from breedlab.data.check import Report
from breedlab.data.fixes import COPY_OF, OUTLIER, joined
from breedlab.data.folders import SPLITS
from breedlab.data.image_set import ImageSet
from breedlab.pipeline.proposal import propose
from breedlab.pipeline.suspects import Suspects, find_suspects

_FROZEN = ("model.freeze=backbone", "cache.mode=auto", "data.on_bad_file=skip")
"""What the pass over the images needs, whatever the words say of the training."""


def by_features(root: Path, report: Report, words: Sequence[str]) -> Suspects | None:
    """Return what the features of a frozen backbone show of all usable images; None, with a note,
    where there are none.

    The backbone is that of the training that suits the folder, which finds the features in its
    cache.

    Args:
        root: The folder.
        report: What the check of its files found.
        words: The user's overrides.

    Raises:
        BreedlabError: If a word does not suit the folder, or the backbone is not available.
    """
    splits = [split for split in SPLITS if report.images.splits[split]]
    if "train" not in splits or len(report.images.splits["train"]) < 2:
        note("no features: there are too few usable training images")
        return None
    proposal = propose(root, report, words, gpu=False)
    config = validate(load([*proposal.words, *words, *_FROZEN]))
    hardware.heed()
    with progress("loading PyTorch"):
        from breedlab.training.preparation import prepare
        from breedlab.training.start_checks import concerns

        context = prepare(config, report)
    note(config.conceal(f"{config.model.name}, weights {config.model.weights}, frozen"))
    for text in concerns(context):
        warn(text)
    features = context.features(config, splits)
    if features is None:
        return None
    return find_suspects(features, report.images, splits, config.seed)


def rows(
    images: ImageSet, report: Report, suspects: Suspects | None
) -> Iterator[dict[str, object]]:
    """Yield the rows of a list of fixes: files that cannot be used, then what `Suspects.rows`
    yields, then images unlike the rest by size or brightness, then copies by their hash.

    Args:
        images: All of the folder.
        report: What the check of their files found.
        suspects: By the features; None without them.
    """
    places = {image.path: (split, image) for split in SPLITS for image in images.splits[split]}

    def row(path: Path, why: str) -> dict[str, object]:
        split, image = places[path]
        return {
            "file": os.path.relpath(path, images.root),
            "split": split,
            "label": joined([images.classes[label] for label in image.classes]),
            "suggested": "",
            "confidence": "",
            "why": why,
        }

    for finding in (*report.bad, *report.conflicts, *report.shared):
        yield row(finding.path, finding.reason)
    listed = set()
    for each in suspects.rows(images) if suspects is not None else ():
        listed.add((each["file"], each["why"]))
        yield each
    for odd in report.odd:
        for path, detail in zip(odd.paths, odd.details, strict=True):
            yield row(path, f"{OUTLIER}: {odd.what}{detail}")
    for pair in report.near:
        again = row(pair.second, f"{COPY_OF}{os.path.relpath(pair.first, images.root)}")
        if (again["file"], again["why"]) not in listed:
            yield again
